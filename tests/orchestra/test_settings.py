"""Settings as a process of its own reads them from its environment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

PRINT = (
    "import json; from django.conf import settings;"
    " print(json.dumps(settings.DATABASES['default'], default=str))"
)


def read_database(folder: Path, url: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "orchestra.settings",
            "DATABASE_URL": url,
            "ORCHESTRA_VAR": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_without_a_url_it_is_sqlite_that_waits_for_its_turn(tmp_path: Path) -> None:
    found = read_database(tmp_path, "")
    assert found["NAME"] == str(tmp_path / "db.sqlite3")
    assert found["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert "journal_mode=WAL" in found["OPTIONS"]["init_command"]


def test_what_the_url_asks_for_is_not_dropped(tmp_path: Path) -> None:
    """A connection that was to be encrypted must not be made without."""
    url = "postgres://user:secret@db.example/name?sslmode=require&connect_timeout=9"
    options = read_database(tmp_path, url)["OPTIONS"]
    assert options["sslmode"] == "require"
    assert options["connect_timeout"] == 9
    assert "statement_timeout" in options["options"]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LOG_LEVEL", "LOUD", "'LOUD'; allowed: DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("LOG_FORMAT", "xml", "'xml'; allowed: text, json"),
        ("DATABASE_URL", "pass:word", "allowed: sqlite:////path/of/the/file or post"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(
    tmp_path: Path, name: str, value: str, allowed: str
) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={**os.environ, "ORCHESTRA_VAR": str(tmp_path), name: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith(f"manage.py: {name} is ")
    assert allowed in line
    assert "word" not in line.partition(";")[0]
