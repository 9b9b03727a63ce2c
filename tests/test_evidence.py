"""Compare the pages of docs/evidence and docs/topics with the tests they name."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.abuse.corpus import ATTACKS
from tests.pages import (
    EVIDENCE_OF_ATTACKS,
    FAULTS,
    GUARANTEES,
    SECURITY,
    find_pages,
    read_rows,
)
from tests.project import ROOT

pytestmark = pytest.mark.source

TESTS = ROOT / "tests"

_TEST = re.compile(r"`(test_\w+)(?:\[\w+\])?`")
"""A test, or one case of it."""


@dataclass(frozen=True)
class Source:
    """A test function with its decorators and its module."""

    path: Path
    text: str

    @property
    def is_skipped(self) -> bool:
        return "mark.skip" in self.text

    @property
    def runs_uvicorn(self) -> bool:
        """A test within the process uses no server."""
        is_live = not {"integration", "abuse"}.isdisjoint(
            self.path.relative_to(TESTS).parts
        )
        named = f"{self.path.name} {self.text}"
        return not is_live or "uvicorn" in named or "@on_both" in named


def find_tests() -> dict[str, Source]:
    tests = {}
    for path in TESTS.rglob("test_*.py"):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                begin = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                lines = source.splitlines()[begin - 1 : node.end_lineno]
                tests[node.name] = Source(path, "\n".join(lines))
    return {name: test for name, test in tests.items() if name.startswith("test_")}


@pytest.mark.parametrize(
    ("page", "head", "least"),
    [
        (SECURITY, "threat", 20),
        (GUARANTEES, "promise", 20),
        (FAULTS, "fault", 15),
        (EVIDENCE_OF_ATTACKS, "figure", 27),
    ],
)
def test_every_row_names_a_test_that_exists(page: Path, head: str, least: int) -> None:
    """Skipped tests and tests with only a similar name do not count."""
    rows = read_rows(page, head)
    assert len(rows) >= least
    unnamed = [row for row in rows if "`test_" not in row.rpartition(" | ")[2]]
    assert unnamed == []
    named = set(re.findall(_TEST, page.read_text()))
    tests = find_tests()
    assert sorted(named - set(tests)) == []
    assert [name for name in named if tests[name].is_skipped] == []


def test_what_is_guaranteed_under_uvicorn_is_tried_there() -> None:
    tests = find_tests()
    untried = [
        row
        for row in read_rows(GUARANTEES, "promise")
        if "U" in row.split("|")[3].split()
        and not any(tests[name].runs_uvicorn for name in re.findall(_TEST, row))
    ]
    assert untried == []


def test_every_attack_that_is_named_is_in_the_corpus() -> None:
    text = " ".join(page.read_text() for page in find_pages())
    named = set(re.findall(r"`test_attack\[(\w+)\]`", text))
    assert len(named) > 10
    assert sorted(named - {attack.name for attack in ATTACKS}) == []


def test_every_requirement_is_pinned() -> None:
    """Tests and installations use the same versions until a change pins others."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert [line for line in pins if "==" not in line] == []
