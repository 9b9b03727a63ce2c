"""Test management commands with the options of operators."""

import json
import logging
import os
import subprocess
import sys
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone

from connections.credentials.tokens import verify_access_token
from connections.management.commands.sweep_idle_connections import Rounds
from connections.models import AccessToken, CloseRequest, Connection, ErrorEvent
from connections.sweeper.results import Swept
from tests.connections.rows import make_connection_row, make_node_row
from tests.logged import find_records
from tests.project import ROOT

pytestmark = pytest.mark.django_db(transaction=True)


def run(*arguments: Any, **options: Any) -> str:
    output = StringIO()
    call_command(*arguments, stdout=output, **options)
    return output.getvalue()


@pytest.fixture
def row() -> Connection:
    make_node_row()
    return make_connection_row("c1")


def test_create_access_token_prints_only_the_token() -> None:
    User.objects.create_user("alice")
    printed = run(
        "create_access_token",
        client="phone",
        user="alice",
        expires_in=60,
        scope=["/ws/a/"],
    )
    assert printed.count("\n") == 1
    credential = verify_access_token(printed.strip())
    assert (credential.client_id, credential.scopes) == ("phone", ("/ws/a/",))
    assert AccessToken.objects.get().expires_at is not None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"client": "x" * 256}, "255"),
        ({"client": "user:1"}, "--client: .* reserved"),
        ({"client": "a", "user": "nobody"}, "nobody"),
        ({"client": "a", "expires_in": -1}, "--expires-in -1: expected a number"),
        ({"client": "a", "scope": ["/a b"]}, "--scope"),
    ],
)
def test_create_access_token_reports_invalid_options(
    options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(CommandError, match=problem):
        run("create_access_token", **options)


@pytest.mark.usefixtures("row")
def test_connections_list_shows_open_ones() -> None:
    listed = json.loads(run("connections", "list", "--json"))
    assert [(one["id"], one["client"]) for one in listed] == [("c1", "alice")]
    assert json.loads(run("connections", "list", "--json", "--client", "bob")) == []
    header, line, total = run("connections", "list").splitlines()
    assert header.index("node") == line.index("h:1 (n1)")
    assert header.index("errors") == len(line) - 1
    assert total == "1 open"


def test_connections_list_shows_the_total(row: Connection) -> None:
    """The total exceeds --limit, and includes connections of deleted nodes."""
    row.user = User.objects.create_user("alice")
    row.errors = 3
    row.save()
    row.pk, row.node_id = "c2", "gone"
    row.last_activity_at -= timedelta(hours=5)
    row.save()
    *_, total = run("connections", "list", "--limit", "1").splitlines()
    assert total == "1 of 2 open"
    _, _, last, total = run("connections", "list", "--limit", "2").splitlines()
    assert last.split()[:3] == ["c2", "alice", "alice"]
    assert last.split()[-3:] == ["5", "h", "3"]
    assert total == "2 open"
    (listed,) = json.loads(run("connections", "list", "--json", "--node", "gone"))
    assert listed["idle_seconds"] >= 18_000
    assert listed["errors"] == 3


@pytest.mark.usefixtures("row")
def test_what_clients_name_stays_on_its_line() -> None:
    """An escape sequence would reach the terminal, a line break forge a line."""
    make_connection_row("c2", path="/ws/\x1b[2J\nforged/")
    header, plain, escaped, _ = run("connections", "list").splitlines()
    assert r"/ws/\x1b[2J\nforged/" in escaped
    assert header.index("node") == plain.index("h:1") == escaped.index("h:1")
    lines = run("connections", "show", "c2").splitlines()
    assert r"path              /ws/\x1b[2J\nforged/" in lines
    run("ban", "--client", "\x1b[2J\nforged", "--reason", "spam\x9bm")
    banned, _ = run("ban", "--list").splitlines()
    assert r"client \x1b[2J\nforged until lifted" in banned
    assert r"(spam\x9bm)" in banned
    (exported,) = run("audit", "export", "--action", "ban").splitlines()
    assert r"ban client \x1b[2J\nforged (spam\x9bm)" in exported


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_connections_list_refuses_an_invalid_limit(limit: str) -> None:
    with pytest.raises(CommandError, match=f"--limit {limit}: expected a whole number"):
        run("connections", "list", f"--limit={limit}")


def test_connections_show_finds_a_clients_ref(row: Connection) -> None:
    row.flight = [{"after_seconds": 0.25, "event": "handler_failed", "detail": "e1"}]
    row.save()
    ErrorEvent.objects.create(
        error_id="e1",
        connection=row,
        node_id=row.node_id,
        at=timezone.now(),
        exception_class="builtins.KeyError",
        where="app/views.py:f:3",
    )
    for ref in ("e1", row.connection_id):
        found = json.loads(run("connections", "show", ref, "--json"))
        assert (found["id"], found["flight"]) == (row.connection_id, row.flight)
        assert found["error_events"][0]["exception"] == "builtins.KeyError"
        text = run("connections", "show", ref)
        assert "0.250 s   handler_failed e1" in text
        assert "builtins.KeyError" in text


def test_connections_show_reports_unknown_refs() -> None:
    with pytest.raises(CommandError, match="'nowhere' is no recorded connection"):
        run("connections", "show", "nowhere")


@pytest.mark.usefixtures("row")
def test_connections_kick_posts_a_close_request() -> None:
    result = json.loads(
        run("connections", "kick", "--client", "alice", "--reason", "banned", "--json")
    )
    assert result == {"requested": 1, "code": 4003, "reason": "banned"}
    request = CloseRequest.objects.get()
    assert (request.target, request.value, request.reason) == (
        "client",
        "alice",
        "banned",
    )


@pytest.mark.usefixtures("row")
def test_connections_kick_spreads_a_nodes_clients_over_time() -> None:
    reason = ("--reason", "asked_to_reconnect")
    result = run("connections", "kick", "--node", "n1", *reason, "--spread", "60")
    assert "1 recorded connection(s): 4202 asked_to_reconnect" in result
    request = CloseRequest.objects.get()
    assert (request.target, request.value) == ("node", "n1")
    assert request.spread_seconds == 60


def test_connections_kick_refuses_an_invalid_spread() -> None:
    with pytest.raises(CommandError, match="--spread -1: expected a number"):
        run("connections", "kick", "--client", "a", spread=-1)


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("arguments", [("--client", "nobody"), ("--id", "c9")])
def test_a_kick_that_finds_nobody_fails(arguments: tuple[str, ...]) -> None:
    """It is posted all the same: a node may hold one that it cannot record."""
    name = arguments[0].removeprefix("--")
    with pytest.raises(CommandError, match=f"no open connection with this {name}"):
        run("connections", "kick", *arguments)
    assert CloseRequest.objects.get().value == arguments[1]


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("name", ["n1", "n", "h:1 (n1)"])
def test_a_node_is_named_as_it_is_printed(name: str) -> None:
    (listed,) = json.loads(run("connections", "list", "--json", "--node", name))
    assert listed["node"] == "n1"
    run("connections", "kick", "--node", name)
    assert CloseRequest.objects.get().value == "n1"


@pytest.mark.usefixtures("row")
def test_a_node_without_a_clear_name_is_no_target() -> None:
    with pytest.raises(CommandError, match=r"no node 'x'; serving now: h:1 \(n1\)"):
        run("connections", "kick", "--node", "x")
    make_node_row("n12")
    with pytest.raises(CommandError, match="more than one node: h:1"):
        run("connections", "kick", "--node", "n")
    assert not CloseRequest.objects.exists()


def test_a_connection_is_named_by_the_ref_of_its_error(row: Connection) -> None:
    error = {"error_id": "e1", "connection": row, "node_id": "n1", "at": timezone.now()}
    ErrorEvent.objects.create(**error, exception_class="KeyError", where="a.py:f:3")
    run("connections", "kick", "--id", "e1")
    assert CloseRequest.objects.get().value == row.connection_id


@pytest.mark.parametrize("arguments", [(), ("--client", "a", "--id", "b")])
def test_connections_kick_needs_exactly_one_selector(
    arguments: tuple[str, ...],
) -> None:
    with pytest.raises(CommandError, match="one of"):
        run("connections", "kick", *arguments)


def test_sweep_once_in_json_and_in_words(row: Connection) -> None:
    swept = json.loads(run("sweep_idle_connections", "--once", "--json"))
    assert (swept["idle_requested"], swept["connections_lost"]) == (0, 0)
    assert "nothing to do" in run("sweep_idle_connections", "--once")
    Connection.objects.update(last_activity_at=timezone.now() - timedelta(days=1))
    assert "would be: 1 idle connection asked" in run(
        "sweep_idle_connections", "--dry-run"
    )
    assert not CloseRequest.objects.exists()
    assert "1 idle" in run("sweep_idle_connections", "--once")


def test_repeated_sweeps_log_what_they_do_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "connections")
    reports = [
        Swept(),
        Swept(minutes_rolled=4),
        Swept(is_leader=False),
        Swept(is_leader=False),
        Swept(idle_requested=2, tasks={"append_keys_pruned": 3}),
    ]
    rounds = Rounds()
    for swept in reports:
        rounds.report(swept)
    said = find_records(caplog, Rounds.__module__)
    assert [record.getMessage() for record in said] == [
        "Another sweeper works",
        "This sweeper works",
        "Swept: 2 idle connections asked to end, 3 append keys pruned",
    ]


