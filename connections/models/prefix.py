"""Search a text column by the beginning of its values, by an index."""

from django.db.models import Q

from connections.models.alias import get_connection

_LAST = "\U0010ffff"
"""The last character of all (Unicode 16.0, section 2.4)."""


def starts_with(column: str, prefix: str) -> Q:
    """
    Return the condition that a column starts with a prefix, in the given case.

    SQLite has no index for LIKE, so there it is a range. On PostgreSQL a range
    depends on the language of the database, and LIKE needs an index with
    varchar_pattern_ops.
    """
    if get_connection().vendor == "postgresql":
        return Q(**{f"{column}__startswith": prefix})
    return Q(**{f"{column}__gte": prefix, f"{column}__lt": prefix + _LAST})
