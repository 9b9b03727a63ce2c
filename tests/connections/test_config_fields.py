"""Test that a section reports all problems and fills in defaults."""

from dataclasses import dataclass
from typing import Any

import pytest

from connections.config.fields import Problem, option, read_section, section, walk
from connections.config.kinds import NETWORKS, Choice, Flag, Kind, Number, Size, Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: int = option(Size(10, 2000), "1kB", "how big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    count: int = option(Whole(1, 9), 5, "how many")
    inner: Inner = section(Inner)
    unread: str = ""


def read(raw: object) -> tuple[Outer, list[Problem]]:
    problems: list[Problem] = []
    return read_section(Outer, raw, "top", problems), problems


@pytest.mark.parametrize("raw", [None, {}, {"inner": None}])
def test_missing_keys_have_their_defaults(raw: object) -> None:
    assert read(raw) == (Outer(count=5, inner=Inner(size=1000)), [])


def test_every_problem_is_found_at_once() -> None:
    """Attributes of the class that are no options are unknown keys."""
    found, problems = read(
        {"count": 10, "inner": {"size": "1GB", "sise": 1}, "unread": "x", 7: 1}
    )
    assert found == Outer()
    assert [(one.path, one.value) for one in problems] == [
        ("top.count", 10),
        ("top.inner.size", "1GB"),
        ("top.inner.sise", 1),
        ("top.unread", "x"),
        ("top.7", 1),
    ]
    assert problems[0].allowed == "a whole number from 1 to 9"
    assert problems[2].allowed == "an unknown key; known: size"


@pytest.mark.parametrize("raw", [[], "text", 3])
def test_a_section_must_be_a_mapping(raw: object) -> None:
    assert read({"inner": raw})[1] == [
        Problem("top.inner", raw, "a mapping of keys to values")
    ]


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (Whole(), True),
        (Whole(), 1.0),
        (Whole(), "1"),
        (Number(), float("nan")),
        (Number(), float("inf")),
        (Number(), False),
        (Flag(), 1),
        (Flag(), "true"),
        (Choice(("a", "b")), "c"),
        (Choice(("a", "b")), ["a"]),
        (Size(), 1.5),
        (Size(), True),
        (Size(), 0),
        (NETWORKS, ["10.0.0.1/8"]),
        (NETWORKS, [1]),
        (NETWORKS, 1),
    ],
)
def test_values_of_a_wrong_kind_are_refused(kind: Kind, raw: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        kind.parse(raw)


def test_a_list_may_be_written_with_commas() -> None:
    assert NETWORKS.parse("10.0.0.0/8, ::1") == ("10.0.0.0/8", "::1")


def test_a_default_must_be_allowed_itself() -> None:
    with pytest.raises(ValueError, match="from 1 to 9"):
        option(Whole(1, 9), 10, "wrong")


def test_every_option_is_documented_with_its_path() -> None:
    assert [(one.path, one.default, one.about) for one in walk(Outer)] == [
        ("count", "5", "how many"),
        ("inner.size", "1kB", "how big"),
    ]
