"""Read the roles that clients have in sessions; it runs in a database thread."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sessions_history.member_models import Role, SessionMember
from sessions_history.models import Session

_IDS_PER_QUERY = 500


@dataclass(slots=True)
class Roles:
    """The owners of some sessions, and the roles of their members."""

    owners: dict[str, str] = field(default_factory=dict)
    """The client ids of the owners, by session."""

    members: dict[tuple[str, Any], Role] = field(default_factory=dict)
    """The roles by session and user."""

    def find(self, session_id: str, client_id: str, user_id: Any) -> Role | None:
        """Return the role of a client, which may be that of a user; None for none."""
        if self.owners.get(session_id) == client_id:
            return Role.OWNER
        return self.members.get((session_id, user_id))


def find_role(
    session_id: str, owner_id: str, client_id: str, user_id: Any
) -> Role | None:
    """Return the role of a client in a session of an owner; None for none."""
    if owner_id == client_id:
        return Role.OWNER
    if user_id is None:
        return None
    rows = SessionMember.objects.filter(session=session_id, user=user_id)
    role = rows.values_list("role", flat=True).first()
    return Role(role) if role else None


def find_access(
    session_id: str, client_id: str, user_id: Any
) -> tuple[str, Role | None]:
    """
    Return the client id of a session's owner, and the role of a client in it.

    The id is empty if there is no such session.
    """
    owners = Session.objects.filter(pk=session_id)
    owner_id = owners.values_list("client_id", flat=True).first()
    if owner_id is None:
        return "", None
    return owner_id, find_role(session_id, owner_id, client_id, user_id)


def read_roles(session_ids: Collection[str]) -> Roles:
    """Return the owners and members of sessions; those that are gone are left out."""
    found, ids = Roles(), sorted(session_ids)
    for start in range(0, len(ids), _IDS_PER_QUERY):
        some = ids[start : start + _IDS_PER_QUERY]
        sessions = Session.objects.filter(session_id__in=some)
        found.owners.update(sessions.values_list("session_id", "client_id"))
        members = SessionMember.objects.filter(session__in=some)
        for session_id, user_id, role in members.values_list(
            "session_id", "user_id", "role"
        ):
            found.members[session_id, user_id] = Role(role)
    return found
