"""
Run every attack of the corpus on live servers, beside a well-behaved client.

After each: whoever attacked was answered as the corpus says, and it is recorded;
the canary was served; memory stayed within bounds; no socket is left.
"""

from collections.abc import Callable, Sequence

import pytest

from connections.testing import LiveServer, wait_until
from tests.abuse.attack import Attack
from tests.abuse.corpus import ATTACKS
from tests.abuse.records import (
    find_odd_lines,
    find_unexplained,
    read_close_reasons,
    read_metrics,
)
from tests.abuse.watch import Arena, Report

pytestmark = [pytest.mark.slow, pytest.mark.alone]

MARGIN_KIB = 20_000
"""Allowed growth of a server beyond what its limits let attackers hold."""

MOST_HELD_KIB = max(attack.held_kib for attack in ATTACKS)
"""The highest of all attacks: a process does not return all freed memory."""

LOG_BYTES = 40_000
"""The log an attack may cause, plus LOG_BYTES_EACH for each answer."""

LOG_BYTES_EACH = 400


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_attack(
    attack: Attack,
    find_arena: Callable[[Attack], Arena],
    note_report: Callable[[Report], None],
) -> None:
    arena = find_arena(attack)
    server = arena.server
    sockets, counted = arena.count_sockets(), read_metrics(server)
    report = await arena.suffer(attack)
    note_report(report)
    # The attackers were answered as they should be,
    assert report.answers and report.answers.keys() <= attack.answers
    for answer, most in attack.most.items():
        assert report.answers[answer] <= most
    # the others were served,
    assert report.sighting.failures == []
    assert report.sighting.round_trip_seconds
    assert report.sighting.connect_seconds
    # what it cost is bounded,
    assert report.grown_kib <= attack.held_kib + MARGIN_KIB
    assert report.peak_kib <= MOST_HELD_KIB + MARGIN_KIB
    total = sum(report.answers.values())
    assert len(report.log) <= LOG_BYTES + LOG_BYTES_EACH * total
    # it is known why it ended,
    await wait_until(
        lambda: read_close_reasons(server, report.network) == attack.recorded
    )
    assert find_unexplained(server, report.network) == set()
    await wait_until(lambda: find_unchanged(counted, server, attack.counted) == [])
    for text in attack.logged:
        assert text in report.log
    assert find_odd_lines(report.log) == []
    # and nothing is left.
    await wait_until(lambda: arena.count_sockets() <= sockets)


def find_unchanged(before: str, server: LiveServer, series: Sequence[str]) -> list[str]:
    """Return the series whose values have not changed."""
    now = read_metrics(server)
    return [one for one in series if add_up(now, one) == add_up(before, one)]


def add_up(metrics: str, series: str) -> float:
    """Return the sum over all series with the labels."""
    name, _, labels = series.partition("{")
    wanted = labels.removesuffix("}").split(",")
    return sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith(name) and all(label in line for label in wanted)
    )
