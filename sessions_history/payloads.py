"""
What a client may have stored, judged before it reaches the database.

SQLite and PostgreSQL disagree on NUL, lone surrogates and NaN, and one row that
is refused would fail the batch that others wait in.
"""

import hashlib
import json
from typing import Any

from connections.exceptions import InvalidMessage

MAX_DEPTH = 64

# json.dumps() makes an encoder at each call where it is given options.
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode
_encode_sorted = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def dump(payload: Any) -> str:
    """
    Return a payload as the JSON text that is stored and sent.

    Raises:
        InvalidMessage: it holds NaN, Infinity, NUL or a lone surrogate, or is
            nested more than 64 deep.
    """
    try:
        text = _encode(payload)
        text.encode()
    except UnicodeEncodeError as exc:
        raise _invalid("a lone surrogate") from exc
    except ValueError as exc:
        raise _invalid("NaN or Infinity") from exc
    except RecursionError as exc:
        raise _invalid(f"nesting deeper than {MAX_DEPTH}") from exc
    # Few payloads get past these two: what follows walks every value.
    if "\\u0000" in text or text.count("[") + text.count("{") > MAX_DEPTH:
        _walk(payload)
    return text


def digest(payload: Any) -> str:
    """Return what tells one payload from another, whatever the order of its keys."""
    text = _encode_sorted(payload).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def clean_text(text: str) -> str:
    """
    Return a text without what cannot be stored, each such character replaced.

    Surrogate pairs are joined, as escapes in JSON leave them that came apart.
    """
    if text.isascii():
        return text.replace("\x00", "\ufffd")
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return joined.replace("\x00", "\ufffd")


def _walk(payload: Any) -> None:
    waiting = [(payload, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            if "\x00" in value:
                raise _invalid("a NUL character")
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise _invalid(f"nesting deeper than {MAX_DEPTH}")
            waiting += ((key, depth + 1) for key in value)
            if isinstance(value, dict):
                waiting += ((inner, depth + 1) for inner in value.values())


def _invalid(what: str) -> InvalidMessage:
    return InvalidMessage("invalid_message", f"data holds {what}")
