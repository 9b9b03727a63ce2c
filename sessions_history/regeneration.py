"""
Give a message another answer: a new entry that replaces the former one.

The former answer stays in the log. This module runs in a database thread.
"""

from collections.abc import Iterable, Sequence

from sessions_history.entries import MESSAGE, Append, Entry, Sender
from sessions_history.exceptions import AnswerNotFound, AnswerReplaced, AnswerUnfinished
from sessions_history.locked_session import LockedSession
from sessions_history.models import HistoryEntry
from sessions_history.reads import read_entries_at

_CLIENT = Sender.CLIENT.value


def find_question(
    session: LockedSession, request: Append, unwritten: Iterable[tuple[str, Entry]]
) -> Entry | None:
    """
    Return the message whose answer a request replaces; None for other requests.

    The session is locked: of two requests at once, the second finds the entry of
    the first, which may be among the unwritten ones of the same commit.

    Raises:
        AnswerNotFound: there is no such answer in the log, or not its message.
        AnswerUnfinished: it streams.
        AnswerReplaced: another entry has replaced it.
    """
    former = request.entries[-1].replaces if request.entries else None
    if former is None:
        return None
    if request.epoch not in ("", session.epoch):
        raise AnswerNotFound
    if former in session.open_entries:
        raise AnswerUnfinished
    entries = HistoryEntry.objects.filter(session=request.session_id)
    later = entries.filter(replaces=former).values_list("offset", flat=True).first()
    for session_id, entry in unwritten:
        if session_id == request.session_id and entry.replaces == former:
            later = entry.offset
    if later is not None:
        raise AnswerReplaced(later)
    first = former
    regenerated = entries.filter(replaces__isnull=False)
    replaced = dict(regenerated.values_list("offset", "replaces"))
    while (earlier := replaced.get(first)) is not None:
        first = earlier
    # An answer is appended with its message, right after it.
    found = read_entries_at(request.session_id, [first - 1, former])
    if [one.offset for one in found] != [first - 1, former]:
        raise AnswerNotFound
    question, answer = found
    is_answer = answer.sender != _CLIENT and answer.kind == MESSAGE
    if not is_answer or question.sender != _CLIENT:
        raise AnswerNotFound
    return question


def arrange(entries: Sequence[Entry]) -> list[tuple[int, Entry]]:
    """
    Return entries as a conversation: each answer in the place of what it replaces.

    Those that were replaced are left out. The number beside an entry is the offset
    of its place.
    """
    replaces = {one.offset: one.replaces for one in entries if one.replaces is not None}
    replaced = set(replaces.values())
    places: dict[int, int] = {}
    for entry in entries:
        former = replaces.get(entry.offset)
        place = entry.offset if former is None else places.get(former, former)
        places[entry.offset] = place
    kept = [(places[one.offset], one) for one in entries if one.offset not in replaced]
    return sorted(kept, key=lambda one: one[0])
