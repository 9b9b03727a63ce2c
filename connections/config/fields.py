"""
Read sections of typed options, each described by a frozen dataclass.

option() declares a field with its kind, range, default and description.
read_section() turns a mapping (from YAML, a dict in settings, or the
environment) into the dataclass and reports every problem, not only the first.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from connections.config.kinds import Kind

Section = TypeVar("Section")


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong value: its path, the value, and the allowed values."""

    path: str
    value: object
    allowed: str

    def __str__(self) -> str:
        return f"{self.path}: {self.value!r} is not allowed; {self.allowed}"


class Listed(Kind):
    """A list of mappings; each item reports its own problems."""

    @abstractmethod
    def read(self, raw: object, path: str, problems: list[Problem]) -> object:
        """Return raw as a value, and append its problems to the list."""

    def parse(self, raw: object) -> object:
        problems: list[Problem] = []
        value = self.read(raw, "", problems)
        if problems:
            raise ValueError(str(problems[0]))
        return value


def option(kind: Kind, default: object, about: str) -> Any:
    """Return a dataclass field of a kind, with its default and description."""
    return dataclasses.field(
        default=kind.parse(default), metadata={"kind": kind, "about": about}
    )


def section(section_class: type) -> Any:
    """Return a dataclass field that holds a nested section."""
    return dataclasses.field(
        default_factory=section_class, metadata={"section": section_class}
    )


def read_section(
    section_class: type[Section], raw: object, path: str, problems: list[Problem]
) -> Section:
    """
    Return section_class filled from a mapping; append problems to the list.

    Wrong values and missing keys get their defaults.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        problems.append(Problem(path, raw, "a mapping of keys to values"))
        return section_class()
    fields = {field.name: field for field in _fields(section_class)}
    values: dict[str, object] = {}
    for key, value in raw.items():
        key_path = f"{path}.{key}"
        field = fields.get(key) if isinstance(key, str) else None
        if field is None:
            known = ", ".join(fields)
            problems.append(Problem(key_path, value, f"an unknown key; known: {known}"))
        elif "section" in field.metadata:
            nested = field.metadata["section"]
            values[field.name] = read_section(nested, value, key_path, problems)
        elif isinstance(field.metadata["kind"], Listed):
            listed = field.metadata["kind"]
            values[field.name] = listed.read(value, key_path, problems)
        else:
            try:
                values[field.name] = field.metadata["kind"].parse(value)
            except ValueError as exc:
                problems.append(Problem(key_path, value, str(exc)))
    return section_class(**values)


@dataclass(frozen=True, slots=True)
class Documented:
    """One option, as the table of options shows it."""

    path: str
    default: str
    allowed: str
    about: str


def walk(section_class: type, prefix: str = "") -> Iterator[Documented]:
    """Yield every option of a section and of its nested sections."""
    for field in _fields(section_class):
        if "section" in field.metadata:
            yield from walk(field.metadata["section"], f"{prefix}{field.name}.")
        else:
            kind = field.metadata["kind"]
            yield Documented(
                path=prefix + field.name,
                default=kind.format(field.default),
                allowed=kind.allowed,
                about=field.metadata["about"],
            )


def _fields(section_class: type) -> Iterator[dataclasses.Field[Any]]:
    for field in dataclasses.fields(section_class):
        if "kind" in field.metadata or "section" in field.metadata:
            yield field
