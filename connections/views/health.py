"""Views for supervisors and monitoring: liveness, readiness and metrics."""

import contextlib
from collections.abc import Iterator

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from connections.config.loader import WebSocketConfig
from connections.exceptions import PoolUnavailable
from connections.net.addresses import find_source, is_listed
from connections.node.current import get_node
from connections.node.node import Node
from connections.views.prometheus import export_metrics

_PASSED_ON = ("Forwarded", "Via", "X-Real-IP")
"""Headers that show that a proxy forwarded a request; their values are ignored."""


@login_not_required
@non_atomic_requests
async def livez(request: HttpRequest) -> JsonResponse:
    """Answer 200 while the process responds."""
    return JsonResponse({"status": "ok"})


@login_not_required
@non_atomic_requests
async def readyz(request: HttpRequest) -> JsonResponse:
    """
    Report whether this node accepts connections, and its problems.

    Answers 503 while the node drains or refuses all clients by on_pool_outage.
    A degraded node answers 200, because it still serves clients.
    """
    node = get_node()
    problems = list(_find_problems(node))
    if node.is_draining:
        status = "draining"
    elif node.pool.is_refusing:
        status = "unavailable"
    else:
        status = "degraded" if problems else "ok"
    content = {
        "status": status,
        "node": node.node_id,
        "open": len(node.hub),
        "reasons": problems,
    }
    is_ready = status in ("ok", "degraded")
    return JsonResponse(content, status=200 if is_ready else 503)


@login_not_required
@non_atomic_requests
@require_safe
async def metrics(request: HttpRequest) -> HttpResponseBase:
    """
    Export the metrics of this process in the format of Prometheus.

    Open to metrics.allowed_addresses and to requests with METRICS_TOKEN. The
    view runs on the event loop, so that no counter changes during the export.
    """
    node = get_node()
    token = getattr(settings, "METRICS_TOKEN", None)
    if not (_has_token(request, token) or _is_allowed_address(request, node.config)):
        if not token:
            return HttpResponse("this address may not read metrics", "text/plain", 403)
        challenge = {"WWW-Authenticate": "Bearer"}
        return HttpResponse("a token is required", "text/plain", 401, headers=challenge)
    with contextlib.suppress(PoolUnavailable):
        await node.get_usage()
    return HttpResponse(export_metrics(), CONTENT_TYPE_LATEST)


def _has_token(request: HttpRequest, token: str | None) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if not token or scheme.lower() != "bearer":
        return False
    return constant_time_compare(given.strip(), token)


def _is_allowed_address(request: HttpRequest, config: WebSocketConfig) -> bool:
    """
    Return True if a request comes from an allowed address.

    A forwarded request counts only if its proxy is trusted: otherwise the
    client's address is unknown.
    """
    headers = [
        (name.lower().encode(), value.encode("latin-1", "replace"))
        for name, value in request.headers.items()
    ]
    peer = request.META.get("REMOTE_ADDR") or None
    trusted = config.trusted_proxies
    source = find_source(peer, headers, trusted, is_secure=False)
    is_passed_on = any(name in request.headers for name in _PASSED_ON)
    if source.is_forwarded_by_stranger or (
        is_passed_on and not is_listed(peer or "", trusted)
    ):
        return False
    return is_listed(source.address, config.metrics.allowed_addresses)


def _find_problems(node: Node) -> Iterator[str]:
    """Yield the problems without confidential details; the log has those."""
    if node.pool.is_degraded:
        policy = node.config.on_pool_outage
        yield f"the shared pool is unavailable; policy for new connections: {policy}"
    if node.database is not None and node.database.failure is not None:
        yield f"the database {node.database.failure}; records wait in memory"
