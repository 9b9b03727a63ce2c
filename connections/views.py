"""Health for whoever supervises the process."""

from django.http import HttpRequest, JsonResponse

from connections.node import get_node


async def livez(request: HttpRequest) -> JsonResponse:
    """Say that the process answers."""
    return JsonResponse({"status": "ok"})


async def readyz(request: HttpRequest) -> JsonResponse:
    """Say whether this node takes connections: 503 while it drains."""
    node = get_node()
    status = "draining" if node.is_draining else "ok"
    content = {"status": status, "node": node.node_id, "open": len(node.hub)}
    return JsonResponse(content, status=503 if node.is_draining else 200)
