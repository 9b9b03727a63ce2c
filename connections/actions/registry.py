"""Actions of staff on connections, nodes and tokens, each with its permission."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connections.actions.permissions import is_read_only
from connections.audit import name_author
from connections.models import AuditEntry, CloseRequest

Target = CloseRequest.Target
MOST_VALUES = 75
"""A redirect names so many connections in 4 kB, all that a proxy takes of headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One action: its name, its permission and the kinds of its targets."""

    name: str
    label: str
    permission: str
    targets: tuple[str, ...]
    is_destructive: bool = False


ACTIONS = {
    action.name: action
    for action in (
        Action(
            name="end",
            label="End",
            permission="connections.end_connection",
            targets=(Target.CONNECTION,),
            is_destructive=True,
        ),
        Action(
            name="end-all",
            label="End all",
            permission="connections.end_all",
            targets=(Target.CLIENT, Target.USER, Target.NODE),
            is_destructive=True,
        ),
        Action(
            name="ban",
            label="Ban",
            permission="connections.add_ban",
            targets=(Target.CLIENT, Target.USER, Target.ADDRESS),
            is_destructive=True,
        ),
        Action(
            name="revoke",
            label="Revoke token",
            permission="connections.change_accesstoken",
            targets=(Target.TOKEN,),
            is_destructive=True,
        ),
        Action(
            name="notice",
            label="Send notice",
            permission="connections.send_notice",
            targets=(
                Target.CONNECTION,
                Target.CLIENT,
                Target.USER,
                Target.NODE,
                Target.ALL,
            ),
        ),
        Action(
            name="drain",
            label="Drain",
            permission="connections.drain_node",
            targets=(Target.NODE,),
            is_destructive=True,
        ),
        Action(
            name="serve",
            label="Return to service",
            permission="connections.drain_node",
            targets=(Target.NODE,),
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequest:
    """A request to perform an action: its targets, user and reason."""

    action: Action
    target: str
    values: tuple[str, ...]
    user: Any
    reason: str
    may_return: bool = False
    spread_seconds: float = 0
    ban_seconds: float | None = None
    text: str = ""
    via: str = AuditEntry.Via.DASHBOARD
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the audit stream records beside the action, such as the token."""

    @property
    def author(self) -> str:
        """The user name that is recorded."""
        return name_author(self.user)


def find_allowed(user: Any) -> frozenset[str]:
    """Return the names of a user's permitted actions; none in read-only mode."""
    if is_read_only():
        return frozenset()
    return frozenset(
        name for name, action in ACTIONS.items() if user.has_perm(action.permission)
    )
