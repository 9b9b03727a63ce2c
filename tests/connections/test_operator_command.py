"""Test the base of the commands, and the progress that they show."""

import os
import subprocess
import sys
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from connections.management.operator_command import OperatorCommand
from connections.management.progress import Progress
from tests.connections.fake_loop import FakeLoop
from tests.project import ROOT


class Failing(OperatorCommand):
    requires_system_checks = []

    def __init__(self, exc: BaseException) -> None:
        super().__init__(stdout=StringIO())
        self._exc = exc

    def handle(self, *args: Any, **options: Any) -> None:
        raise self._exc


@pytest.mark.parametrize(
    ("exc", "message", "status"),
    [(KeyboardInterrupt(), "interrupted", 130), (OperationalError("x"), "x", 1)],
)
def test_what_ends_a_command_is_one_line(
    exc: BaseException, message: str, status: int
) -> None:
    with pytest.raises(CommandError, match=message) as raised:
        call_command(Failing(exc))
    assert raised.value.returncode == status


def test_a_reader_that_has_enough_is_no_error() -> None:
    """As in `manage.py close_codes | head -1`."""
    command = subprocess.Popen(
        [sys.executable, "-m", "django", "close_codes"],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "orchestra.settings"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    command.stdout.close()
    _, errors = command.communicate()
    assert (command.returncode, errors) == (0, b"")


def test_progress_shows_an_estimate_every_two_seconds() -> None:
    loop = FakeLoop()
    lines: list[str] = []
    progress = Progress(lines.append, loop.time)
    for done in range(1000, 7000, 1000):
        progress.advance("The deletion", done, lambda: 3000)
        loop.advance(1)
    assert lines == [
        "The deletion: 3,000 of 6,000 rows, about 3 s left",
        "The deletion: 5,000 of 6,000 rows, about 1 s left",
    ]
    progress.advance("The next part", 10, lambda: 0)
    assert lines[2:] == ["The next part: 10 of 10 rows"]


def test_quick_work_shows_no_progress() -> None:
    loop = FakeLoop()
    lines: list[str] = []
    progress = Progress(lines.append, loop.time)
    progress.advance("The deletion", 10, lambda: 1 // 0)
    loop.advance(1.9)
    progress.advance("The next part", 10, lambda: 1 // 0)
    assert lines == []
