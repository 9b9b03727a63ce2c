"""Group recorded errors by where they were raised."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from django.db.models import Count, Max, Min, Q

from connections.models.connection import ErrorEvent

MOST_GROUPED = 20_000
"""The most errors of a range that are grouped, the newest ones."""

MOST_GROUPS = 50
STEPS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """The errors of one class that were raised at one place, within a range."""

    exception_class: str
    where: str
    count: int
    first_at: datetime
    last_at: datetime
    steps: Sequence[int]
    """Counts of STEPS equal parts of the range, oldest first."""

    sample: ErrorEvent | None
    """The newest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroups:
    """The groups of a range, the largest first."""

    groups: Sequence[ErrorGroup]
    since: datetime
    """The start of the range, or later if it has more than MOST_GROUPED errors."""

    is_cut: bool


def group_errors(start: datetime, end: datetime) -> ErrorGroups:
    """Group the errors between two moments; the query reads a bounded number."""
    rows = ErrorEvent.objects.filter(at__gte=start, at__lte=end).order_by("-at")
    beyond = rows.values_list("at", flat=True)[MOST_GROUPED : MOST_GROUPED + 1].first()
    since = start if beyond is None else beyond
    if beyond is not None:
        rows = rows.filter(at__gt=beyond)
    step = (end - since) / STEPS
    edges = [since + step * index for index in range(STEPS + 1)]
    edges[-1] = end + timedelta(microseconds=1)
    counts: dict[str, Any] = {
        f"step_{index}": Count("pk", filter=Q(at__gte=low, at__lt=high))
        for index, (low, high) in enumerate(pairwise(edges))
    }
    grouped: Any = (
        rows.order_by()
        .values("exception_class", "where")
        .annotate(total=Count("pk"), first=Min("at"), last=Max("at"), **counts)
        .order_by("-total", "-last")[:MOST_GROUPS]
    )
    found = list(grouped)
    samples = _find_samples([one["last"] for one in found])
    groups = [
        ErrorGroup(
            exception_class=one["exception_class"],
            where=one["where"],
            count=one["total"],
            first_at=one["first"],
            last_at=one["last"],
            steps=[one[f"step_{index}"] for index in range(STEPS)],
            sample=samples.get((one["exception_class"], one["where"])),
        )
        for one in found
    ]
    return ErrorGroups(groups=groups, since=since, is_cut=beyond is not None)


def _find_samples(moments: Sequence[datetime]) -> dict[tuple[str, str], ErrorEvent]:
    """Return an error of each place, among those at some moments."""
    rows = ErrorEvent.objects.filter(at__in=moments).order_by("at")
    return {(row.exception_class, row.where): row for row in rows}
