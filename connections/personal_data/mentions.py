"""Replace a person in the texts of others, such as the reasons that staff gave."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from django.db.models import JSONField, Model, Q, QuerySet, TextField
from django.db.models.functions import Cast

from connections.models.alias import stream
from connections.personal_data.person import Person
from connections.personal_data.tables import PersonalTable

_MOST_AT_ONCE = 500

_MOST_ALTERNATIVES = 100
"""
Names that the database looks for: it compares each text with each of them, and SQLite
refuses a thousand. Where there are more, all texts are read.
"""

_PSEUDONYM = r"forgotten:[0-9a-f]{16}(?!\w)"
"""What is in the texts already is no name, even of a person named `forgotten`."""

_WORD = re.compile(r"\w+")
_CASES = str.maketrans({"\u0130": "i", "\u0131": "i"})
"""The letters that re.IGNORECASE takes for others, but str.casefold() does not."""


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

    def find_keys(person: Person) -> Iterator[Any]:
        manager: Any = model._default_manager
        rows = manager.all() if within is None else within()
        return _find_keys(rows, columns, _pick(person, least_characters))

    def find(person: Person) -> QuerySet[Any]:
        manager: Any = model._default_manager
        some: QuerySet[Any] = manager.filter(
            pk__in=list(islice(find_keys(person), _MOST_AT_ONCE))
        )
        return some

    def count(person: Person) -> int:
        return sum(1 for _ in find_keys(person))

    def erase(rows: QuerySet[Any], person: Person, pseudonym: str) -> None:
        names = _Names(_pick(person, least_characters))
        changed = list(rows)
        for row in changed:
            for column in columns:
                setattr(row, column, names.replace(getattr(row, column), pseudonym))
        manager: Any = model._default_manager
        manager.bulk_update(changed, columns)

    return PersonalTable(
        name=name,
        model=model,
        find=find,
        erase=erase,
        count=count,
        is_exported=False,
    )


def _pick(person: Person, least_characters: int) -> list[str]:
    return [name for name in person.names if len(name) >= least_characters]


def _find_keys(
    rows: QuerySet[Any], columns: Sequence[str], names: Sequence[str]
) -> Iterator[Any]:
    """Yield the keys of the rows that have a name as a whole word."""
    if not names:
        return
    if len(names) <= _MOST_ALTERNATIVES:
        rows = _select(rows, columns, names)
    found = _Names(names)
    for key, *contents in stream(rows.order_by().values_list("pk", *columns)):
        if any(found.replace(one, "") != one for one in contents):
            yield key


def _select(
    rows: QuerySet[Any], columns: Sequence[str], names: Sequence[str]
) -> QuerySet[Any]:
    """Return the rows that have a name, as a word or within one."""
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
    return rows.filter(condition)


class _Names:
    """
    Names that are whole words of texts, in any case.

    A name is looked for in the texts that have the word of it which the fewest names
    have, so that a text takes no longer where there are thousands.
    """

    def __init__(self, names: Sequence[str]) -> None:
        words = {name: _list_words(name) for name in names}
        counts = Counter(word for some in words.values() for word in some)
        self._by_word = defaultdict[str, list[str]](list)
        for name, some in words.items():
            self._by_word[min(some, key=counts.__getitem__)].append(name)

    def replace(self, content: Any, pseudonym: str) -> Any:
        """Return a text, or the values of a JSON column, with the pseudonym in it."""
        if isinstance(content, str):
            return self._replace_in_text(content, pseudonym)
        if isinstance(content, dict):
            # The keys are words of this package, by which it reads the column.
            return {key: self.replace(one, pseudonym) for key, one in content.items()}
        if isinstance(content, list):
            return [self.replace(one, pseudonym) for one in content]
        return content

    def _replace_in_text(self, text: str, pseudonym: str) -> str:
        words = _list_words(text)
        names = [one for word in words for one in self._by_word.get(word, ())]
        if not names:
            return text
        either = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        pattern = rf"(?<!\w)(?:(?P<kept>{_PSEUDONYM})|(?:{either})(?!\w))"
        return re.sub(
            pattern, lambda found: found["kept"] or pseudonym, text, flags=re.IGNORECASE
        )


def _list_words(text: str) -> set[str]:
    """Return the words of a text in one case, and the one that every text has."""
    words = _WORD.findall(text)
    return {"", *(word.translate(_CASES).casefold() for word in words)}
