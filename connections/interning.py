"""
Hold equal texts of many clients once, in a bounded number.

sys.intern() would do it without a bound: what it was given is kept until the process
ends in Python 3.12.0 to 3.12.6 (gh-113993).
"""

from functools import lru_cache

_MOST_TEXTS = 1000
_MOST_CHARACTERS = 300

_share = lru_cache(_MOST_TEXTS)(str)


def share(text: str) -> str:
    """Return the text, or an equal one that is held already."""
    return _share(text) if len(text) <= _MOST_CHARACTERS else text
