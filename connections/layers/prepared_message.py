"""A message that is encoded once and sent to many connections."""

from collections.abc import Callable, Hashable

from connections.asgi import Message


class PreparedMessage:
    """
    One text or binary message, with its frames.

    All connections with equal parameters of their WebSocket share one frame: without
    an extension all share one; a compressed frame is made once for each set of
    negotiated parameters.
    """

    __slots__ = ("_frames", "event", "may_compress", "payload", "size_bytes")

    def __init__(self, content: str | bytes, *, compress: bool = True) -> None:
        """
        Encode the content; without compress it is sent as it is to every client.

        Raises:
            UnicodeEncodeError: the text has a surrogate, which UTF-8 cannot encode.
        """
        self.payload = content.encode() if isinstance(content, str) else content
        self.size_bytes = len(self.payload)
        key = "text" if isinstance(content, str) else "bytes"
        self.event: Message = {"type": "websocket.send", key: content}
        """The ASGI event, for servers that build frames themselves."""

        self.may_compress = compress
        if not compress:
            self.event["compress"] = False
        self._frames: dict[Hashable, bytes] = {}

    @property
    def is_text(self) -> bool:
        """Return True for a text message, False for a binary one."""
        return "text" in self.event

    def get_frame(
        self, parameters: Hashable, build: Callable[["PreparedMessage"], bytes]
    ) -> bytes:
        """Return the frame for a set of parameters; build() makes it the first time."""
        frame = self._frames.get(parameters)
        if frame is None:
            frame = self._frames[parameters] = build(self)
        return frame
