import pytest

from connections.server.timers import TICK_SECONDS, CoarseTimers
from tests.connections.fake_loop import FakeLoop


class Diary:
    """Rounds on a loop whose time is a test's, and what they did when."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.timers = CoarseTimers(self.loop)  # type: ignore[arg-type]
        self.done: list[tuple[str, float]] = []

    def plan(self, name: str, seconds: float) -> None:
        self.timers.call_later(seconds, lambda: self.done.append((name, self.loop.now)))


@pytest.mark.parametrize("seconds", [0, 0.01, 0.1, 1.234, 30])
def test_it_rings_in_time_and_at_most_a_round_late(seconds: float) -> None:
    diary = Diary()
    diary.loop.now = 17.03
    diary.plan("one", seconds)
    diary.loop.advance(60)
    ((_, at),) = diary.done
    assert 17.03 + seconds <= at + 1e-9 <= 17.03 + seconds + TICK_SECONDS + 1e-6


def test_what_is_due_together_shares_one_timer_and_keeps_its_order() -> None:
    diary = Diary()
    for name in ("first", "second", "third"):
        diary.plan(name, 5)
    diary.plan("later", 9)
    assert len(diary.loop.timers) == 2
    diary.loop.advance(10)
    assert [name for name, _ in diary.done] == ["first", "second", "third", "later"]
    assert not diary.loop.timers


def test_what_is_cancelled_does_not_ring() -> None:
    diary = Diary()
    diary.timers.call_later(5, lambda: diary.plan("never", 0)).cancel()
    diary.loop.advance(10)
    assert diary.done == []


def test_one_that_fails_leaves_the_others_theirs() -> None:
    diary = Diary()
    diary.timers.call_later(5, lambda: [][0])
    diary.plan("next", 5)
    diary.loop.advance(6)
    assert [name for name, _ in diary.done] == ["next"]
    (context,) = diary.loop.exceptions
    assert isinstance(context["exception"], IndexError)


def test_one_may_plan_another_in_the_same_round() -> None:
    diary = Diary()
    diary.timers.call_later(1, lambda: diary.plan("again", 0))
    diary.loop.advance(3)
    assert [name for name, _ in diary.done] == ["again"]


@pytest.mark.parametrize(("late", "extra"), [(3, 3), (60, 5)])
def test_a_stall_of_the_loop_puts_off_what_fell_due_in_it(
    late: float, extra: float
) -> None:
    """The application had no time to meet the deadline either."""
    diary = Diary()
    diary.plan("missed", 1)
    met = diary.timers.call_later(1, lambda: diary.plan("met", 0))
    diary.loop.stand_still(1 + late)
    assert diary.done == []
    met.cancel()
    diary.loop.stand_still(extra + 60)
    assert [name for name, _ in diary.done] == ["missed"]
    diary.plan("next", 1)
    diary.loop.advance(2)
    assert [name for name, _ in diary.done] == ["missed", "next"]
