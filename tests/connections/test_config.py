"""Test that the configuration reports all problems, and prevents a start."""

from pathlib import Path
from typing import Any

import pytest
from django.core import checks

from connections.config.loader import WebSocketConfig, get_config, load
from connections.exceptions import ConfigError
from connections.routing import protect
from connections.units import format_size, parse_size


def read(
    tmp_path: Path, text: str, environ: dict[str, str] | None = None
) -> WebSocketConfig:
    path = tmp_path / "websocket.yaml"
    path.write_text(text)
    return load(path, environ or {})


def paths(config: WebSocketConfig) -> set[str]:
    return {problem.path for problem in config.problems}


def test_the_main_keys_have_their_defaults() -> None:
    config = WebSocketConfig()
    assert config.max_connections_per_client == 5
    assert config.max_total_connections == 1000
    assert config.idle_timeout_seconds == 300
    assert config.ping_interval_seconds == 30
    assert config.max_message_size == 1_000_000
    assert config.max_session_history == 100


def test_the_projects_own_file_is_valid(settings: Any) -> None:
    assert settings.WEBSOCKET.problems == ()
    assert settings.WEBSOCKET.source.endswith("orchestra/websocket.yaml")


def test_every_problem_is_reported_with_path_value_and_range(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "websocket:\n"
        "  max_total_connections: many\n"
        "  idle_timeout_seconds: -1\n"
        "  max_message_size: 1XB\n"
        "  on_client_limit: kick\n"
        "  allowed_origins: [example.com]\n"
        "  trusted_proxies: [10.0.0.0/99]\n"
        "  node: {beat_seconds: true}\n"
        "  errors: 5\n"
        "  idle_time: 3\n",
    )
    assert paths(config) == {
        "websocket.max_total_connections",
        "websocket.idle_timeout_seconds",
        "websocket.max_message_size",
        "websocket.on_client_limit",
        "websocket.allowed_origins",
        "websocket.trusted_proxies",
        "websocket.node.beat_seconds",
        "websocket.errors",
        "websocket.idle_time",
    }
    with pytest.raises(ConfigError) as raised:
        config.require_valid()
    text = str(raised.value)
    assert "'kick' is not allowed; one of evict_oldest, refuse" in text
    assert "an unknown key; known: max_connections_per_client" in text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("websocket: [", "readable YAML"),
        ("other: {}", "no section websocket:"),
        ("websocket: {}\nother: {secret: 1}", "other sections: other'"),
        ("", "one section"),
        ("websocket: {a: 1, a: 2}", "given twice"),
        ("websocket: {? [a] : 1}", "unhashable"),
        ("websocket: {a: 2024-13-45}", "readable YAML"),
    ],
)
def test_an_invalid_file_is_a_problem(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in str(read(tmp_path, text).problems[0])


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    assert "no such file" in str(load(tmp_path / "none.yaml", {}).problems[0])


def test_the_environment_overrides_single_keys(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "websocket: {rate_limit: {burst_messages: 7}}",
        {
            "WEBSOCKET__IDLE_TIMEOUT_SECONDS": "60",
            "WEBSOCKET__RATE_LIMIT__MESSAGES_PER_SECOND": "10",
            "WEBSOCKET__MAX_MESSAGE_SIZE": "64KiB",
            "WEBSOCKET__ANONYMOUS": "true",
            "WEBSOCKET__ALLOWED_ORIGINS": "https://a.example, https://*.b.example",
        },
    )
    assert config.problems == ()
    assert config.idle_timeout_seconds == 60
    assert config.rate_limit.messages_per_second == 10
    assert config.rate_limit.burst_messages == 7
    assert config.max_message_size == 65536
    assert config.anonymous is True
    assert config.allowed_origins == ("https://a.example", "https://*.b.example")


def test_a_wrong_variable_is_a_problem(tmp_path: Path) -> None:
    environ = {"WEBSOCKET__IDLE_TIMEOUT": "1", "WEBSOCKET__NODE__BEAT_SECONDS": "["}
    config = read(tmp_path, "websocket: {}", environ)
    assert paths(config) == {
        "websocket.idle_timeout",
        "WEBSOCKET__NODE__BEAT_SECONDS",
    }


def test_keys_that_contradict_each_other_are_problems(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "websocket:\n"
        "  max_connections_per_client: 10\n"
        "  max_total_connections: 5\n"
        "  max_message_size: 5MB\n"
        "  node: {beat_seconds: 10}\n",
    )
    assert {
        "websocket.max_connections_per_client",
        "websocket.rate_limit.burst_bytes",
        "websocket.node.node_timeout_seconds",
        "websocket.node.lease_seconds",
    } <= paths(config)


@pytest.mark.django_db
def test_the_check_names_each_problem_with_a_hint(settings: Any) -> None:
    settings.WEBSOCKET = {"max_total_connections": 0, "nonsense": 1}
    found = [one for one in checks.run_checks() if one.id == "connections.E001"]
    assert len(found) == 2
    assert all(one.hint for one in found)


def test_a_dict_in_settings_is_enough(settings: Any) -> None:
    settings.WEBSOCKET = {"max_connections_per_client": 2}
    assert get_config().max_connections_per_client == 2
    assert get_config() is get_config()
    del settings.WEBSOCKET
    assert get_config().max_connections_per_client == 5


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MB", 10**6), ("1MiB", 2**20), ("64 kB", 64_000), ("1.5kB", 1500), (4096, 4096)],
)
def test_sizes_are_decimal_or_binary(text: str | int, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1 XB", "0.5", "1e3", True, -4])
def test_invalid_sizes_are_refused(text: Any) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


def test_no_application_starts_with_a_bad_configuration(settings: Any) -> None:
    """No server can import the application."""
    settings.WEBSOCKET = {"max_total_connections": 0}
    with pytest.raises(ConfigError, match="max_total_connections: 0 is not allowed"):
        protect(http=None, websocket=[])
