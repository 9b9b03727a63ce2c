"""Keep the roles of the connections of one node in their sessions."""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from connections import close_codes
from connections.background import BackgroundTasks
from connections.exceptions import DatabaseUnavailable
from connections.hub.connection import LiveConnection
from connections.storage.database import Database
from sessions_history.fan_out import FanOut
from sessions_history.member_models import Role
from sessions_history.roles import read_roles
from sessions_history.tails import Tail

logger = logging.getLogger(__name__)

_CHANGED = "members"


@dataclass(slots=True, eq=False)
class Membership:
    """The role of one connection in its session."""

    tail: Tail
    connection: LiveConnection
    end: Callable[[close_codes.CloseReason], object] | None
    """Called when the role is lost; None once the connection has left."""

    role: Role | None = None
    """None until the session was read."""

    owner_id: str = ""
    """The client id of the owner of the session."""

    is_outdated: bool = False
    """True if the members changed while the session was read."""

    check_number: int = 0
    """The newest check that counts; what an earlier one reads is out of date."""


class Memberships:
    """
    The roles of the attached connections of one node.

    They are read again when a hint says that the members of a session changed, and
    in each check of positions, because a hint may be lost.
    """

    def __init__(self, database: Database, fan_out: FanOut) -> None:
        self._database = database
        self._fan_out = fan_out
        self._by_session: dict[str, set[Membership]] = {}
        self._checks = 0
        self._tasks = BackgroundTasks()
        fan_out.listeners[_CHANGED] = self._check_soon

    def join(
        self,
        tail: Tail,
        connection: LiveConnection,
        end: Callable[[close_codes.CloseReason], object],
    ) -> Membership:
        """Add a connection before its role is read, so that no change is missed."""
        membership = Membership(tail, connection, end, check_number=self._checks)
        self._by_session.setdefault(tail.session_id, set()).add(membership)
        return membership

    def leave(self, membership: Membership) -> None:
        """Undo join(); a second call does nothing."""
        membership.end = None
        session_id = membership.tail.session_id
        others = self._by_session.get(session_id, set())
        others.discard(membership)
        if not others:
            self._by_session.pop(session_id, None)

    def announce(self, session_id: str) -> None:
        """Make all nodes read the roles in a session, whose members have changed."""
        self._check_soon(session_id)
        self._fan_out.send_event(session_id, _CHANGED, True)

    async def check_all(self) -> None:
        """
        Read the roles of connections in sessions of others, or that others own now.

        Raises:
            DatabaseUnavailable: nothing was read; the next check tries again.
        """
        wanted = {
            session_id
            for session_id, some in self._by_session.items()
            for one in some
            if one.owner_id != one.connection.client_id
            or one.tail.owner_id not in ("", one.owner_id)
        }
        await self._check(wanted)

    async def close(self) -> None:
        """Read nothing more."""
        await self._tasks.stop()

    def _check_soon(self, session_id: str, event: object = None) -> None:
        if session_id in self._by_session:
            self._tasks.start(self._check_one(session_id), "Reading the roles")

    async def _check_one(self, session_id: str) -> None:
        try:
            await self._check([session_id])
        except DatabaseUnavailable as exc:
            logger.debug("The next check reads the roles in %s: %s", session_id, exc)

    async def _check(self, session_ids: Collection[str]) -> None:
        """Read the roles in sessions, and end connections that have none any more."""
        wanted = [one for one in session_ids if one in self._by_session]
        if not wanted:
            return
        for session_id in wanted:
            for one in self._by_session[session_id]:
                one.is_outdated |= one.role is None
        self._checks += 1
        number = self._checks
        roles = await self._database.read(read_roles, wanted)
        for session_id in wanted:
            # Of a session without a row the check of positions decides.
            owner_id = roles.owners.get(session_id)
            for one in list(self._by_session.get(session_id, ())):
                if one.role is None or owner_id is None or number <= one.check_number:
                    continue
                one.check_number = number
                connection = one.connection
                role = roles.find(session_id, connection.client_id, connection.user_id)
                if role is None and one.end is not None:
                    one.end(close_codes.FORBIDDEN)
                elif role is not None:
                    one.role, one.owner_id = role, owner_id
