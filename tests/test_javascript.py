"""Run the browser client's own tests in node, and compare its close codes."""

import subprocess
from pathlib import Path

import pytest

from connections.management.commands.close_codes import make_module
from connections.testing.waiting import scale
from tests.node import find_node

pytestmark = pytest.mark.source

ROOT = Path(__file__).resolve().parents[1]
MODULES = ROOT / "connections" / "static" / "connections"
TESTS = sorted(ROOT.glob("tests/js/*.test.mjs"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name.split(".")[0])
def test_in_node(path: Path) -> None:
    done = subprocess.run(
        [find_node(), "--test", path],
        capture_output=True,
        text=True,
        timeout=scale(60),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_of_close_codes_is_the_one_in_python() -> None:
    """The file holds the output of `manage.py close_codes --javascript`."""
    assert (MODULES / "close_codes.js").read_text() == make_module()
