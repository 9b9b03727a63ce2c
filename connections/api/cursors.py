"""Cursors of lists: signed, so that a client cannot make one of its own."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.core import signing
from django.db.models import Q

from connections.api.errors import ApiError

MOST_CHARACTERS = 4200
"""
The longest cursor: after a client id of 255 characters, each of which takes at most 12
in JSON, and so 16 here.
"""

_SALT = "connections.api"


def make_cursor(name: str, order: Sequence[str], row: Mapping[str, Any]) -> str:
    """Return the cursor of the rows after one, in the list of a name."""
    values = [row[column.removeprefix("-")] for column in order]
    texts = [one.isoformat() if isinstance(one, datetime) else one for one in values]
    return signing.dumps(texts, salt=f"{_SALT}.{name}")


def find_after(
    name: str, order: Sequence[str], fields: Mapping[str, Any], cursor: str
) -> Q:
    """
    Return the condition of the rows after a cursor.

    Raises:
        ApiError: 400, the cursor is of no page of this list.
    """
    try:
        values = signing.loads(cursor, salt=f"{_SALT}.{name}")
    except signing.BadSignature as exc:
        message = (
            "cursor is not the next_cursor of a page of this list; leave it out to "
            "begin with the first page."
        )
        raise ApiError(400, "invalid_cursor", message) from exc
    after = Q()
    first = Q()
    for column, text in reversed(list(zip(order, values, strict=True))):
        column, word = (column[1:], "lt") if column[0] == "-" else (column, "gt")
        value = fields[column].to_python(text)
        beyond = Q(**{f"{column}__{word}": value})
        after = beyond | (Q(**{column: value}) & after) if after else beyond
        # An index bounds the rows by this one; by the alternatives it cannot.
        first = Q(**{f"{column}__{word}e": value})
    return first & after
