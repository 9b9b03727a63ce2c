"""README says what the code does."""

import re
from pathlib import Path

from connections.close_codes import ENDINGS
from connections.config import describe
from connections.management.commands.websocket_config import make_table

README = Path(__file__).resolve().parents[1] / "README.md"
TESTS = README.parent / "tests"


def test_the_table_of_keys_is_the_one_the_code_gives() -> None:
    """`manage.py websocket_config --table` prints what has to stand there."""
    text = README.read_text()
    start, end = "<!-- configuration -->\n", "\n<!-- /configuration -->"
    assert text.partition(start)[2].partition(end)[0] == make_table(describe())


def test_every_reason_is_in_the_table_of_close_codes() -> None:
    table = README.read_text().partition("## Close codes")[2].partition("\n## ")[0]
    never_sent = {"closed", "network", "lost", "policy"}
    assert [
        word for word in ENDINGS if word not in table and word not in never_sent
    ] == []


def read_section(title: str) -> str:
    return README.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_threat_names_a_test_that_exists() -> None:
    """Skipped tests do not count, nor such as are only named alike."""
    table = read_section("Security")
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 20
    unnamed = [row for row in rows if "`test_" not in row.rpartition(" | ")[2]]
    assert unnamed == []
    sources = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)\(", sources, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", table))
    assert sorted(named - defined) == []


def test_every_requirement_is_pinned() -> None:
    """What is tested is what is installed, until somebody decides otherwise."""
    lines = (README.parent / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert [line for line in pins if "==" not in line] == []
