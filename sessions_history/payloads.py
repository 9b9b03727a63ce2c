"""
Check payloads of clients before they reach the database.

SQLite and PostgreSQL disagree on NUL, lone surrogates and NaN. One refused row
would fail the whole batch.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from connections.exceptions import InvalidMessage

MAX_DEPTH = 64
MAX_METADATA_BYTES = 4096

# json.dumps() makes an encoder at each call that has options.
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode
_encode_sorted = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_STEPS = [(code in b"[{") - (code in b"]}") for code in range(256)]
_NO_BRACKETS = bytes(code for code in range(256) if not _STEPS[code])


def dump(payload: Any, name: str = "data") -> str:
    """
    Return a payload as the JSON text that is stored and sent; errors name it.

    Raises:
        InvalidMessage: it holds NaN, Infinity, NUL or a lone surrogate, or is
            nested more than 64 deep.
    """
    try:
        text = _encode(payload)
        text.encode()
    except UnicodeEncodeError as exc:
        raise _invalid("a lone surrogate", name) from exc
    except ValueError as exc:
        raise _invalid("NaN or Infinity", name) from exc
    except RecursionError as exc:
        raise _invalid(f"nesting deeper than {MAX_DEPTH}", name) from exc
    if "\\u0000" in text and _NUL.search(text):
        raise _invalid("a NUL character", name)
    is_suspect = text.count("[") + text.count("{") > MAX_DEPTH
    if is_suspect and _measure_depth(text) > MAX_DEPTH:
        raise _invalid(f"nesting deeper than {MAX_DEPTH}", name)
    return text


def dump_claims(claims: Mapping[str, Any] | None) -> str:
    """
    Return the claims of a client as JSON text, in ASCII; an empty text for None.

    What JSON has no word for becomes text.

    Raises:
        InvalidMessage: they cannot be written as JSON.
    """
    if claims is None:
        return ""
    try:
        return json.dumps(dict(claims), separators=(",", ":"), default=str)
    except (RecursionError, TypeError, ValueError) as exc:
        raise _invalid("what cannot be written as JSON", "claims") from exc


def dump_metadata(metadata: Mapping[str, Any] | None) -> str:
    """
    Return the metadata of a message as JSON text; an empty text for none.

    Raises:
        InvalidMessage: it is no object, is longer than 4096 bytes, or holds what no
            payload may hold.
    """
    if metadata is None:
        return ""
    text = dump(metadata, "metadata") if isinstance(metadata, dict) else ""
    if not text or len(text.encode()) > MAX_METADATA_BYTES:
        allowed = f"an object of at most {MAX_METADATA_BYTES} bytes of JSON"
        raise InvalidMessage("invalid_message", f"metadata: {allowed}")
    return text


def digest(payload: Any) -> str:
    """Return a digest of a payload that does not depend on the order of its keys."""
    text = _encode_sorted(payload).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def clean_text(text: str) -> str:
    """
    Return a text in which each character that cannot be stored is replaced.

    Split surrogate pairs, which JSON escapes can leave, are joined.
    """
    if text.isascii():
        return text.replace("\x00", "\ufffd")
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return joined.replace("\x00", "\ufffd")


def _measure_depth(text: str) -> int:
    """
    Return how deep a JSON text is nested.

    It counts brackets. Walking the values would block the event loop for a second
    on a message of a million empty lists.
    """
    brackets = _STRINGS.sub(b"", text.encode()).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _invalid(what: str, name: str) -> InvalidMessage:
    return InvalidMessage("invalid_message", f"{name} holds {what}")
