"""Test that the checker finds the flaw of each planted history."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.history import Attempt, Fault, History, Promises, Record, main

LIMIT = 2


def make_history(*attempts: Attempt, faults: Any = ()) -> History:
    """Return a history whose records match its attempts."""
    for number, one in enumerate(attempts):
        one.connection_id = one.connection_id or str(number)
    return History(
        seed=1,
        promises=Promises(limit=LIMIT, lease_seconds=3, slack_seconds=1),
        attempts=list(attempts),
        faults=list(faults),
        records=[
            Record(
                connection_id=one.connection_id,
                is_closed=True,
                code=one.code,
                reason=one.reason,
            )
            for one in attempts
            if one.opened_at is not None
        ],
    )


def left(opened_at: float, ended_at: float, **values: Any) -> Attempt:
    """A connection that its client closed."""
    return make_attempt(opened_at, ended_at, is_left=True, **values)


def evicted(opened_at: float, ended_at: float, **values: Any) -> Attempt:
    return make_attempt(opened_at, ended_at, code=4005, reason="evicted", **values)


def make_attempt(opened_at: float, ended_at: float | None, **values: Any) -> Attempt:
    values = {"client": "a", "node": 0, "asked_at": opened_at, **values}
    return Attempt(opened_at=opened_at, ended_at=ended_at, **values)


def test_a_history_without_a_flaw() -> None:
    history = make_history(
        evicted(0, 10.5), left(1, 20), left(10, 20), left(5, 20, client="b")
    )
    assert history.find_violations() == []
    assert history.worst_excess_seconds() == 0.5


@pytest.mark.parametrize("is_long", [True, False])
def test_over_the_limit_for_longer_than_the_bound(*, is_long: bool) -> None:
    """A third of a lease, and the slack."""
    ended_at = 12.1 if is_long else 11.9
    history = make_history(left(0, ended_at), left(1, 20), left(10, 20, node=1))
    found = history.find_violations()
    assert len(found) == is_long
    assert not is_long or "a was over its limit of 2" in found[0]


def test_sockets_of_all_nodes_count_together() -> None:
    attempts = [left(0, 20, node=number) for number in range(3)]
    assert len(make_history(*attempts).find_violations()) == 1


@pytest.mark.parametrize("kind", ["redis_paused", "redis_restarted", "redis_flushed"])
def test_nodes_on_their_own_count_by_themselves_until_a_lease_later(kind: str) -> None:
    """The outage and the recovery end at 13."""
    outage = Fault(kind=kind, began_at=0, ended_at=9)

    def find(ended_at: float, *nodes: int) -> list[str]:
        attempts = [left(0, ended_at, node=node) for node in nodes]
        return make_history(*attempts, faults=[outage]).find_violations()

    assert find(14.9, 0, 0, 1, 1) == []
    assert len(find(15.1, 0, 0, 1, 1)) == 1
    assert find(9, 0, 0, 0) != []


def test_sockets_of_a_frozen_node_count_once_it_goes_on() -> None:
    frozen = Fault(kind="frozen", began_at=0, ended_at=30, node=0)

    def find(ended_at: float) -> list[str]:
        attempts = (left(0, ended_at), left(1, 40, node=1), left(2, 40, node=1))
        return make_history(*attempts, faults=[frozen]).find_violations()

    assert find(31.9) == []
    assert len(find(32.1)) == 1


def test_sockets_of_a_draining_node_do_not_count() -> None:
    draining = Fault(kind="drained", began_at=5, ended_at=30, node=0)
    attempts = (left(0, 20), left(5, 20, node=1), left(5, 20, node=1))
    assert make_history(*attempts, faults=[draining]).find_violations() == []


def test_an_eviction_for_nobody() -> None:
    (found,) = make_history(evicted(0, 10), left(5, 20)).find_violations()
    assert found.startswith("ended for only 1 others")


def test_older_connections_evict_nobody() -> None:
    attempts = (left(0, 9.5), left(1, 20), evicted(2, 10))
    found = make_history(*attempts).find_violations()
    assert found[-1].startswith("ended for only 0 others")


def test_a_request_delayed_by_a_partition_counts_as_the_newest() -> None:
    """The request came before, but reached the shared pool afterwards."""
    attempts = (left(4, 20, node=1), left(8, 20), evicted(6, 10))
    parted = Fault(kind="partitioned", began_at=3, ended_at=9.9, node=1)
    assert make_history(*attempts, faults=[parted]).find_violations() == []
    parted.ended_at = 5
    (found,) = make_history(*attempts, faults=[parted]).find_violations()
    assert found.startswith("ended for only 1 others")


def test_one_that_vanished_a_lease_ago_may_have_held_its_slot() -> None:
    attempts = (left(1, 7), left(9, 20), evicted(0, 10))
    assert make_history(*attempts).find_violations() == []
    attempts = (left(1, 5), left(9, 20), evicted(0, 10))
    assert len(make_history(*attempts).find_violations()) == 1


def test_a_socket_dropped_without_a_cause() -> None:
    dropped = make_attempt(0, 10)
    assert make_history(dropped).find_violations()[0].startswith("dropped: a on node 0")
    killed = Fault(kind="killed", began_at=10, ended_at=12, node=0)
    assert make_history(dropped, faults=[killed]).find_violations() == []
    elsewhere = Fault(kind="killed", began_at=10, ended_at=12, node=1)
    assert len(make_history(dropped, faults=[elsewhere]).find_violations()) == 1


def test_a_close_code_that_nothing_explains() -> None:
    ended = make_attempt(0, 10, code=4500, reason="internal_error")
    (found,) = make_history(ended).find_violations()
    assert found.startswith("ended for no reason here")


@pytest.mark.parametrize(
    ("asked_at", "started_at", "is_refused_rightly"),
    [(8, 7, True), (8, 1, False), (20, 7, False)],
    ids=["started meanwhile", "started before", "PostgreSQL is back"],
)
def test_a_node_that_knows_no_bans_refuses(
    asked_at: float, started_at: float, *, is_refused_rightly: bool
) -> None:
    """It could not read them since its start, for PostgreSQL was away."""
    refused = make_attempt(asked_at, asked_at, code=4104, reason="unavailable")
    faults = [
        Fault(kind="killed", node=0, began_at=0, ended_at=started_at),
        Fault(kind="postgres_restarted", began_at=5, ended_at=10),
    ]
    found = make_history(refused, faults=faults).find_violations()
    assert [one.partition(":")[0] for one in found] == (
        [] if is_refused_rightly else ["refused while the database answers"]
    )


def test_a_handshake_that_failed_without_a_cause() -> None:
    failed = Attempt(client="a", node=0, asked_at=1, ended_at=2, failure="503")
    (found,) = make_history(failed).find_violations()
    assert found.startswith("not let in")


def test_records() -> None:
    history = make_history(left(0, 6), evicted(0, 6), left(5, 20), left(6, 20))
    history.records[0].is_closed = False
    history.records[1].code = 1000
    del history.records[3]
    first, second, third = history.find_violations()
    assert first == "the record of 0 is open"
    assert second.startswith("recorded as 1000 evicted")
    assert third.startswith("no record of a on node 0, opened 6.00")


def test_a_leak() -> None:
    history = make_history()
    history.leaked = ["slots"]
    assert history.find_violations() == ["left in the shared pool: slots"]


def test_a_kept_history_is_checked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = make_history(
        evicted(0, 10), left(5, 20), faults=[Fault(kind="reset", began_at=1)]
    )
    path = tmp_path / "histories" / "1.json"
    history.save(path)
    assert History.load(path) == history
    assert main([str(path)]) == 1
    assert "1 violations\n  ended for only 1 others" in capsys.readouterr().out
