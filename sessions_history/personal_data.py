"""Export and delete the sessions of one person, with all that belongs to them."""

from typing import Any

from django.db.models import Model, Q, QuerySet

from connections.personal_data.person import Person, add_client_source
from connections.personal_data.tables import PersonalTable, add_personal_table, delete
from connections.presence.rooms import name_member
from sessions_history.approval_models import Approval
from sessions_history.entries import EMPTY_STREAM
from sessions_history.models import (
    AppendKey,
    EntryChunk,
    HistoryEntry,
    Session,
    SessionInvitation,
    SessionMember,
    StreamProducer,
    Work,
)
from sessions_history.parts import erase_decisions


def register() -> None:
    """Register the tables of this app; called once, when the app is ready."""
    add_client_source(Session)
    for table in (
        PersonalTable(
            name="entry_chunks",
            model=EntryChunk,
            find=lambda person: EntryChunk.objects.filter(
                entry__session__in=_find_sessions(person)
            ).order_by("entry_id", "sequence"),
            erase=delete,
        ),
        PersonalTable(
            name="stream_producers",
            model=StreamProducer,
            find=lambda person: StreamProducer.objects.filter(
                session__in=_find_sessions(person)
            ).order_by("session_id", "producer"),
            erase=delete,
        ),
        # The claims may be of a member, and the credential has them.
        _make_table("works", Work, hidden=("claims",)),
        _make_table("message_ids", AppendKey),
        _make_table("entries", HistoryEntry),
        PersonalTable(
            # Those in the sessions of others, where they keep their place.
            name="entries_elsewhere",
            model=HistoryEntry,
            find=lambda person: HistoryEntry.objects.filter(
                author__in=_name_authors(person)
            ).exclude(session__in=_find_sessions(person)),
            erase=lambda rows, person, pseudonym: rows.update(
                author="", data=EMPTY_STREAM
            ),
        ),
        _make_table("approvals", Approval),
        PersonalTable(
            name="approvals_elsewhere",
            model=Approval,
            find=lambda person: Approval.objects.filter(
                decided_by__in=_name_authors(person)
            ).exclude(session__in=_find_sessions(person)),
            erase=lambda rows, person, pseudonym: _erase_decisions(rows),
        ),
        PersonalTable(
            name="session_members",
            model=SessionMember,
            find=lambda person: _find_shared(SessionMember, "user", person),
            erase=delete,
        ),
        PersonalTable(
            name="session_invitations",
            model=SessionInvitation,
            find=lambda person: _find_shared(SessionInvitation, "author", person),
            erase=delete,
        ),
        PersonalTable(
            name="sessions", model=Session, find=_find_sessions, erase=delete
        ),
    ):
        add_personal_table(table)


def _make_table(
    name: str, model: type[Model], hidden: tuple[str, ...] = ()
) -> PersonalTable:
    def find(person: Person) -> QuerySet[Any]:
        manager: Any = model._default_manager
        rows: QuerySet[Any] = manager.filter(session__in=_find_sessions(person))
        return rows.order_by("session_id", "offset")

    return PersonalTable(name=name, model=model, find=find, erase=delete, hidden=hidden)


def _erase_decisions(rows: QuerySet[Any]) -> None:
    """
    Erase who decided on some tool calls, in their answers as well.

    Of an answer that is open the end is written later, without them.
    """
    # The log locks sessions in the same order, and then writes their entries.
    sessions = Session.objects.filter(pk__in=rows.values("session"))
    list(sessions.select_for_update().order_by("pk").values_list("pk"))
    for row in rows:
        entries = HistoryEntry.objects.filter(session=row.session_id, offset=row.offset)
        chunks = EntryChunk.objects.filter(entry__in=entries)
        for part in (*entries, *chunks.filter(kind=EntryChunk.Kind.PARTS)):
            column = "parts" if isinstance(part, HistoryEntry) else "text"
            erased = erase_decisions(getattr(part, column), [row.decided_by])
            setattr(part, column, erased)
            part.save(update_fields=[column])
    rows.update(decided_by="", note="")


def _find_sessions(person: Person) -> QuerySet[Session]:
    return Session.objects.filter(person.owns())


def _find_shared(model: type[Model], column: str, person: Person) -> QuerySet[Any]:
    """Return the rows that name the user, or are of a session of the person."""
    condition = Q(session__in=_find_sessions(person))
    if person.user_key is not None:
        condition |= Q(**{column: person.user_key})
    manager: Any = model._default_manager
    rows: QuerySet[Any] = manager.filter(condition).order_by("pk")
    return rows


def _name_authors(person: Person) -> list[str]:
    names = {name_member(one) for one in person.client_ids}
    if person.user_key is not None:
        names.add(f"user:{person.user_key}")
    return sorted(names)
