"""Add the tables of this app to those with personal data."""

from functools import partial
from typing import Any

from django.apps import apps
from django.db.models import Model, Q, QuerySet

from connections.audit import LIMITS
from connections.models import (
    AccessToken,
    Alert,
    AuditEntry,
    Ban,
    CloseRequest,
    Connection,
    ErrorEvent,
    NodeCommand,
    NodePicture,
    RefusedHandshake,
    Ticket,
)
from connections.models.credentials import digest_token
from connections.personal_data.mentions import make_mentions
from connections.personal_data.person import Person, name_bans
from connections.personal_data.tables import PersonalTable, add_personal_table, delete

_DIGESTS = ("digest", "session_key", "claims", "client_digest", "hint")
_LABELS = ("connections", "sessions_history")
_LEAST_IN_TRACEBACKS = 8
"""Tracebacks are long, and have most shorter words by chance."""


def register() -> None:
    """Register the tables of this app; called once, when the app is ready."""
    for table in (
        PersonalTable(
            name="errors",
            model=ErrorEvent,
            find=lambda person: ErrorEvent.objects.filter(
                connection__in=Connection.objects.filter(person.owns())
            ),
            erased=Q(traceback=""),
            erase=lambda rows, person, pseudonym: rows.update(traceback=""),
        ),
        PersonalTable(
            name="connections",
            model=Connection,
            find=lambda person: Connection.objects.filter(person.owns()),
            erase=_erase_connections,
        ),
        PersonalTable(
            name="refused_handshakes",
            model=RefusedHandshake,
            find=lambda person: RefusedHandshake.objects.filter(person.is_client()),
            erase=lambda rows, person, pseudonym: rows.update(client_id=pseudonym),
        ),
        PersonalTable(
            name="tickets",
            model=Ticket,
            find=lambda person: Ticket.objects.filter(
                Q(client_digest__in=map(digest_token, person.client_ids))
                | Q(token__in=AccessToken.objects.filter(person.owns()))
            ),
            erase=delete,
            hidden=_DIGESTS,
        ),
        PersonalTable(
            name="access_tokens",
            model=AccessToken,
            find=lambda person: AccessToken.objects.filter(person.owns()),
            erase=delete,
            hidden=_DIGESTS,
        ),
        PersonalTable(
            name="bans",
            model=Ban,
            find=partial(_find_written, Ban, "author"),
            erase=_erase_bans,
        ),
        PersonalTable(
            name="close_requests",
            model=CloseRequest,
            find=partial(_find_written, CloseRequest, "author"),
            erase=partial(_erase_targets, "author", "note"),
        ),
        PersonalTable(
            name="node_commands",
            model=NodeCommand,
            find=partial(_find_written, NodeCommand, "author"),
            erase=partial(_erase_targets, "author", "text"),
        ),
        PersonalTable(
            name="audit_entries",
            model=AuditEntry,
            find=_find_audit,
            erase=_erase_audit,
        ),
        make_mentions(
            AuditEntry,
            "audit_texts",
            "reason",
            "facts",
            # The recorded configuration is compared with that in force.
            within=lambda: AuditEntry.objects.exclude(action=LIMITS),
        ),
        make_mentions(CloseRequest, "close_request_texts", "note"),
        make_mentions(NodeCommand, "node_command_texts", "text"),
        make_mentions(Ban, "ban_texts", "reason"),
        make_mentions(Alert, "alert_texts", "detail"),
        make_mentions(
            ErrorEvent,
            "error_texts",
            "traceback",
            least_characters=_LEAST_IN_TRACEBACKS,
        ),
    ):
        add_personal_table(table)
    if apps.is_installed("django.contrib.admin"):
        _register_log()
    add_personal_table(
        # The last one: the samples of the dashboard are taken anew.
        PersonalTable(
            name="live_samples",
            model=NodePicture,
            find=lambda person: NodePicture.objects.all(),
            erase=delete,
            is_exported=False,
            is_of_all=True,
        )
    )


def _register_log() -> None:
    """Add what the log of Django's admin has about rows of these apps."""
    log: Any = apps.get_model("admin", "LogEntry")

    def find_own() -> QuerySet[Any]:
        own: QuerySet[Any] = log.objects.filter(content_type__app_label__in=_LABELS)
        return own

    def find(person: Person) -> QuerySet[Any]:
        names = [f"client {one}"[:200] for one in person.client_ids]
        if person.user_key is not None:
            names.append(f"user {person.user_key}")
        for address in person.addresses:
            names += [f"address {one}" for one in name_bans(address)]
        rows: QuerySet[Any] = log.objects.filter(object_repr__in=names)
        return rows

    add_personal_table(
        PersonalTable(
            name="admin_log",
            model=log,
            find=find,
            erase=lambda rows, person, pseudonym: rows.update(
                object_repr=pseudonym, change_message=""
            ),
        )
    )
    add_personal_table(
        make_mentions(
            log, "admin_log_texts", "object_repr", "change_message", within=find_own
        )
    )


def _erase_connections(rows: QuerySet[Any], person: Person, pseudonym: str) -> None:
    """Keep times and counts under the pseudonym."""
    rows.update(
        client_id=pseudonym,
        user=None,
        path="",
        address="",
        origin="",
        user_agent="",
        flight=None,
    )


def _erase_targets(
    column: str, text: str, rows: QuerySet[Any], person: Person, pseudonym: str
) -> None:
    """Replace a person as the target and as the author of actions."""
    keys = list(rows.values_list("pk", flat=True))
    some: Any = rows.model._default_manager.filter(pk__in=keys)
    some.filter(person.is_target()).update(**{"value": pseudonym, text: ""})
    some.filter(person.is_named_by(column)).update(**{column: pseudonym})


def _erase_bans(rows: QuerySet[Any], person: Person, pseudonym: str) -> None:
    """Delete the bans of a person; those that it imposed on others stay."""
    rows.filter(person.is_target()).delete()
    rows.filter(person.is_named_by("author")).update(author=pseudonym)


def _find_audit(person: Person) -> QuerySet[Any]:
    issued = Q(facts__client__in=person.client_ids)
    return AuditEntry.objects.filter(
        person.is_target() | person.is_named_by("actor") | issued
    )


def _erase_audit(rows: QuerySet[Any], person: Person, pseudonym: str) -> None:
    issued = rows.filter(facts__client__in=person.client_ids)
    issued.update(facts={"client": pseudonym})
    _erase_targets("actor", "reason", rows, person, pseudonym)


def _find_written(model: type[Model], column: str, person: Person) -> QuerySet[Any]:
    manager: Any = model._default_manager
    rows: QuerySet[Any] = manager.filter(
        person.is_target() | person.is_named_by(column)
    )
    return rows
