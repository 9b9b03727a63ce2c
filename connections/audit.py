"""Record what staff, commands, the API and rules do, in the same transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from connections.config.loader import WebSocketConfig, read_value
from connections.config.loader import describe as describe_keys
from connections.models import AuditEntry, Ban, CloseRequest
from connections.privacy import reduce_target
from connections.units import as_utc

_ROUTINE = frozenset(("idle", "logged_out", "reauthorise"))
"""Reasons of close requests that users and limits cause; connections record them."""

_ACTIONS = {"revoked": "revoke", "banned": "ban"}
_AUTHOR_LENGTH: int = AuditEntry._meta.get_field("actor").max_length or 0
"""The columns of authors have the length of that of actors."""

LIMITS = "limits"
"""The action of an entry that has the whole configuration."""

_source: ContextVar[tuple[str, str, dict[str, Any]]] = ContextVar(
    "connections_audit", default=(AuditEntry.Via.CODE, "", {})
)


def name_author(user: Any) -> str:
    """Return the name of a user as rows hold it; a project's names may be longer."""
    return str(user.get_username())[:_AUTHOR_LENGTH]


@contextmanager
def acting(via: str, actor: str = "", **facts: Any) -> Iterator[None]:
    """Record the actions of a block as made via a source, by an actor."""
    token = _source.set((via, actor, facts))
    try:
        yield
    finally:
        _source.reset(token)


def get_source() -> tuple[str, str]:
    """Return the source and the actor of the block."""
    via, actor, _ = _source.get()
    return via, actor


def record(*entries: AuditEntry) -> None:
    """Write entries; the source of the block names those without an actor."""
    via, actor, facts = _source.get()
    for entry in entries:
        entry.value = reduce_target(entry.target, entry.value)
        entry.via = entry.via or via
        entry.actor = entry.actor or actor
        entry.facts = {**entry.facts, **facts}
    AuditEntry.objects.bulk_create(entries, batch_size=200)


def record_ends(requests: tuple[CloseRequest, ...]) -> None:
    """Record close requests, except those that users and limits cause."""
    record(
        *(
            AuditEntry(
                actor=one.author,
                action=_ACTIONS.get(one.reason, "end"),
                target=one.target,
                value=one.value,
                reason=one.note,
                facts=_without_defaults(
                    close_reason=one.reason, spread_seconds=one.spread_seconds
                ),
            )
            for one in requests
            if one.reason not in _ROUTINE
        )
    )


def record_ban(action: str, ban: Ban, actor: str) -> None:
    """Record that a ban was imposed or lifted."""
    until = as_utc(ban.until).isoformat() if ban.until else ""
    record(
        AuditEntry(
            actor=actor,
            action=action,
            target=ban.target,
            value=ban.value,
            reason=ban.reason,
            facts=_without_defaults(until=until),
        )
    )


def find_changed_limits(config: WebSocketConfig) -> dict[str, list[Any]]:
    """Return the keys that differ from the recorded configuration, with both values."""
    before = _find_recorded()
    now = _read_values(config)
    return {
        key: [before.get(key), now.get(key)]
        for key in sorted({*before, *now})
        if before and before.get(key) != now.get(key)
    }


def record_limits(config: WebSocketConfig) -> int:
    """
    Record the configuration if it differs from the recorded one; return 1 then.

    The first entry has no changes, nor has one after an entry that cannot be read.
    """
    changed = find_changed_limits(config)
    if changed or not _find_recorded():
        facts = {"changed": changed, "values": _read_values(config)}
        with acting(AuditEntry.Via.RULE, "configuration"):
            record(AuditEntry(action=LIMITS, facts=facts))
    return int(bool(changed))


def _find_recorded() -> dict[str, Any]:
    """Return the recorded configuration; empty if none is there, or is readable."""
    last = AuditEntry.objects.filter(action=LIMITS).first()
    facts = last.facts if last is not None else None
    values = facts.get("values") if isinstance(facts, dict) else None
    return values if isinstance(values, dict) else {}


def _read_values(config: WebSocketConfig) -> dict[str, Any]:
    return {one.path: read_value(config, one.path) for one in describe_keys()}


def describe(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry's fields for JSON."""
    return {
        "id": entry.pk,
        "at": as_utc(entry.at).isoformat(),
        "actor": entry.actor,
        "via": entry.via,
        "action": entry.action,
        "target": entry.target,
        "value": entry.value,
        "reason": entry.reason,
        "facts": entry.facts,
    }


def _without_defaults(**facts: Any) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value}
