"""Settings as a process of its own reads them from its environment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connections.testing.waiting import scale

ROOT = Path(__file__).resolve().parents[2]

PRINT = (
    "import json; from django.conf import settings;"
    " names = [name for name in dir(settings) if name.isupper()];"
    " found = {name: getattr(settings, name) for name in names};"
    " print(json.dumps(found, default=str))"
)
UNSET = ("DEBUG", "HSTS_SECONDS", "SECURE_SSL_REDIRECT")


def read_settings(folder: Path, **environment: str) -> dict[str, Any]:
    """Return the settings that a process reads from its environment."""
    inherited = {name: text for name, text in os.environ.items() if name not in UNSET}
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        cwd=ROOT,
        env={
            **inherited,
            "DJANGO_SETTINGS_MODULE": "orchestra.settings",
            "ORCHESTRA_VAR": str(folder),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=scale(30),
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def read_database(folder: Path, url: str) -> dict[str, Any]:
    found: dict[str, Any] = read_settings(folder, DATABASE_URL=url)["DATABASES"]
    default: dict[str, Any] = found["default"]
    return default


def test_production_is_safe_unless_the_environment_says_otherwise(
    tmp_path: Path,
) -> None:
    found = read_settings(tmp_path)
    assert found["DEBUG"] is False
    assert found["SESSION_COOKIE_SECURE"] is found["CSRF_COOKIE_SECURE"] is True
    assert found["SECURE_HSTS_SECONDS"] == 0
    assert found["SECURE_HSTS_INCLUDE_SUBDOMAINS"] is False
    assert found["SECURE_HSTS_PRELOAD"] is False
    assert found["SECURE_PROXY_SSL_HEADER"] is None
    assert found["CSRF_TRUSTED_ORIGINS"] == []


def test_the_environment_decides_about_tls(tmp_path: Path) -> None:
    found = read_settings(
        tmp_path,
        SECURE_SSL_REDIRECT="true",
        SESSION_COOKIE_SECURE="off",
        CSRF_COOKIE_SECURE="0",
        HSTS_SECONDS="3600",
        CSRF_TRUSTED_ORIGINS="https://a.example.com, https://*.b.example.com:8443",
    )
    assert found["SECURE_SSL_REDIRECT"] is True
    assert found["SESSION_COOKIE_SECURE"] is found["CSRF_COOKIE_SECURE"] is False
    assert found["SECURE_HSTS_SECONDS"] == 3600
    assert found["SECURE_HSTS_INCLUDE_SUBDOMAINS"] is False
    assert found["SECURE_HSTS_PRELOAD"] is False
    assert found["CSRF_TRUSTED_ORIGINS"] == [
        "https://a.example.com",
        "https://*.b.example.com:8443",
    ]


def test_development_needs_no_tls(tmp_path: Path) -> None:
    found = read_settings(tmp_path, DEBUG="true")
    assert found["SESSION_COOKIE_SECURE"] is found["CSRF_COOKIE_SECURE"] is False


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
    ("program", "is_limited"),
    [
        (["manage.py", "migrate"], False),
        (["/srv/manage.py", "sweep_idle_connections", "--once"], False),
        (["/usr/bin/django-admin", "prune_sessions"], False),
        (["/venv/site-packages/django/__main__.py", "clearsessions"], False),
        (["manage.py", "serve"], True),
        (["/venv/site-packages/django/__main__.py", "runserver", "8000"], True),
        (["/venv/bin/uvicorn", "orchestra.asgi:application"], True),
        (["/venv/site-packages/daphne/__main__.py", "migrate"], True),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_long_statements_are_for_commands_alone(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    program: list[str],
    is_limited: bool,
) -> None:
    """Locks are limited in all, so that a migration holds up nobody for long."""
    monkeypatch.setenv("ORCHESTRA_VAR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "postgres://user@db.example/name")
    monkeypatch.setattr(sys, "argv", program)
    found: dict[str, Any] = {"__file__": str(ROOT / "orchestra" / "settings.py")}
    exec(Path(found["__file__"]).read_text(), found)
    options = found["DATABASES"]["default"]["OPTIONS"]["options"]
    assert ("statement_timeout" in options) is is_limited
    assert "lock_timeout=5000" in options


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LOG_LEVEL", "LOUD", "'LOUD'; allowed: DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("DEBUG", "ture", "'ture'; allowed: 1, true, yes, on, 0, false, no, off"),
        ("SECURE_SSL_REDIRECT", "maybe", "'maybe'; allowed: 1, true, yes"),
        ("HSTS_SECONDS", "-1", "'-1'; allowed: whole numbers from 0 to"),
        ("EMAIL_PORT", "smtp", "'smtp'; allowed: whole numbers from 0 to 65535"),
        ("CSRF_TRUSTED_ORIGINS", "a.b", "'a.b'; allowed: https://host"),
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
        timeout=scale(30),
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith((f"manage.py: {name} is ", f"manage.py: {name} has "))
    assert allowed in line
    assert "word" not in line.partition(";")[0]


def test_keys_of_redis_are_a_list_of_the_environment(tmp_path: Path) -> None:
    keys = ["new" * 11, "old" * 11]
    found = read_settings(tmp_path, REDIS_ENCRYPTION_KEYS=", ".join(keys))
    assert found["REDIS_ENCRYPTION_KEYS"] == keys
    assert read_settings(tmp_path)["REDIS_ENCRYPTION_KEYS"] == []


def test_the_sqlite_file_is_for_its_user_alone(tmp_path: Path) -> None:
    """SQLite would create it for everybody to read; a file that exists stays."""
    read_settings(tmp_path)
    created = tmp_path / "db.sqlite3"
    assert created.stat().st_mode & 0o777 == 0o600
    created.chmod(0o640)
    read_settings(tmp_path)
    assert created.stat().st_mode & 0o777 == 0o640
    read_settings(tmp_path, DATABASE_URL=f"sqlite:///{tmp_path}/other.sqlite3")
    assert (tmp_path / "other.sqlite3").stat().st_mode & 0o777 == 0o600
    read_settings(tmp_path, DATABASE_URL="sqlite://:memory:")
    assert not list(tmp_path.glob("*memory*"))


@pytest.mark.parametrize(
    ("environment", "layer"),
    [
        ({}, "local.LocalLayer"),
        ({"DATABASE_URL": "postgres://here/orchestra"}, "postgres.PostgresLayer"),
        (
            {"DATABASE_URL": "postgres://here/orchestra", "REDIS_URL": "redis://here"},
            "redis.RedisLayer",
        ),
        ({"REDIS_URL": "redis://here"}, "redis.RedisLayer"),
    ],
)
def test_groups_reach_all_nodes_over_what_they_share(
    tmp_path: Path, environment: dict[str, str], layer: str
) -> None:
    unset = {"DATABASE_URL": "", "REDIS_URL": ""}
    found = read_settings(tmp_path, **{**unset, **environment})
    backend = found["CHANNEL_LAYERS"]["default"]["BACKEND"]
    assert backend == f"connections.layers.{layer}"
