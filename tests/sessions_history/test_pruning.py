"""A sweep ends orphaned streams and deletes old ids and sessions."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from connections.models import Node
from connections.sweeper.sweeper import Sweeper
from connections.testing import FakeClock
from connections.testing.communicators import make_config
from sessions_history.approval_models import Approval
from sessions_history.models import AppendKey, HistoryEntry, Session
from sessions_history.pruning import prune_approvals, prune_empty

pytestmark = pytest.mark.django_db


def make_session(name: str, *, unused_days: float = 0, entries: int = 3) -> Session:
    session = Session.objects.create(
        session_id=name,
        client_id=name,
        epoch="e",
        last_offset=entries,
        last_seen_at=timezone.now() - timedelta(days=unused_days),
    )
    for offset in range(1, entries + 1):
        make_entry(session, offset)
        AppendKey.objects.create(session=session, key=str(offset), offset=offset)
    return session


def make_entry(session: Session, offset: int, **values: Any) -> HistoryEntry:
    return HistoryEntry.objects.create(
        session=session, offset=offset, kind="message", sender="server", **values
    )


def make_node(node_id: str, state: str) -> Node:
    now = timezone.now()
    return Node.objects.create(
        node_id=node_id, pid=1, state=state, beat_at=now, started_at=now
    )


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("prune_sessions", *arguments, stdout=out)
    return out.getvalue().strip()


@pytest.mark.parametrize("batch_size", [1, 4, 500])
def test_sessions_that_nobody_uses_are_deleted_whole(batch_size: int) -> None:
    for number in range(3):
        make_session(f"old-{number}", unused_days=91)
    make_session("new", unused_days=89)
    would = json.loads(run("--dry-run", "--json"))
    assert would == {"sessions": 3, "rows": 3 + 9 + 9}
    assert Session.objects.count() == 4
    assert json.loads(run("--json", f"--batch-size={batch_size}")) == would
    assert [session.session_id for session in Session.objects.all()] == ["new"]
    assert HistoryEntry.objects.count() == AppendKey.objects.count() == 3
    assert run() == "0 sessions, 0 rows in all, deleted"


def test_the_report_of_a_sweep_counts_what_was_deleted() -> None:
    """A step takes 50 sessions, and there may be more after it."""
    for number in range(60):
        make_session(f"old-{number}", unused_days=91, entries=1)
    swept = Sweeper(make_config()).sweep_once()
    assert swept.tasks["session_rows_pruned"] == 3 * 60
    assert not Session.objects.exists()


def test_how_long_is_for_the_caller_to_say() -> None:
    make_session("old", unused_days=2)
    assert "1 session, " in run("--unused-days=1")
    with pytest.raises(CommandError, match="--batch-size"):
        run("--batch-size=0")
    with pytest.raises(CommandError, match="--unused-days"):
        run("--unused-days=-1")


def test_that_sessions_are_kept_for_no_time_at_all_is_refused() -> None:
    """Elsewhere 0 stands for no limit: it would delete every session."""
    with pytest.raises(ValueError, match="sessions_days: 0 is not allowed"):
        make_config(retention={"sessions_days": 0})
    with pytest.raises(CommandError, match=r"0\.0: expected a number from 0\.01"):
        run("--unused-days=0")


def test_a_sweep_ends_what_streams_on_a_node_that_is_gone() -> None:
    make_node("live", "serving")
    make_node("gone", "lost")
    session = make_session("s", entries=0)
    long_ago = timezone.now() - timedelta(minutes=1)
    text = '{"text":"so far"}'
    values = {"state": "streaming", "data": text}
    make_entry(session, 1, node_id="live", at=long_ago, **values)
    make_entry(session, 2, node_id="gone", at=long_ago, **values)
    make_entry(session, 3, node_id="never seen", at=long_ago, **values)
    make_entry(session, 4, node_id="about to write its row", **values)
    would = Sweeper(make_config(), is_dry=True).sweep_once()
    assert would.tasks["streams_interrupted"] == 2
    swept = Sweeper(make_config()).sweep_once()
    assert swept.tasks["streams_interrupted"] == 2
    rows = HistoryEntry.objects.order_by("offset").values_list("state", "data")
    states = ["streaming", "interrupted", "interrupted", "streaming"]
    assert list(rows) == [(state, text) for state in states]


def test_after_an_outage_the_owners_of_streams_renew_them_first() -> None:
    """The sweeper waits as long as a node may be silent."""
    session = make_session("s", entries=0)
    long_ago = timezone.now() - timedelta(minutes=1)
    make_entry(session, 1, node_id="gone", at=long_ago, state="streaming")
    clock, config = FakeClock(), make_config(node={"node_timeout_seconds": 15})
    sweeper = Sweeper(config, clock=clock)
    sweeper.forget()
    clock.advance(14)
    assert sweeper.sweep().tasks["streams_interrupted"] == 0
    clock.advance(1)
    assert sweeper.sweep().tasks["streams_interrupted"] == 1


def test_a_sweep_deletes_old_ids_and_old_sessions() -> None:
    make_session("old", unused_days=91)
    kept = make_session("new")
    AppendKey.objects.filter(session=kept, key="1").update(
        created_at=timezone.now() - timedelta(hours=25)
    )
    swept = Sweeper(make_config(), batch_size=2).sweep_once()
    assert swept.tasks["append_keys_pruned"] == 1
    assert [session.pk for session in Session.objects.all()] == ["new"]
    assert sorted(AppendKey.objects.values_list("key", flat=True)) == ["2", "3"]


def test_sessions_without_an_entry_are_deleted_after_an_hour() -> None:
    hour = 1 / 24
    make_session("old", unused_days=1.05 * hour, entries=0)
    make_session("new", unused_days=0.9 * hour, entries=0)
    make_session("used", unused_days=1.05 * hour, entries=1)
    assert prune_empty(10) == 1
    assert set(Session.objects.values_list("pk", flat=True)) == {"new", "used"}


def test_approvals_of_entries_that_are_gone_are_deleted() -> None:
    session = make_session("s", entries=0)
    make_entry(session, 2)
    long_ago = timezone.now() - timedelta(hours=25)
    for offset, created_at in [(1, long_ago), (2, long_ago), (3, timezone.now())]:
        Approval.objects.create(
            session=session,
            offset=offset,
            part_id="c1",
            created_at=created_at,
            expires_at=created_at,
        )
    assert prune_approvals(10) == 1
    kept = Approval.objects.order_by("offset").values_list("offset", flat=True)
    assert list(kept) == [2, 3]
