"""Keep who is present in a client's session, and who types there."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.exceptions import ConnectionClosed

from connections.client.events import Event, MembersChanged, TypingChanged
from connections.client.tokens import Sleep

_ASK_AGAIN_SECONDS = 5
_FORGET_SECONDS = 6
"""Typing that is not repeated for so long has ended: its end may be lost."""


class SessionPresence:
    """
    The members that are present in a session, for a client that asks for them.

    The server is asked after each hello and after a gap.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Awaitable[None]],
        emit: Callable[[Event], None],
        *,
        sleep: Sleep,
    ) -> None:
        self.members: dict[str, dict[str, Any]] = {}
        """The public data of each member."""
        self._send = send
        self._emit = emit
        self._sleep = sleep
        self._is_open = False
        self._is_unknown = False
        self._is_due = asyncio.Event()
        # The other connections that type, each with the task that forgets it.
        self._others: dict[str, asyncio.Task[None]] = {}

    async def set_typing(self, is_typing: bool) -> None:
        """
        Send the other connections of the session whether the user types here.

        Call it again every three seconds meanwhile. Without a connection, or with a
        server that has no presence, it does nothing.
        """
        if self._is_open:
            with contextlib.suppress(ConnectionClosed):
                await self._send({"type": "typing", "active": is_typing})

    async def run(self) -> None:
        """Ask who is present when that is due, while a connection is open."""
        try:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self._is_due.wait()
                    self._is_due.clear()
                    if self._is_unknown:
                        await self._sleep(_ASK_AGAIN_SECONDS)
                        self._is_unknown = False
                    await self._send({"type": "present"})
        finally:
            self._is_open = False
            for forgetting in self._others.values():
                forgetting.cancel()
            self._others.clear()

    def begin(self, hello: dict[str, Any]) -> None:
        """Ask a server that has presence."""
        self._is_open = "member" in hello
        if self._is_open:
            self._is_due.set()

    def take(self, message: dict[str, Any]) -> None:
        """Take a message about presence; ignore any other."""
        kind = message["type"]
        if kind == "presence.gap":
            self._is_due.set()
        elif kind == "typing":
            self._take_typing(message)
        elif kind == "present" and message["members"] is None:
            self._is_unknown = True
            self._is_due.set()
        elif kind in ("present", "presence.joined", "presence.left"):
            if kind == "present":
                self.members = {}
            for one in message["members"]:
                if kind == "presence.left":
                    self.members.pop(one["member"], None)
                else:
                    self.members[one["member"]] = one["data"]
            self._emit(MembersChanged(members=dict(self.members)))

    def _take_typing(self, message: dict[str, Any]) -> None:
        member, connection = message["member"], message["connection"]
        forgetting = self._others.pop(connection, None)
        if forgetting is not None:
            forgetting.cancel()
        if message["active"]:
            forget = self._forget(member, connection)
            self._others[connection] = asyncio.create_task(forget)
        if message["active"] is (forgetting is None):
            self._emit_typing(member, connection, is_typing=message["active"])

    async def _forget(self, member: str, connection: str) -> None:
        await self._sleep(_FORGET_SECONDS)
        del self._others[connection]
        self._emit_typing(member, connection, is_typing=False)

    def _emit_typing(self, member: str, connection: str, *, is_typing: bool) -> None:
        self._emit(
            TypingChanged(member=member, connection=connection, is_typing=is_typing)
        )
