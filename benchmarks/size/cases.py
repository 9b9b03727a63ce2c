"""The lists, searches, filters, pages and commands that staff use, each as a case."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from urllib.parse import urlencode

from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from benchmarks.size.rows import Sizes, name_row

BUSY = "busy"
"""The client that has a tenth of all connections and sessions."""

BUSY_USER = "user-1"
_ADMIN = "/admin/connections"
_ENTRIES = "/admin/sessions_history/historyentry/"
_SESSIONS = "/admin/sessions_history/session/"


@dataclass(frozen=True, slots=True)
class Case:
    """One request or command."""

    name: str
    run: Callable[[Client], object]


def list_cases(sizes: Sizes) -> Iterator[Case]:
    """Yield every case, for tables of these sizes."""
    for name, url in _list_urls(sizes).items():
        yield Case(name, partial(_get, url))
    for line in _list_commands(sizes):
        yield Case(f"manage.py {line}", partial(_call, line))


def _get(url: str, client: Client) -> None:
    answer = client.get(url, SERVER_NAME="localhost")
    if answer.status_code != 200:
        raise RuntimeError(f"{url} answered {answer.status_code}")


def _call(line: str, client: Client) -> None:
    call_command(*line.split(), stdout=io.StringIO(), stderr=io.StringIO())


def _list_urls(sizes: Sizes) -> dict[str, str]:
    connections, errors = f"{_ADMIN}/connection/", f"{_ADMIN}/errorevent/"
    middle = name_row("01", sizes.rows // 2)
    error = name_row("02", sizes.errors // 2)
    node = name_row("ab", 1)
    session = name_row("03", sizes.sessions // 2)
    day = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    today = urlencode({"opened_at__gte": day})
    years_ago = {"gte": day - timedelta(days=900), "lt": day - timedelta(days=800)}
    past = urlencode({f"opened_at__{name}": at for name, at in years_ago.items()})
    queries = {
        "connections": "",
        "connections, later page": "p=40&state=all",
        "connections, closed": "state=closed",
        "connections, all": "state=all",
        "connections, slow": "state=slow",
        "connections of a node": f"node={node}",
        "connections of a node, all": f"node={node}&state=all",
        "connections, rare reason": "reason=banned",
        "connections, frequent reason": "reason=idle",
        "connections, absent reason": "reason=kicked",
        "connections of a node, rare reason": f"node={node}&reason=banned&state=all",
        "connections, today": f"{today}&state=all",
        "connections, no such day": f"{past}&state=all",
        "connections, search an id": f"q={middle}&state=all",
        "connections, search a client": "q=client-77&state=all",
        "connections, search a busy client": f"q={BUSY}&state=all",
        "connections, search a user": f"q={BUSY_USER}&state=all",
        "connections, search nothing": "q=nobody&state=all",
        "connections, search open ones": "q=client-77",
        "connections, by client": "o=1&state=all",
        "connections, by route": "o=8&state=all",
        "connections of a client": f"client_id={BUSY}&state=all",
    }
    found = {name: f"{connections}?{query}" for name, query in queries.items()}
    queries = {
        "errors by place": "",
        "errors": "p=1",
        "errors, later page": f"p={min(40, sizes.errors // 2000)}",
        "errors, rare class": "exception_class=RareError",
        "errors, frequent class": "exception_class=Error1",
        "errors, absent class": "exception_class=NoError",
        "errors, search a ref": f"q={error}",
        "errors, search a connection": f"q={middle}",
        "errors, search nothing": "q=nothing",
        "errors, by place": "o=4",
        "errors of a connection": f"connection__connection_id={middle}",
    }
    found |= {name: f"{errors}?{query}" for name, query in queries.items()}
    queries = {
        "entries": "",
        "entries, later page": "p=40",
        "entries, rare state": "state__exact=error",
        "entries, absent state": "state__exact=interrupted",
        "entries of a sender": "sender__exact=server",
        "entries of a sender, rare state": "sender__exact=server&state__exact=error",
        "entries, search a session": f"q={session}",
        "entries, search a client": "q=client-77",
        "entries, search a busy client": f"q={BUSY}",
        "entries, search nothing": "q=nobody",
        "entries, by kind": "o=5",
        "entries of a session": f"session__session_id__exact={session}",
    }
    found |= {name: f"{_ENTRIES}?{query}" for name, query in queries.items()}
    queries = {
        "sessions": "",
        "sessions, search an id": f"q={session}",
        "sessions, search a client": "q=client-77",
        "sessions, search a user": f"q={BUSY_USER}",
        "sessions, search nothing": "q=nobody",
        "sessions, by offset": "o=4",
    }
    found |= {name: f"{_SESSIONS}?{query}" for name, query in queries.items()}
    dashboard = f"{_ADMIN}/livedashboard/"
    return found | {
        "page of a connection": f"{connections}{middle}/change/",
        "page of an error": f"{errors}{error}/change/",
        "page of an entry": f"{_ENTRIES}{sizes.rows // 2}/change/",
        "page of a session": f"{_SESSIONS}{session}/change/",
        "page of a node": f"{_ADMIN}/node/{node}/change/",
        "nodes": f"{_ADMIN}/node/",
        "alerts": f"{_ADMIN}/alert/",
        "tokens": f"{_ADMIN}/accesstoken/",
        "bans": f"{_ADMIN}/ban/",
        "dashboard, 1 h": dashboard,
        "dashboard, 24 h": f"{dashboard}?range=24h",
        "dashboard, 7 days": f"{dashboard}?range=7d",
        "dashboard, 7 days of a node": f"{dashboard}?range=7d&node={node}",
        "details of a client": f"{dashboard}details/?client={BUSY}",
        "metrics": "/metrics",
        "readyz": "/readyz",
    }


def _list_commands(sizes: Sizes) -> list[str]:
    middle = name_row("01", sizes.rows // 2)
    error = name_row("02", sizes.errors // 2)
    node = name_row("ab", 1)
    return [
        "connections list --limit 100",
        f"connections list --client {BUSY} --limit 100",
        f"connections list --user {BUSY_USER} --limit 100",
        f"connections list --node {node} --limit 100",
        f"connections list --id {middle}",
        f"connections show {middle}",
        f"connections show {error}",
        f"connections kick --client {BUSY} --json",
        f"connections kick --node {node} --json",
        "limits forecast --days 2 --json",
        "alerts",
        "sweep_idle_connections --dry-run",
        "sweep_idle_connections --once",
        "prune_sessions --dry-run",
        f"sessions renew_epoch --client {BUSY} --dry-run",
    ]
