"""Make text storable: bound its length and remove what a database refuses."""

import json
from typing import Any


def clean(text: str, limit: int) -> str:
    """Cut a text, and replace NULs and lone surrogates, which databases refuse."""
    if text.isascii() and "\x00" not in text:
        return text[:limit]
    stored = text[:limit].replace("\x00", "\ufffd")
    return stored.encode("utf-8", "replace").decode("utf-8")


def is_storable(text: str) -> bool:
    """Return True if every database stores a text as it is."""
    return clean(text, len(text)) == text


def is_storable_json(content: Any) -> bool:
    """Return True if every database stores a value in a JSON column as it is."""
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return False
    return "\\u0000" not in text and is_storable(text)
