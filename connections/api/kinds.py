"""Kinds of values that requests of the API bring, and the JSON Schema of each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import singledispatch
from typing import Any

from django.utils.dateparse import parse_datetime

from connections.config.kinds import Choice, Flag, Kind, Number, Whole
from connections.storage.text import is_storable
from connections.units import as_stored

_LONE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Not str.isprintable(): scripts and emoji need the joiners that it refuses."""

MOMENT_SCHEMA = {"type": "string", "format": "date-time"}


@dataclass(frozen=True, slots=True)
class Line(Kind):
    """A text of a bounded length that every database stores."""

    least: int = 1
    most: int = 255

    @property
    def allowed(self) -> str:
        return f"a text of {self.least} to {self.most} characters, without NUL"

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str) or not self.least <= len(raw) <= self.most:
            raise ValueError(self.allowed)
        if not is_storable(raw):
            raise ValueError(self.allowed)
        return raw


@dataclass(frozen=True, slots=True)
class Shown(Line):
    """A line that people see among others: nothing in it breaks or reorders them."""

    @property
    def allowed(self) -> str:
        return (
            f"a text of {self.least} to {self.most} characters, without line breaks"
            " and other control characters"
        )

    def parse(self, raw: object) -> str:
        text = Line.parse(self, raw)
        if _CONTROL.search(text):
            raise ValueError(self.allowed)
        return text


@dataclass(frozen=True, slots=True)
class Lines(Kind):
    """A list of texts."""

    most: int = 50

    @property
    def allowed(self) -> str:
        return f"a list of at most {self.most} texts"

    def parse(self, raw: object) -> list[str]:
        if isinstance(raw, str) or not isinstance(raw, Sequence):
            raise ValueError(self.allowed)
        if len(raw) > self.most or not all(isinstance(one, str) for one in raw):
            raise ValueError(self.allowed)
        return [Line().parse(one) for one in raw]


@dataclass(frozen=True, slots=True)
class Moment(Kind):
    """A moment with its zone, as RFC 3339 writes it."""

    @property
    def allowed(self) -> str:
        return "a moment with its zone, such as 2030-01-31T12:00:00Z"

    def parse(self, raw: object) -> Any:
        try:
            moment = parse_datetime(raw) if isinstance(raw, str) else None
            if moment is None or moment.tzinfo is None:
                raise ValueError
            return as_stored(moment.astimezone(UTC))
        except (ValueError, OverflowError) as exc:
            raise ValueError(self.allowed) from exc


@dataclass(frozen=True, slots=True)
class Anything(Kind):
    """Any JSON value but null, and a text that UTF-8 cannot encode."""

    @property
    def allowed(self) -> str:
        return "any JSON value but null, and a text without lone surrogates"

    def parse(self, raw: object) -> object:
        if raw is None or (isinstance(raw, str) and _LONE.search(raw)):
            raise ValueError(self.allowed)
        return raw


@singledispatch
def describe_kind(kind: Kind) -> dict[str, Any]:
    """Return the JSON Schema of a kind."""
    raise TypeError(f"no schema is known for {kind!r}")


@describe_kind.register
def _(kind: Line) -> dict[str, Any]:
    return {"type": "string", "minLength": kind.least, "maxLength": kind.most}


@describe_kind.register
def _(kind: Lines) -> dict[str, Any]:
    return {
        "type": "array",
        "items": describe_kind(Line()),
        "maxItems": kind.most,
    }


@describe_kind.register
def _(kind: Moment) -> dict[str, Any]:
    return MOMENT_SCHEMA


@describe_kind.register
def _(kind: Anything) -> dict[str, Any]:
    return {"type": ["object", "array", "string", "number", "boolean"]}


@describe_kind.register
def _(kind: Whole) -> dict[str, Any]:
    return {"type": "integer", "minimum": kind.minimum, "maximum": kind.maximum}


@describe_kind.register
def _(kind: Number) -> dict[str, Any]:
    return {"type": "number", "minimum": kind.minimum, "maximum": kind.maximum}


@describe_kind.register
def _(kind: Flag) -> dict[str, Any]:
    return {"type": "boolean"}


@describe_kind.register
def _(kind: Choice) -> dict[str, Any]:
    return {"type": "string", "enum": list(kind.words)}
