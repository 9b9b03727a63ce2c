"""Health for whoever supervises the process."""

from collections.abc import Iterator

from django.http import HttpRequest, JsonResponse

from connections.node import Node, get_node


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


def _find_problems(node: Node) -> Iterator[str]:
    """Yield what is wrong in words for everyone: the log has the details."""
    if node.pool.is_degraded:
        policy = node.config.on_pool_outage
        yield f"the shared pool is out of reach; policy for newcomers: {policy}"
    if node.database is not None and node.database.failure is not None:
        yield "the database does not answer; records wait in memory"
