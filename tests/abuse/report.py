"""Format the measurements of attacks as a table and as JSON."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.abuse.watch import Report

HEADER = (
    *("attack", "how it was answered", "canary p50, p99, max ms"),
    *("its connects p50, max ms", "RSS grew MB", "log kB", "s"),
)


def make_rows(reports: Iterable[Report]) -> list[tuple[str, ...]]:
    """Return a row for each attack."""
    return [_make_row(one) for one in sorted(reports, key=lambda one: one.name)]


def summarise_answers(report: Report) -> str:
    """Return the count of each answer, without the names of cases."""
    answers: Counter[str] = Counter()
    for answer, count in report.answers.items():
        answers[answer.rpartition(": ")[2]] += count
    return ", ".join(f"{count} {answer}" for answer, count in answers.most_common(4))


def describe(report: Report) -> dict[str, Any]:
    """Return all figures of an attack."""
    sighting = report.sighting
    return {
        "attack": report.name,
        "answers": dict(report.answers),
        "canary_round_trips": len(sighting.round_trip_seconds),
        "canary_failures": sighting.failures,
        **{
            f"canary_{name}_ms": round(report.find_round_trip_ms(part), 2)
            for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1))
        },
        **{
            f"connect_{name}_ms": round(report.find_connect_ms(part), 2)
            for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1))
        },
        "grown_kib": report.grown_kib,
        "peak_kib": report.peak_kib,
        "log_bytes": len(report.log),
        "seconds": round(report.seconds, 2),
    }


def _make_row(report: Report) -> tuple[str, ...]:
    trips = "/".join(f"{report.find_round_trip_ms(one):.0f}" for one in (0.5, 0.99, 1))
    connects = "/".join(f"{report.find_connect_ms(one):.0f}" for one in (0.5, 1))
    return (
        report.name,
        summarise_answers(report),
        trips,
        connects,
        f"{report.grown_kib / 1024:.1f}",
        f"{len(report.log) / 1000:.1f}",
        f"{report.seconds:.1f}",
    )
