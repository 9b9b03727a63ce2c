"""Views for supervisors and monitoring: liveness, readiness and metrics."""

import asyncio
import contextlib

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views.decorators.http import require_safe

from connections.exceptions import PoolUnavailable
from connections.node.current import get_node
from connections.node.group import get_group
from connections.node.health import (
    LIVENESS,
    READINESS,
    describe_all_health,
    may_observe,
    register_probe,
)
from connections.storage.transactions import begin_no_transaction
from connections.views.own_loop import release_own_node
from connections.views.prometheus import (
    choose_format,
    export_families,
    export_metrics,
)


@register_probe(LIVENESS)
@login_not_required
@begin_no_transaction
@release_own_node
async def livez(request: HttpRequest) -> JsonResponse:
    """Answer 200 while the process responds."""
    return await _answer(request, LIVENESS)


@register_probe(READINESS)
@login_not_required
@begin_no_transaction
@release_own_node
async def readyz(request: HttpRequest) -> JsonResponse:
    """Report whether this node accepts connections, and its problems."""
    return await _answer(request, READINESS)


@login_not_required
@begin_no_transaction
@require_safe
@release_own_node
async def metrics(request: HttpRequest) -> HttpResponseBase:
    """
    Export the metrics of this process as text of Prometheus, or as OpenMetrics.

    Open to metrics.allowed_addresses and to requests with METRICS_TOKEN. The
    view runs on the event loop, so that no counter changes during the export.
    """
    node = get_node()
    if not _is_observer(request):
        if not getattr(settings, "METRICS_TOKEN", None):
            return HttpResponse("this address may not read metrics", "text/plain", 403)
        challenge = {"WWW-Authenticate": "Bearer"}
        return HttpResponse("a token is required", "text/plain", 401, headers=challenge)
    with contextlib.suppress(PoolUnavailable):
        await node.get_usage()
    # Messages that the node has received by now are handled, and counted.
    await asyncio.sleep(0)
    group, shown = get_group(), choose_format(request.headers.get("Accept", ""))
    if group is None:
        return HttpResponse(export_metrics(shown.encode), shown.content_type)
    try:
        families = await group.ask("metrics")
    except TimeoutError:
        return HttpResponse("the parent of the workers is silent", "text/plain", 503)
    return HttpResponse(export_families(families, shown.encode), shown.content_type)


async def _answer(request: HttpRequest, name: str) -> JsonResponse:
    """Answer a request that came through Django, such as one of another method."""
    is_observer = _is_observer(request)
    status, content = await describe_all_health(
        get_node(), name, is_observer=is_observer, group=get_group()
    )
    return JsonResponse(content, status=status)


def _is_observer(request: HttpRequest) -> bool:
    headers = [
        (name.lower().encode(), value.encode("latin-1", "replace"))
        for name, value in request.headers.items()
    ]
    peer = request.META.get("REMOTE_ADDR") or None
    # SchemeMiddleware has removed the header that would show it.
    is_stranger = "is_forwarded_by_stranger" in getattr(request, "scope", {})
    return may_observe(
        get_node().config, peer, headers, is_forwarded_by_stranger=is_stranger
    )
