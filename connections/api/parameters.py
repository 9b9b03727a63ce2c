"""Read the query string and the JSON body of a request, strictly."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from django.http import HttpRequest, QueryDict
from django.http.request import UnreadablePostError

from connections.api.errors import ApiError
from connections.config.kinds import Flag, Kind, Whole

_DIGITS = re.compile(r"[0-9]{1,18}")
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One key of a query string or a body."""

    name: str
    kind: Kind
    about: str
    is_required: bool = False
    default: Any = None


def read_query(parameters: Sequence[Parameter], given: QueryDict) -> dict[str, Any]:
    """
    Return the values of a query string by name.

    Raises:
        ApiError: 400 for a key that is unknown, given twice, or of a wrong value.
    """
    repeated = [name for name, texts in given.lists() if len(texts) > 1]
    if repeated:
        raise ApiError(400, "repeated_parameter", f"{repeated[0]:.80} is given twice.")
    kinds = {one.name: one.kind for one in parameters}
    raw = {name: _convert(kinds.get(name), str(text)) for name, text in given.items()}
    return _read(parameters, raw, "parameter")


def read_body(
    parameters: Sequence[Parameter],
    request: HttpRequest,
    most_bytes: int,
    option: str = "",
) -> dict[str, Any]:
    """
    Return the values of a JSON body by name; an option has the limit of its size.

    Raises:
        ApiError: 413 for a body that is too large, 415 for another type, and 400 for
            invalid JSON and for a key that is unknown, missing or of a wrong value.
    """
    raw = read_bytes(request, most_bytes, option)
    if not raw:
        return _read(parameters, {}, "field")
    if request.content_type != "application/json":
        raise ApiError(
            415,
            "not_json",
            "Send the body as JSON, with the header Content-Type: application/json.",
        )
    content = parse_json(raw)
    if not isinstance(content, dict):
        raise ApiError(400, "invalid_json", "The body is not a JSON object.")
    return _read(parameters, content, "field")


def parse_json(raw: bytes) -> Any:
    """
    Return the content of a body.

    Raises:
        ApiError: 400, it is no JSON.
    """
    try:
        return json.loads(
            raw,
            parse_constant=_refuse,
            parse_float=_read_float,
            parse_int=_read_int,
            object_pairs_hook=_pair,
        )
    except (ValueError, RecursionError) as exc:
        reason = "too deep" if isinstance(exc, RecursionError) else str(exc)
        message = f"The body is not valid JSON: {reason[:200]}."
        raise ApiError(400, "invalid_json", message) from exc


def read_bytes(request: HttpRequest, most_bytes: int, option: str = "") -> bytes:
    """
    Return the body; it may come without a Content-Length.

    An option of the configuration that has the limit is named in the error.

    Raises:
        ApiError: 413 for a body that is too large, 400 for one that is not whole.
    """
    try:
        raw = request.read(most_bytes + 1)
    except UnreadablePostError as exc:
        raise ApiError(400, "incomplete", "The body did not arrive whole.") from exc
    if len(raw) > most_bytes:
        named = f" ({option})" if option else ""
        message = f"The body is larger than {most_bytes} bytes{named}."
        raise ApiError(413, "body_too_large", message)
    return raw


def _read(
    parameters: Sequence[Parameter], raw: dict[str, Any], word: str
) -> dict[str, Any]:
    known = [one.name for one in parameters]
    for name in raw:
        if name not in known:
            allowed = ", ".join(known) or "none"
            message = f"{name[:80]!r} is no {word} of this request; known: {allowed}."
            raise ApiError(400, f"unknown_{word}", message)
    values = {}
    for one in parameters:
        value = raw.get(one.name)
        if value is None:
            if one.is_required:
                message = f"{one.name} is missing; it takes {one.kind.allowed}."
                raise ApiError(400, f"missing_{word}", message)
            values[one.name] = one.default
            continue
        try:
            values[one.name] = one.kind.parse(value)
        except ValueError as exc:
            message = f"{one.name} is not {one.kind.allowed}."
            raise ApiError(400, f"invalid_{word}", message) from exc
    return values


def _convert(kind: Kind | None, text: str) -> object:
    """Return a text of a query string as the JSON value that it stands for."""
    if isinstance(kind, Whole) and _DIGITS.fullmatch(text):
        return int(text)
    return _FLAGS.get(text, text) if isinstance(kind, Flag) else text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:80]} is larger than any number that is read")
    return number


def _read_int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as exc:
        raise ValueError(f"a number has {len(digits)} digits") from exc


def _pair(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is given twice")
    return content
