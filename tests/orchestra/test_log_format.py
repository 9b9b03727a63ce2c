"""Test that with LOG_FORMAT=json every line that a process writes is JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from connections.testing.waiting import scale
from tests.project import ROOT

PROGRAM = """
import logging, sys, threading, warnings
import django
django.setup()
from connections.server.process import begin_logging
from twisted.python import log
begin_logging(1)
warnings.warn("a warning", stacklevel=1)
print("a text", file=sys.stderr)
for name in ("django.request", "django.server", "asyncio", "py.test"):
    logging.getLogger(name).error("an error of %s", name)
thread = threading.Thread(target=lambda: {}["a thread"])
thread.start()
thread.join()
log.err(ValueError("of Twisted"))
1 / 0
"""


def run(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run a process, and return the records on its standard error."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "orchestra.settings",
            "ORCHESTRA_VAR": str(folder),
            "LOG_FORMAT": "json",
            "DEBUG": "true",
        },
        capture_output=True,
        text=True,
        timeout=scale(60),
        check=False,
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_of_a_process_is_json(tmp_path: Path) -> None:
    records = run(tmp_path, "-c", PROGRAM)
    text = json.dumps(records)
    for expected in (
        *("a warning", "a text", "of Twisted", "KeyError", "ZeroDivisionError"),
        *("of django.request", "of django.server", "of asyncio"),
    ):
        assert expected in text
    assert len(records) == 9


def test_every_line_of_a_command_is_json(tmp_path: Path) -> None:
    (record,) = run(tmp_path, "manage.py", "connections", "kick")
    assert "CommandError: kick needs" in record["message"]
    assert {"time", "level", "logger", "message"} <= set(record)