@pytest.mark.parametrize("flag", ["--interval", "--idle-seconds", "--batch-size"])
def test_sweep_refuses_invalid_numbers(flag: str) -> None:
    with pytest.raises(CommandError, match=flag):
        run("sweep_idle_connections", "--once", flag, "0")


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e300"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("connections", "kick", "--client", "a", "--spread"),
        ("ban", "--client", "a", "--for"),
        ("create_access_token", "--client", "a", "--expires-in"),
        ("sweep_idle_connections", "--once", "--interval"),
        ("sweep_idle_connections", "--once", "--idle-seconds"),
        ("prune_sessions", "--unused-days"),
        ("capacity", "--seconds"),
        ("capacity", "--messages-per-second"),
        ("capacity", "--max-p99-ms"),
    ],
)
def test_a_number_out_of_range_is_one_line(
    arguments: tuple[str, ...], value: str
) -> None:
    problem = rf"^{arguments[-1]} \S+: expected a number from \S+ to \S+$"
    with pytest.raises(CommandError, match=problem):
        run(*arguments, value)


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_does_not_exist_is_one_line(port: str) -> None:
    with pytest.raises(CommandError, match=f"--port {port}: expected a whole number"):
        run("serve", f"--port={port}")


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (("alerts", "--without-mail"), "--without-mail needs --self-test"),
        (("sweep_idle_connections", "--force"), "--force needs --once"),
    ],
)
def test_a_flag_without_the_one_it_needs_is_refused(
    command: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(CommandError, match=problem):
        run(*command)


def test_close_codes_in_json_and_in_words() -> None:
    table = json.loads(run("close_codes", "--json"))
    assert table["codes"]["4005"]["reconnect"] == "never"
    assert table["hundreds"]["41"]["after_ms"] == [5000, 15000]
    assert table["others"]["reconnect"] == "backoff"
    assert "4300  idle               on_action" in run("close_codes").splitlines()


_IMPORTS = """
import sys
from django.core.management import call_command, get_commands, load_command_class

call_command("check")
for name, app in get_commands().items():
    if app in ("connections", "sessions_history") and name not in {SERVING}:
        load_command_class(app, name).create_parser("manage.py", name)
print(sorted({"autobahn", "daphne", "twisted"} & {*sys.modules}))
"""


def test_commands_that_serve_nothing_import_no_server() -> None:
    """Importing daphne and Twisted costs each command a second of CPU."""
    serving = repr({"serve", "runserver", "capacity"})
    code = "import django; django.setup()" + _IMPORTS.replace("{SERVING}", serving)
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "orchestra.settings"},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.splitlines()[-1] == "[]"
