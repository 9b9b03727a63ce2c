"""Invite to sessions, and change their members, over HTTP."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Somebody who may use a session."""

    author: str
    """As entries and presence name the member: `user:5`, or `guest:...`."""
    user: str | None
    """The key of the user; None for an owner that is a client."""
    role: str
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The members of a session, its owner first."""

    role: str
    """The role of the client that asked."""
    items: list[Member]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """An invitation to a session."""

    id: str
    role: str
    single_use: bool
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None
    token: str = ""
    """What join() takes; only a new invitation has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A session that the user of the client may use, and its role there."""

    session: str
    role: str


class MemberCalls(ABC):
    """
    The requests about members and invitations.

    All but members(), join() and leaving are the owner's; others get `not_owner`.
    """

    async def members(self, session: str) -> Members:
        """Return who may use a session."""
        content = await self._ask("GET", f"{make_path(session)}members/")
        items = [
            Member(**{**one, "since": _read_moment(one["since"])})
            for one in content["items"]
        ]
        return Members(role=content["role"], items=items)

    async def change_role(self, session: str, user: str, role: str) -> None:
        """Change the role of a member; `owner` hands the session over."""
        path = f"{make_path(session)}members{make_path(user)}"
        await self._ask("PATCH", path, body={"role": role})

    async def remove_member(self, session: str, user: str) -> None:
        """Remove a member, whose connections then end with 4003; or leave oneself."""
        await self._ask("DELETE", f"{make_path(session)}members{make_path(user)}")

    async def invite(
        self,
        session: str,
        role: str,
        *,
        single_use: bool = True,
        lifetime_seconds: float | None = None,
    ) -> Invitation:
        """Make an invitation, whose token is shown this once."""
        body: dict[str, Any] = {"role": role, "single_use": single_use}
        if lifetime_seconds is not None:
            body["lifetime_seconds"] = lifetime_seconds
        path = f"{make_path(session)}invitations/"
        return _make_invitation(await self._ask("POST", path, body=body))

    async def invitations(self, session: str) -> list[Invitation]:
        """Return the newest 200 invitations, without their tokens."""
        content = await self._ask("GET", f"{make_path(session)}invitations/")
        return [_make_invitation(one) for one in content["items"]]

    async def revoke(self, session: str, invitation: str) -> None:
        """Revoke an invitation by its id; who joined by it stays."""
        path = f"{make_path(session)}invitations{make_path(invitation)}"
        await self._ask("DELETE", path)

    async def join(self, token: str) -> Joined:
        """Make the user of the client a member, by the token of an invitation."""
        return Joined(**await self._ask("POST", "/join/", body={"token": token}))

    @abstractmethod
    async def _ask(
        self, method: str, path: str, query: str = "", body: Any = None
    ) -> Any:
        """Send a request; return the content of the answer."""


def make_path(part: str) -> str:
    """Return one part of a path, escaped."""
    return f"/{quote(part, safe='')}/"


def _make_invitation(content: dict[str, Any]) -> Invitation:
    moments = ("created_at", "expires_at", "used_at", "revoked_at")
    return Invitation(
        **{**content, **{name: _read_moment(content[name]) for name in moments}}
    )


def _read_moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
