"""Kinds of option values: each parses a raw value and checks its range."""

import ipaddress
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from connections import units
from connections.net.addresses import UNIX

_DOTTED_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_URL_PATH = re.compile(r"/[^\s?#%]{0,200}")


class Kind(ABC):
    """The values that an option accepts."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """The allowed values, as the end of a sentence."""

    @abstractmethod
    def parse(self, raw: object) -> object:
        """
        Return raw as a value of this kind.

        Raises:
            ValueError: raw is not of this kind, or out of range.
        """

    def format(self, value: Any) -> str:
        """Return the value as YAML text."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    """A whole number within a range, both ends included."""

    minimum: int = 0
    maximum: int = 1_000_000_000

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"

    def parse(self, raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise ValueError(self.allowed)
        if not self.minimum <= raw <= self.maximum:
            raise ValueError(self.allowed)
        return raw


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A number within a range, both ends included."""

    minimum: float = 0
    maximum: float = 1e9

    @property
    def allowed(self) -> str:
        return f"a number from {self.minimum:g} to {self.maximum:.12g}"

    def parse(self, raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise ValueError(self.allowed)
        if not self.minimum <= raw <= self.maximum:
            raise ValueError(self.allowed)
        return raw

    def format(self, value: Any) -> str:
        return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """True or false."""

    @property
    def allowed(self) -> str:
        return "true or false"

    def parse(self, raw: object) -> bool:
        if not isinstance(raw, bool):
            raise ValueError(self.allowed)
        return raw

    def format(self, value: Any) -> str:
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(self.words)

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str) or raw not in self.words:
            raise ValueError(self.allowed)
        return raw


@dataclass(frozen=True, slots=True)
class Size(Kind):
    """A number of bytes, written as 1MB, 64KiB or 4096."""

    minimum: int = 1
    maximum: int = 64 * 1024**3

    @property
    def allowed(self) -> str:
        low, high = units.format_size(self.minimum), units.format_size(self.maximum)
        return f"a size such as 1MB or 64KiB, from {low} to {high}"

    def parse(self, raw: object) -> int:
        if not isinstance(raw, str | int):
            raise ValueError(self.allowed)
        try:
            size = units.parse_size(raw)
        except ValueError as exc:
            raise ValueError(self.allowed) from exc
        if not self.minimum <= size <= self.maximum:
            raise ValueError(self.allowed)
        return size

    def format(self, value: Any) -> str:
        return units.format_size(value)


@dataclass(frozen=True, slots=True)
class Texts(Kind):
    """A list of texts, each checked by a function."""

    what: str
    accept: Callable[[str], object]
    """Raises ValueError for a text that is not allowed."""

    @property
    def allowed(self) -> str:
        return f"a list of {self.what}"

    def parse(self, raw: object) -> tuple[str, ...]:
        if isinstance(raw, str):
            raw = [part.strip() for part in raw.split(",") if part.strip()]
        if not isinstance(raw, Sequence):
            raise ValueError(self.allowed)
        for text in raw:
            if not isinstance(text, str):
                raise ValueError(f"{self.allowed} ({text!r} needs quotes)")
            try:
                self.accept(text)
            except ValueError as exc:
                raise ValueError(f"{self.allowed} ({text!r}: {exc})") from exc
        return tuple(raw)

    def format(self, value: Any) -> str:
        return "[" + ", ".join(value) + "]"


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """One line of text; it may be empty."""

    what: str

    @property
    def allowed(self) -> str:
        return self.what

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str) or len(raw) > 2000:
            raise ValueError(self.allowed)
        if not raw.isprintable() or raw != raw.strip():
            raise ValueError(self.allowed)
        return raw

    def format(self, value: Any) -> str:
        return value or '""'


@dataclass(frozen=True, slots=True)
class UrlPath(Kind):
    """The path of a folder in URLs, with a slash at both ends; it may be empty."""

    @property
    def allowed(self) -> str:
        return "a path of URLs such as / or /health/, or nothing"

    def parse(self, raw: object) -> str:
        if raw == "":
            return ""
        if not isinstance(raw, str) or not _URL_PATH.fullmatch(raw):
            raise ValueError(self.allowed)
        return raw.rstrip("/") + "/"

    def format(self, value: Any) -> str:
        return value or '""'


@dataclass(frozen=True, slots=True)
class Choices(Kind):
    """A list of one or more of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "a list of " + ", ".join(self.words)

    def parse(self, raw: object) -> tuple[str, ...]:
        if isinstance(raw, str):
            raw = [part.strip() for part in raw.split(",")]
        if not isinstance(raw, Sequence) or not raw:
            raise ValueError(self.allowed)
        if any(word not in self.words for word in raw):
            raise ValueError(self.allowed)
        return tuple(raw)

    def format(self, value: Any) -> str:
        return "[" + ", ".join(value) + "]"


@dataclass(frozen=True, slots=True)
class DottedPaths(Kind):
    """A list of one or more dotted paths of Python objects, each once."""

    what: str

    @property
    def allowed(self) -> str:
        return f"a list of one or more dotted paths of {self.what}, each once"

    def parse(self, raw: object) -> tuple[str, ...]:
        if isinstance(raw, str):
            raw = [part.strip() for part in raw.split(",") if part.strip()]
        if not isinstance(raw, Sequence) or not raw:
            raise ValueError(self.allowed)
        for path in raw:
            if not isinstance(path, str) or not _DOTTED_PATH.fullmatch(path):
                raise ValueError(f"{self.allowed} ({path!r} is no dotted path)")
            if raw.count(path) > 1:
                raise ValueError(f"{self.allowed} ({path!r} is given twice)")
        return tuple(raw)

    def format(self, value: Any) -> str:
        return "[" + ", ".join(value) + "]"


PROXIES = Texts(
    "addresses or networks such as 10.0.0.0/8 or ::1, and unix",
    lambda text: text == UNIX or ipaddress.ip_network(text),
)

NETWORKS = Texts(
    "addresses or networks such as 10.0.0.0/8 or ::1",
    ipaddress.ip_network,
)
