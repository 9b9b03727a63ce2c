"""Checks of management commands: every command of these apps, with its options."""

import asyncio

from django.core.management import get_commands

from tests.adoption.case import Case, add_check
from tests.adoption.projects import CommandFailed

COMMANDS = (
    ("check",),
    ("check", "--deploy"),
    ("makemigrations", "--check", "--dry-run", "connections", "sessions_history"),
    ("migrate", "--check"),
    ("connections", "list"),
    ("connections", "list", "--json"),
    ("connections", "list", "--user", "root"),
    ("connections", "list", "--client", "nobody"),
    ("alerts",),
    ("alerts", "--json"),
    ("alerts", "--self-test"),
    ("audit", "export"),
    ("audit", "export", "--json"),
    ("ban", "--list"),
    ("ban", "--list", "--json"),
    ("ban", "--address", "203.0.113.99", "--for", "60"),
    ("unban", "--address", "203.0.113.98"),
    ("close_codes",),
    ("close_codes", "--json"),
    ("create_access_token", "--client", "of-a-command", "--user", "alice"),
    ("export_person", "--user", "dave"),
    ("limits", "forecast"),
    ("limits", "forecast", "--max-connections-per-client", "1", "--json"),
    ("prometheus_rules",),
    ("sweep_idle_connections", "--once"),
    ("sweep_idle_connections", "--once", "--json"),
    ("sweep_idle_connections", "--once", "--dry-run"),
    ("websocket_config",),
    ("websocket_config", "--json"),
    ("prune_sessions", "--dry-run"),
)

IN_VAIN = (
    ("forget", "--client", "unheard-of"),
    ("connections", "kick", "--client", "nobody"),
    ("sessions", "renew_epoch", "--client", "nobody"),
)
"""Commands that find nothing to act on, and fail."""

_SERVERS = {
    "answer_messages",
    "capacity",
    "prepare_development",
    "runserver",
    "serve",
}
"""Commands that serve, or that change the project; only their help is read."""


async def run_command(case: Case, *arguments: str) -> None:
    await asyncio.to_thread(case.project.manage, *arguments)


async def fail_command(case: Case, *arguments: str) -> None:
    try:
        await run_command(case, *arguments)
    except CommandFailed as exc:
        assert "Traceback" not in str(exc)
    else:
        raise AssertionError(f"{arguments} acted on nothing, and did not say so")


def find_commands() -> list[str]:
    """Return the names of the commands of these apps."""
    ours = ("connections", "sessions_history")
    return sorted(name for name, app in get_commands().items() if app in ours)


for _name in find_commands():
    add_check(f"manage_{_name}_--help", run_command, _name, "--help")
for _arguments in COMMANDS:
    add_check(f"manage_{'_'.join(_arguments)}", run_command, *_arguments)
for _arguments in IN_VAIN:
    add_check(f"manage_{'_'.join(_arguments)}", fail_command, *_arguments)
_checked = {one[0] for one in (*COMMANDS, *IN_VAIN)}
if _missing := {*find_commands()} - _SERVERS - _checked:
    raise ValueError(f"no check runs {_missing}")
