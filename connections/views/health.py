"""Views for supervisors and monitoring: liveness, readiness and metrics."""

import contextlib
from collections.abc import Iterator

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_safe
from django_prometheus.exports import ExportToDjangoView

from connections.config.loader import WebSocketConfig
from connections.exceptions import PoolUnavailable
from connections.net.addresses import find_source, is_listed
from connections.node.current import get_node
from connections.node.node import Node

_PASSED_ON = ("Forwarded", "Via", "X-Real-IP")
"""Headers of proxies that say nothing which is believed, but that there is one."""


async def livez(request: HttpRequest) -> JsonResponse:
    """Say that the process answers."""
    return JsonResponse({"status": "ok"})


async def readyz(request: HttpRequest) -> JsonResponse:
    """
    Say whether this node takes connections, and what holds less than it should.

    503 while it drains, or admits nobody by the policy on_pool_outage; 200 also
    while it is degraded, for clients are better off here than nowhere.
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


@require_safe
async def metrics(request: HttpRequest) -> HttpResponseBase:
    """
    Export what this process counts, as Prometheus reads it.

    For the addresses in metrics.allowed_addresses, and for who knows
    METRICS_TOKEN. It runs on the event loop, where nothing changes meanwhile.
    """
    node = get_node()
    token = getattr(settings, "METRICS_TOKEN", None)
    if not (_has_token(request, token) or _is_neighbour(request, node.config)):
        if not token:
            return HttpResponse("not for this address", "text/plain", 403)
        challenge = {"WWW-Authenticate": "Bearer"}
        return HttpResponse("a token is needed", "text/plain", 401, headers=challenge)
    with contextlib.suppress(PoolUnavailable):
        await node.get_usage()
    exported: HttpResponseBase = ExportToDjangoView(request)
    return exported


def _has_token(request: HttpRequest, token: str | None) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if not token or scheme.lower() != "bearer":
        return False
    return constant_time_compare(given.strip(), token)


def _is_neighbour(request: HttpRequest, config: WebSocketConfig) -> bool:
    """
    Tell whether a request comes from an allowed address.

    One that a proxy passed on is not from where the proxy stands: unless the
    proxy is trusted to say from where, it comes from anywhere.
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
    """Yield what is wrong in words for everyone: the log has the details."""
    if node.pool.is_degraded:
        policy = node.config.on_pool_outage
        yield f"the shared pool is out of reach; policy for newcomers: {policy}"
    if node.database is not None and node.database.failure is not None:
        yield f"the database {node.database.failure}; records wait in memory"
