"""The present use of the limits, over all nodes."""

from typing import Any

from django.db.models import Max, Sum

from connections.api.operations import Call, Operation, describe_object
from connections.config.loader import get_config
from connections.models import Connection, Node

_COUNT = {"type": "integer"}


def _read_usage(call: Call) -> dict[str, Any]:
    config = get_config()
    live = Node.objects.live()
    found = live.aggregate(total=Sum("open_connections"), lag=Max("loop_lag_seconds"))
    clients = Connection.objects.open().values("client_id").distinct()
    return {
        "nodes": live.count(),
        "open_connections": found["total"] or 0,
        "max_total_connections": config.max_total_connections,
        "clients": clients.order_by().count(),
        "max_connections_per_client": config.max_connections_per_client,
        "loop_lag_seconds": found["lag"] or 0,
    }


USAGE_NOW = Operation(
    name="read_usage_now",
    method="GET",
    path="usage/now",
    scope="api:read",
    permissions=("connections.view_livedashboard",),
    about="Open connections and clients of all live nodes as of their last beats, and"
    " the limits.",
    run=_read_usage,
    answer=lambda: describe_object(
        {
            "nodes": _COUNT,
            "open_connections": _COUNT,
            "max_total_connections": _COUNT,
            "clients": _COUNT,
            "max_connections_per_client": _COUNT,
            "loop_lag_seconds": {"type": "number"},
        }
    ),
)
