"""Compare README with the code, the configuration and the tests."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from connections.close_codes import CLOSE_REASONS
from connections.config.loader import describe
from connections.management.commands.websocket_config import make_table
from tests.abuse.corpus import ATTACKS
from tests.readme import README, read_section

TESTS = README.parent / "tests"

_TEST = re.compile(r"`(test_\w+)(?:\[\w+\])?`")
"""A test, or one case of it."""


def test_the_table_of_keys_is_the_one_the_code_gives() -> None:
    """The table is the output of `manage.py websocket_config --table`."""
    text = README.read_text()
    start, end = "<!-- configuration -->\n", "\n<!-- /configuration -->"
    assert text.partition(start)[2].partition(end)[0] == make_table(describe())


def test_every_reason_is_in_the_table_of_close_codes() -> None:
    table = README.read_text().partition("## Close codes")[2].partition("\n## ")[0]
    never_sent = {"closed", "network", "lost", "policy"}
    assert [
        word for word in CLOSE_REASONS if word not in table and word not in never_sent
    ] == []


def read_rows(title: str) -> list[str]:
    return [line for line in read_section(title).splitlines() if line[:2] == "| "][2:]


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
    ("title", "least"), [("Security", 20), ("Guarantees", 20), ("Faults", 15)]
)
def test_every_row_names_a_test_that_exists(title: str, least: int) -> None:
    """Skipped tests and tests with only a similar name do not count."""
    rows = read_rows(title)
    assert len(rows) >= least
    unnamed = [row for row in rows if "`test_" not in row.rpartition(" | ")[2]]
    assert unnamed == []
    named = set(re.findall(_TEST, read_section(title)))
    tests = find_tests()
    assert sorted(named - set(tests)) == []
    assert [name for name in named if tests[name].is_skipped] == []


def test_what_is_guaranteed_under_uvicorn_is_tried_there() -> None:
    tests = find_tests()
    untried = [
        row
        for row in read_rows("Guarantees")
        if "U" in row.split("|")[3].split()
        and not any(tests[name].runs_uvicorn for name in re.findall(_TEST, row))
    ]
    assert untried == []


def test_every_attack_that_is_named_is_in_the_corpus() -> None:
    named = set(re.findall(r"`test_attack\[(\w+)\]`", README.read_text()))
    assert len(named) > 10
    assert sorted(named - {attack.name for attack in ATTACKS}) == []


def test_every_requirement_is_pinned() -> None:
    """Tests and installations use the same versions until a change pins others."""
    lines = (README.parent / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert [line for line in pins if "==" not in line] == []
