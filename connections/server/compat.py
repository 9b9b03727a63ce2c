"""
The undocumented names of daphne, Twisted and websockets that the server relies on.

No other module imports daphne or touches these names. The import of this module
fails with IncompatibleDependency when an installed version lacks one of them.
"""

import asyncio
import socket
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from connections.dependencies import ForeignName, require_names

Buffer = bytes | bytearray
MaskFunction = Callable[[Buffer, Buffer], bytes]

REQUIRED_NAMES = (
    # daphne.server installs the reactor that everything of Twisted imports: it is
    # imported before any other module.
    *(
        ForeignName("daphne", f"daphne.server:Server.{name}")
        for name in (
            "application_checker",
            "handle_reply",
            "kill_all_applications",
            "listen_error",
            "listen_success",
            "log_action",
            "protocol_connected",
            "protocol_disconnected",
            "stop",
            "timeout_checker",
        )
    ),
    *(
        ForeignName("daphne", f"daphne.http_protocol:WebRequest.{name}")
        for name in (
            "_response_started",
            "basic_error",
            "check_timeouts",
            "connectionLost",
            "finish",
            "handle_exception",
            "process",
        )
    ),
    ForeignName("daphne", "daphne.http_protocol:HTTPFactory.acceptableProtocols"),
    ForeignName("daphne", "daphne.access:AccessLogGenerator"),
    ForeignName("daphne", "daphne.cli:CommandLineInterface.server_class"),
    ForeignName("daphne", "daphne.management.commands.runserver:Command.server_cls"),
    ForeignName(
        "daphne", "daphne.management.commands.runserver:get_default_application"
    ),
    ForeignName("daphne", "daphne.utils:HEADER_NAME_RE"),
    ForeignName("daphne", "daphne.utils:INVALID_HEADER_VALUE_BYTES"),
    *(
        ForeignName("Twisted", f"twisted.web.http:HTTPChannel.{name}")
        for name in (
            "_handlingRequest",
            "_respondToBadRequestAndDisconnect",
            "allContentReceived",
            "allHeadersReceived",
            "headerReceived",
            "length",
            "lineLengthExceeded",
            "lineReceived",
            "pauseProducing",
            "persistent",
            "rawDataReceived",
            "requestDone",
            "requests",
            "resumeProducing",
            "writeSequence",
        )
    ),
    *(
        ForeignName("Twisted", f"twisted.web.http:Request.{name}")
        for name in ("content", "gotLength", "handleContentChunk", "requestReceived")
    ),
    *(
        ForeignName("Twisted", f"twisted.internet.abstract:FileDescriptor.{name}")
        for name in ("_tempDataBuffer", "_tempDataLen", "dataBuffer", "offset")
    ),
    ForeignName("Twisted", "twisted.internet.tcp:Connection.socket"),
    ForeignName(
        "Twisted", "twisted.protocols.policies:ProtocolWrapper.wrappedProtocol"
    ),
    ForeignName(
        "Twisted",
        "twisted.internet.asyncioreactor:AsyncioSelectorReactor._asyncioEventloop",
    ),
)
"""
Each name that the server uses or overrides, without which it would not work.

An override of a method that Twisted no longer calls would fail silently.
"""

require_names(REQUIRED_NAMES)

DaphneServer: Any = resolve_name("daphne.server:Server")
"""daphne/server.py: accepts connections and runs applications."""

DaphneRequest: Any = resolve_name("daphne.http_protocol:WebRequest")
"""daphne/http_protocol.py: translates one HTTP request to ASGI."""

DaphneFactory: Any = resolve_name("daphne.http_protocol:HTTPFactory")
"""daphne/http_protocol.py: makes a channel for each TCP connection."""

DaphneRunserver: Any = resolve_name("daphne.management.commands.runserver:Command")
"""daphne/management/commands/runserver.py: serves with the class in `server_cls`."""

AccessLogGenerator: Any = resolve_name("daphne.access:AccessLogGenerator")
"""daphne/access.py: writes a line to a stream for each request."""

import_application: Callable[[], Any] = resolve_name(
    "daphne.management.commands.runserver:get_default_application"
)
"""
daphne/management/commands/runserver.py: imports what ASGI_APPLICATION names.

Raises ImproperlyConfigured.
"""

HEADER_NAME_RE: Any = resolve_name("daphne.utils:HEADER_NAME_RE")
"""daphne/utils.py: the pattern of a valid header name."""

INVALID_HEADER_VALUE_BYTES: frozenset[int] = frozenset(
    resolve_name("daphne.utils:INVALID_HEADER_VALUE_BYTES")
)
"""daphne/utils.py: bytes that no header value may contain."""

_TwistedChannel: Any = resolve_name("twisted.web.http:HTTPChannel")
_ProtocolWrapper: Any = resolve_name("twisted.protocols.policies:ProtocolWrapper")


class PublicHttpChannel(_TwistedChannel):
    """twisted/web/http.py: HTTPChannel, with public names for two private ones."""

    @property
    def is_handling_request(self) -> bool:
        """True while a request is being answered; later bytes wait until then."""
        return bool(self._handlingRequest)

    @property
    def request_line(self) -> tuple[bytes, bytes]:
        """Method and target of the request whose head is complete."""
        return self._command, self._path

    @property
    def request_version(self) -> bytes:
        """The version of HTTP of that request."""
        version: bytes = self._version
        return version

    def set_target(self, target: bytes) -> None:
        """Replace the target of that request."""
        self._path = target

    def refuse_bad_request(self) -> None:
        """Answer a request head that cannot be parsed, and close the connection."""
        super()._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse_bad_request()


def has_response_started(request: Any) -> bool:
    """Return whether a DaphneRequest has taken http.response.start."""
    return bool(request._response_started)


def set_server_class(server_class: type) -> None:
    """Make daphne's command line build its server from a class (daphne/cli.py)."""
    command_line: Any = resolve_name("daphne.cli:CommandLineInterface")
    command_line.server_class = server_class


def get_event_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of the reactor (twisted/internet/asyncioreactor.py)."""
    reactor: Any = resolve_name("twisted.internet:reactor")
    loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop
    return loop


def find_descriptor(transport: Any) -> Any:
    """Return the TCP transport below TLS (twisted/protocols/policies.py)."""
    while isinstance(transport, _ProtocolWrapper):
        transport = transport.transport
    return transport


def count_unsent_bytes(transport: Any) -> int:
    """
    Return how many bytes wait in a TCP transport (twisted/internet/abstract.py).

    Bytes that OpenSSL holds, at most 64 kB, are not counted.
    """
    waiting: int = len(transport.dataBuffer) - transport.offset
    return waiting + int(transport._tempDataLen)


def detach_socket(transport: Any) -> tuple[socket.socket, bytes]:
    """
    Take the socket and the unsent bytes out of a TCP transport of Twisted's.

    The reactor forgets the transport, because it keeps only those that wait for
    events (twisted/internet/abstract.py, twisted/internet/tcp.py).
    """
    transport.stopReading()
    transport.stopWriting()
    unsent = transport.dataBuffer[transport.offset :] + b"".join(
        transport._tempDataBuffer
    )
    return socket.socket(fileno=transport.socket.detach()), unsent


def find_mask_function() -> MaskFunction | None:
    """
    Return the compiled masking of the websockets library, if it is installed.

    websockets/speedups.c: apply_mask(data, mask); RFC 6455, section 5.3.
    """
    try:
        apply_mask: MaskFunction = resolve_name("websockets.speedups:apply_mask")
    except (ImportError, AttributeError):
        return None
    return apply_mask
