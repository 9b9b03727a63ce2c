"""
Answer /livez and /readyz on the event loop, ahead of Django.

Middleware, the check of Host and the threads of views take no part, so that a
probe gets its answer while every thread is busy.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.urls import Resolver404, resolve
from django.utils.crypto import constant_time_compare

from connections.asgi import Message, Send
from connections.config.loader import WebSocketConfig
from connections.metrics.steps import OVERDUE_INTERVALS
from connections.net.addresses import (
    Header,
    find_source,
    has_distant_source,
    is_listed,
    is_passed_on,
    is_passed_on_by_stranger,
)
from connections.node.group import Group, get_group
from connections.node.node import Node

View = TypeVar("View", bound=Callable[..., Any])

LIVENESS, READINESS = "livez", "readyz"

_views: dict[Callable[..., Any], str] = {}


def register_probe(name: str) -> Callable[[View], View]:
    """Return a decorator: the URLs of a view are answered here, as this probe."""

    def register(view: View) -> View:
        _views[view] = name
        return view

    return register


def find_probe(
    config: WebSocketConfig, method: str, path: str, root_path: str
) -> str | None:
    """Return the probe that a request asks for, or None for another request."""
    name = path.rpartition("/")[2]
    if name not in (LIVENESS, READINESS) or method not in ("GET", "HEAD"):
        return None
    # As ASGIRequest of Django (django/core/handlers/asgi.py).
    path = path.removeprefix(settings.FORCE_SCRIPT_NAME or root_path)
    if config.health.path and path == config.health.path + name:
        return name
    try:
        return _views.get(resolve(path).func)
    except (Resolver404, ImproperlyConfigured, ImportError):
        return None  # Django shows the error to others.


async def answer_probe(node: Node, name: str, scope: Message, send: Send) -> None:
    """Send the complete response to a probe."""
    client = scope.get("client")
    peer = str(client[0]) if client else None
    is_observer = may_observe(node.config, peer, scope["headers"])
    status, content = await describe_all_health(
        node, name, is_observer=is_observer, group=get_group()
    )
    body = json.dumps(content).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    is_head = scope["method"] == "HEAD"
    await send({"type": "http.response.body", "body": b"" if is_head else body})


def describe_health(
    node: Node, name: str, *, is_observer: bool
) -> tuple[int, dict[str, Any]]:
    """
    Return the HTTP status and the content of a probe's answer.

    Liveness is 200 while the loop runs. Readiness is 503 while the node drains or
    refuses all clients by on_pool_outage. A degraded node is ready, because it
    still serves clients. Only an observer learns more than the status.
    """
    if name == LIVENESS:
        return 200, {"status": "ok"}
    problems = list(_find_problems(node))
    if node.is_draining:
        status = "draining"
    elif node.pool.is_refusing:
        status = "unavailable"
    else:
        status = "degraded" if problems else "ok"
    content: dict[str, Any] = {"status": status}
    if is_observer:
        content |= {
            "node": node.node_id,
            "open": len(node.hub),
            "reasons": problems,
        }
    return (200 if status in ("ok", "degraded") else 503), content


async def describe_all_health(
    node: Node, name: str, *, is_observer: bool, group: Group | None
) -> tuple[int, dict[str, Any]]:
    """
    Return the status and the content of a probe's answer, for all workers of a group.

    The workers are ready while one of them is: their clients share the port. They
    are degraded while one of them is, or is missing.
    """
    if group is None or name == LIVENESS:
        return describe_health(node, name, is_observer=is_observer)
    try:
        answer = await group.ask("health")
    except TimeoutError:
        return describe_health(node, name, is_observer=is_observer)
    reports: list[dict[str, Any]] = answer["reports"]
    ready = [one for one in reports if one["status"] in ("ok", "degraded")]
    missing = answer["count"] - len(ready)
    reasons = {reason: None for one in reports for reason in one["reasons"]}
    if missing > 0:
        reasons[f"{missing} of {answer['count']} workers do not serve"] = None
    if ready:
        status = "degraded" if reasons else "ok"
    else:
        status = reports[0]["status"] if reports else "unavailable"
    content: dict[str, Any] = {"status": status}
    if is_observer:
        content |= {
            "node": node.node_id,
            "workers": len(ready),
            "open": sum(one["open"] for one in reports),
            "reasons": list(reasons),
        }
    return (200 if ready else 503), content


def may_observe(
    config: WebSocketConfig,
    peer: str | None,
    headers: Sequence[Header],
    *,
    is_forwarded_by_stranger: bool = False,
) -> bool:
    """
    Return True if a request may read metrics and reasons.

    It needs METRICS_TOKEN, or an address of metrics.allowed_addresses. A forwarded
    request counts only if its proxy is trusted, and names a client on another
    host: otherwise the client's address is unknown.
    """
    if _has_token(headers):
        return True
    return not is_forwarded_by_stranger and _is_allowed_address(config, peer, headers)


def _has_token(headers: Sequence[Header]) -> bool:
    token = getattr(settings, "METRICS_TOKEN", None)
    given = dict(headers).get(b"authorization", b"").decode("latin-1")
    scheme, _, credential = given.partition(" ")
    if not token or scheme.lower() != "bearer":
        return False
    return constant_time_compare(credential.strip(), token)


def _is_allowed_address(
    config: WebSocketConfig, peer: str | None, headers: Sequence[Header]
) -> bool:
    trusted = config.trusted_proxies
    if is_passed_on_by_stranger(peer, headers, trusted):
        return False
    if is_passed_on(headers) and not has_distant_source(peer, headers, trusted):
        return False
    source = find_source(peer, headers, trusted, is_secure=False)
    return is_listed(source.address, config.metrics.allowed_addresses)


def _find_problems(node: Node) -> Iterator[str]:
    """Yield the problems without confidential details; the log has those."""
    if node.pool.is_degraded:
        policy = node.config.on_pool_outage
        yield f"the shared pool is unavailable; policy for new connections: {policy}"
    if full := node.own_alerts.full_pool.describe():
        yield f"the pool is full: {full}"
    if node.database is not None and node.database.failure is not None:
        yield f"the database {node.database.failure}; records wait in memory"
    monitor = node.cluster_monitor
    of_sweeper = monitor.overdue_parts if monitor is not None else []
    overdue = [*node.steps.find_overdue(), *of_sweeper]
    if overdue:
        yield (
            f"these periodic steps have not succeeded for {OVERDUE_INTERVALS} of their"
            f" intervals: {', '.join(overdue)}"
        )
