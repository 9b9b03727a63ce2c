"""Test that manage.py websocket_config shows values with their sources."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from connections.config.loader import describe, load


def run(*arguments: str) -> str:
    output = StringIO()
    call_command("websocket_config", *arguments, stdout=output)
    return output.getvalue()


def read_sources() -> dict[str, tuple[Any, str]]:
    found = json.loads(run("--json"))
    return {path: (one["value"], one["from"]) for path, one in found.items()}


@pytest.fixture
def path(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A configuration with values from several sources."""
    path = tmp_path / "websocket.yaml"
    path.write_text(
        "websocket:\n"
        "  idle_timeout_seconds: 300\n"
        "  max_message_size: 64KiB\n"
        "  node: {beat_seconds: 2}\n"
        "  drain:\n"
    )
    environ = {
        "WEBSOCKET__IDLE_TIMEOUT_SECONDS": "60",
        "WEBSOCKET__NODE__lease_seconds": "20",
    }
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    settings.WEBSOCKET = load(path, environ, defaults={"echo_endpoint": True})
    return str(path)


def test_each_value_is_shown_with_its_source(path: str) -> None:
    """A value of the file counts as given even where it is the default."""
    found = read_sources()
    assert list(found) == [key.path for key in describe()]
    assert found["idle_timeout_seconds"] == (60, "WEBSOCKET__IDLE_TIMEOUT_SECONDS")
    assert found["node.lease_seconds"] == (20, "WEBSOCKET__NODE__lease_seconds")
    assert found["max_message_size"] == (65536, path)
    assert found["node.beat_seconds"] == (2, path)
    assert found["echo_endpoint"] == (True, "settings")
    assert found["allowed_origins"] == ([], "default")
    assert found["drain.grace_seconds"] == (20, "default")
    assert found["node.node_timeout_seconds"] == (15, "default")


def test_a_variable_of_a_section_replaces_that_of_the_file(
    path: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WEBSOCKET__NODE__lease_seconds", "WEBSOCKET__IDLE_TIMEOUT_SECONDS"):
        monkeypatch.delenv(name)
    environ = {
        "WEBSOCKET__NODE": "{node_timeout_seconds: 20}",
        "WEBSOCKET__NODE__LEASE_SECONDS": "25",
        "WEBSOCKET__DRAIN": "{grace_seconds: [}",
    }
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    settings.WEBSOCKET = load(Path(path), environ)
    found = read_sources()
    assert found["node.node_timeout_seconds"] == (20, "WEBSOCKET__NODE")
    assert found["node.lease_seconds"] == (25, "WEBSOCKET__NODE__LEASE_SECONDS")
    assert found["node.beat_seconds"] == (1, "default")
    assert found["drain.grace_seconds"] == (20, "default")
    assert found["idle_timeout_seconds"] == (300, path)


@pytest.mark.parametrize(
    "text", ["", "other: 1", "websocket: {}\nother: 1", "- a", "a: [", "\x00"]
)
def test_a_file_of_which_nothing_is_taken_is_no_source(
    tmp_path: Path, settings: Any, text: str
) -> None:
    path = tmp_path / "websocket.yaml"
    path.write_text(text)
    settings.WEBSOCKET = load(path, {})
    assert {source for _, source in read_sources().values()} == {"default"}


def test_text_shows_the_same_as_json(path: str) -> None:
    lines = run().splitlines()
    assert f"max_message_size: 65536  # {path}" in lines
    assert "echo_endpoint: true  # settings" in lines
    assert len(lines) == len(describe())


def test_a_dict_in_settings_is_a_source(settings: Any) -> None:
    settings.WEBSOCKET = {"max_connections_per_client": 5}
    found = read_sources()
    assert found["max_connections_per_client"] == (5, "settings.WEBSOCKET")
    assert found["max_total_connections"] == (1000, "default")


def test_the_table_has_a_row_for_each_key() -> None:
    rows = run("--table").splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [key.path for key in describe()]


def test_the_modes_of_routes_are_shown(settings: Any) -> None:
    settings.WEBSOCKET = {"enforce": {"routes": {"ws/a/": {"size": "observe"}}}}
    [route], source = read_sources()["enforce.routes"]
    assert route == {"route": "ws/a/", "modes": [["size", "observe"]]}
    assert source == "settings.WEBSOCKET"
    assert 'enforce.routes: [{"route": "ws/a/"' in run()
