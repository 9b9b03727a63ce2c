"""Type-check a user's project against the built wheel."""

import re
from pathlib import Path

import pytest

from tests.packaging.conftest import Built
from tests.packaging.environments import Environment, run_python
from tests.pages import QUICKSTART, README, read_blocks

IMPORTS = """
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from connections.limits import Limits
"""

MORE = """

def widen(limits: Limits) -> Limits:
    return replace(limits, max_connections_per_client=10)


def refuse(consumer: ChatConsumer) -> None:
    close(consumer.end)


def close(end: Callable[[int, str], None]) -> None:
    end(1008, "policy")
"""


def read_consumer(page: Path) -> str:
    """Return the consumer of a page with annotations, as `--strict` asks."""
    blocks = read_blocks(page.read_text(), "python")
    consumer = next(block for block in blocks if "class ChatConsumer" in block)
    return re.sub(
        r"async def (\w+)\(self, (\w+)\):",
        r"async def \1(self, \2: dict[str, Any]) -> None:",
        consumer,
    )


@pytest.fixture
def environment(library: Built, tmp_path: Path) -> Environment:
    made = Environment(tmp_path / "venv", library.wheel)
    made.add_packages_of_tests()
    return made


@pytest.mark.parametrize("page", [README, QUICKSTART], ids=["readme", "quickstart"])
def test_a_users_consumer_passes_mypy_strict(
    environment: Environment, tmp_path: Path, page: Path
) -> None:
    consumer = tmp_path / "consumers.py"
    consumer.write_text(IMPORTS + read_consumer(page) + MORE)
    run_python(
        *("-m", "mypy", "--strict", "--python-executable", str(environment.python)),
        *("--cache-dir", str(tmp_path / "cache"), str(consumer)),
        folder=tmp_path,
        seconds=120,
    )


def test_a_wrong_argument_of_a_user_is_found(
    environment: Environment, tmp_path: Path
) -> None:
    """The annotations reach the user: without py.typed all would be Any."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from connections.client import SessionClient\n\n"
        "SessionClient(b'not a string', token=5)\n"
    )
    with pytest.raises(AssertionError, match="arg-type"):
        run_python(
            *("-m", "mypy", "--strict", "--python-executable", str(environment.python)),
            *("--cache-dir", str(tmp_path / "cache"), str(wrong)),
            folder=tmp_path,
            seconds=120,
        )
