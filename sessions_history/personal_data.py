"""Export and delete the sessions of one person, with all that belongs to them."""

from typing import Any

from django.db.models import Model, QuerySet

from connections.personal_data.person import Person
from connections.personal_data.tables import PersonalTable, add_personal_table, delete
from sessions_history.models import AppendKey, EntryChunk, HistoryEntry, Session, Work


def register() -> None:
    """Register the tables of this app; called once, when the app is ready."""
    for table in (
        PersonalTable(
            name="entry_chunks",
            model=EntryChunk,
            find=lambda person: EntryChunk.objects.filter(
                entry__session__in=_find_sessions(person)
            ).order_by("entry_id", "sequence"),
            erase=delete,
        ),
        _make_table("works", Work),
        _make_table("message_ids", AppendKey),
        _make_table("entries", HistoryEntry),
        PersonalTable(
            name="sessions", model=Session, find=_find_sessions, erase=delete
        ),
    ):
        add_personal_table(table)


def _make_table(name: str, model: type[Model]) -> PersonalTable:
    def find(person: Person) -> QuerySet[Any]:
        manager: Any = model._default_manager
        rows: QuerySet[Any] = manager.filter(session__in=_find_sessions(person))
        return rows.order_by("session_id", "offset")

    return PersonalTable(name=name, model=model, find=find, erase=delete)


def _find_sessions(person: Person) -> QuerySet[Session]:
    return Session.objects.filter(person.owns())
