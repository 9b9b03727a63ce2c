"""Ask the live nodes who uses them, and print the answers as tables."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import F

from connections.config.loader import get_config
from connections.dashboard.top import show_amount
from connections.models import Node, NodePicture
from connections.node.live_state import request_samples
from connections.node.top import KINDS, Report, Top, decode_report, rank
from connections.units import Clock, count_of

_BEATS = 4
"""A node that has not answered within as many beats is reported as silent."""

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The reports of the nodes that answered, and the names of the others."""

    reports: Sequence[Report]
    node_ids: Sequence[str]
    silent: Sequence[str]


def ask_nodes(
    *, clock: Clock = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Answers:
    """Request a sample from every live node, and wait a few beats for the answers."""
    request_samples()
    wanted = NodePicture.objects.filter(node__state__in=("serving", "draining"))
    deadline = clock() + _BEATS * get_config().node.beat_seconds + 1
    while True:
        waiting = wanted.exclude(taken_at__gte=F("wanted_at"))
        if not waiting.exists() or clock() >= deadline:
            break
        sleep(_POLL_SECONDS)
    reports, answered = [], []
    rows = wanted.filter(taken_at__gte=F("wanted_at")).values_list("node_id", "top")
    for node_id, content in rows:
        report = decode_report(None if content is None else bytes(content))
        if report is not None:
            reports.append(report)
            answered.append(node_id)
    silent = [str(node) for node in Node.objects.live().exclude(node_id__in=answered)]
    return Answers(reports=reports, node_ids=answered, silent=silent)


def rank_all(answers: Answers, by: str, minutes: int, limit: int) -> dict[str, Top]:
    """Return the top clients, addresses and routes of all answers."""
    return {
        kind: rank(answers.reports, kind, by, minutes=minutes, limit=limit)
        for kind in KINDS
    }


def describe(answers: Answers, tops: dict[str, Top], options: dict[str, Any]) -> Any:
    """Return the ranks for JSON; true counts lie between at_least and at_most."""
    return {
        "by": options["by"],
        "minutes": options["minutes"],
        "nodes": list(answers.node_ids),
        "silent": list(answers.silent),
        "top": {
            kind: {
                "total": top.total,
                "others_at_most": top.floor,
                "rows": [
                    {
                        kind: row.key,
                        "at_least": row.count - row.error,
                        "at_most": row.count,
                    }
                    for row in top.rows
                ],
            }
            for kind, top in tops.items()
        },
    }


def tabulate(answers: Answers, tops: dict[str, Top], by: str) -> Iterator[str]:
    """Yield a table for each kind, in lines."""
    for kind, top in tops.items():
        yield f"{kind} by {by}"
        amounts = [show_amount(row, by) for row in top.rows]
        width = max(map(len, amounts), default=0)
        for row, amount in zip(top.rows, amounts, strict=True):
            yield f"  {amount:>{width}}  {row.key}"
        if not top.rows:
            yield "  none"
    answered = len(answers.node_ids)
    yield f"{answered} of {count_of(answered + len(answers.silent), 'node')} answered"
    for name in answers.silent:
        yield f"no answer from {name}"
