"""The part of a connection that its consumer may use."""

import asyncio
from datetime import datetime

from connections.close_codes import (
    CLOSE_REASONS,
    INTERNAL_ERROR,
    CloseReason,
    Reconnect,
)
from connections.connection.events import cut_reason, make_send, require_code
from connections.connection.sender import AsgiSender
from connections.hub.connection import LiveConnection
from connections.limits import Limits


class ConsumerConnection:
    """
    The connection of a consumer: its `self.connection`.

    It exists from the handshake on. All methods may be called after the
    connection has ended, when they do nothing.
    """

    __slots__ = ("_loop", "_sender", "live")

    def __init__(
        self,
        live: LiveConnection,
        sender: AsgiSender,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._sender = sender
        self._loop = loop
        self.live = live
        """The node's record of the connection, for use in the thread of the event
        loop. Its attributes are not stable between minor versions."""

    @property
    def id(self) -> str:
        """The id in the header X-Connection-Id, in logs and on the dashboard."""
        return self.live.connection_id

    @property
    def client_id(self) -> str:
        """The client that the connection belongs to; limits count per client."""
        return self.live.client_id

    @property
    def limits(self) -> Limits:
        """The limits of the connection, as get_limits() returned them."""
        return self.live.limits

    @property
    def opened_at(self) -> datetime:
        """The moment of accept(), in UTC; before it, of the handshake."""
        return self.live.opened_at

    def end(self, close_code: int, reason: str) -> None:
        """
        End the connection with a close code and a reason, from any thread.

        Returns at once. A reason of the registry (connections.close_codes)
        tells the client what to do next; any other, that it should not return.

        Raises:
            TypeError, ValueError: the code may not be sent, or the reason is no
                text; the connection ends with 4500.
        """
        try:
            close_code, reason = require_code(close_code), cut_reason(reason)
        except (TypeError, ValueError):
            self._loop.call_soon_threadsafe(self.live.end, INTERNAL_ERROR)
            raise
        close_reason = CLOSE_REASONS.get(reason)
        if close_reason is None or close_reason.code != close_code:
            close_reason = CloseReason(
                code=close_code, reason=reason, reconnect=Reconnect.NEVER
            )
        self._loop.call_soon_threadsafe(self.live.end, close_reason)

    async def send(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        *,
        compress: bool = True,
    ) -> None:
        """
        Send a message that is no activity, such as the answer to a heartbeat.

        The consumer's own send() restarts the idle timeout and counts the
        message; this method does neither. It sends nothing before accept() and
        after the end. `compress` is that of send(). Synchronous consumers call
        async_to_sync(connection.send).

        Raises:
            ValueError: there is neither text nor bytes.
        """
        await self._sender.send_own(make_send(text_data, bytes_data, compress))
