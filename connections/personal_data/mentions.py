"""Replace a person in the texts of others, such as the reasons that staff gave."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from django.db.models import JSONField, Model, Q, QuerySet, TextField
from django.db.models.functions import Cast

from connections.personal_data.person import Person
from connections.personal_data.tables import PersonalTable

_MOST_AT_ONCE = 500


def make_mentions(
    model: type[Model],
    name: str,
    *columns: str,
    least_characters: int = 3,
    within: Callable[[], QuerySet[Any]] | None = None,
) -> PersonalTable:
    """
    Return the table of rows whose texts name a person.

    A name counts as a whole word, and shorter ones than least_characters do not: they
    occur in texts by chance.
    """

    def find(person: Person) -> QuerySet[Any]:
        manager: Any = model._default_manager
        rows = manager.all() if within is None else within()
        return _find(rows, columns, _pick(person, least_characters))

    def erase(rows: QuerySet[Any], person: Person, pseudonym: str) -> None:
        pattern = _compile(_pick(person, least_characters))
        changed = list(rows)
        for row in changed:
            for column in columns:
                setattr(row, column, _replace(getattr(row, column), pattern, pseudonym))
        manager: Any = model._default_manager
        manager.bulk_update(changed, columns)

    return PersonalTable(
        name=name, model=model, find=find, erase=erase, is_exported=False
    )


def _pick(person: Person, least_characters: int) -> list[str]:
    return [name for name in person.names if len(name) >= least_characters]


def _find(
    rows: QuerySet[Any], columns: Sequence[str], names: Sequence[str]
) -> QuerySet[Any]:
    """Return the first rows that have a name as a whole word."""
    if not names:
        return rows.none()
    condition = Q()
    for column in columns:
        is_json = isinstance(rows.model._meta.get_field(column), JSONField)
        if is_json:
            rows = rows.annotate(**{f"{column}_text": Cast(column, TextField())})
        for name in names:
            # Not every database stores the characters of a JSON text as they are.
            texts = {name, json.dumps(name)[1:-1]} if is_json else {name}
            for text in texts:
                key = f"{column}_text" if is_json else column
                condition |= Q(**{f"{key}__icontains": text})
    pattern, keys = _compile(names), []
    for row in rows.filter(condition).order_by().iterator():
        contents = [getattr(row, column) for column in columns]
        if any(_replace(one, pattern, "") != one for one in contents):
            keys.append(row.pk)
        if len(keys) == _MOST_AT_ONCE:
            break
    return rows.filter(pk__in=keys)


def _compile(names: Sequence[str]) -> re.Pattern[str]:
    either = "|".join(map(re.escape, names))
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)


def _replace(content: Any, pattern: re.Pattern[str], pseudonym: str) -> Any:
    """Return a text, or a value of a JSON column, with the pseudonym in it."""
    if isinstance(content, str):
        return pattern.sub(pseudonym, content)
    if isinstance(content, dict):
        return {
            _replace(key, pattern, pseudonym): _replace(value, pattern, pseudonym)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [_replace(one, pattern, pseudonym) for one in content]
    return content
