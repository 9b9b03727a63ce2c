"""Describe the limits that nodes observe and do not enforce."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from connections.dashboard.sites import make_page_url
from connections.models import Node


def list_observed(nodes: Sequence[Node]) -> list[str]:
    """Return what nodes observe; more than one text where they differ."""
    found = {node.counters.get("observed") for node in nodes}
    return sorted(text for text in found if text)


def count_decisions(nodes: Sequence[Node]) -> Counter[str]:
    """Return the decisions since the start of the nodes, by limit."""
    counts = Counter[str]()
    for node in nodes:
        counts.update(node.counters.get("would_have", {}))
    return counts


def describe_observed(nodes: Sequence[Node]) -> dict[str, Any]:
    """Return the context of the panel of limits."""
    counts = count_decisions(nodes)
    most = max(counts.values(), default=0)
    return {
        "observed": list_observed(nodes),
        "limits": [
            {"limit": limit, "count": count, "percent": round(100 * count / most, 1)}
            for limit, count in counts.most_common()
        ],
        "forecast_url": make_page_url("connections_live_forecast"),
    }
