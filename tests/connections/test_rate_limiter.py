"""Test the limits of messages and bytes."""

from hypothesis import given
from hypothesis import strategies as st

from connections.connection.rate_limiter import RateLimiter, Verdict
from connections.testing import FakeClock
from connections.token_bucket import TokenBucket


def make_limiter(clock: FakeClock, **changes: float) -> RateLimiter:
    limits = {
        "messages_per_second": 10.0,
        "burst_messages": 20.0,
        "bytes_per_second": 1000.0,
        "burst_bytes": 2000.0,
        "tolerance_seconds": 5.0,
    }
    return RateLimiter(clock=clock, **{**limits, **changes})


arrivals = st.lists(
    st.tuples(
        st.floats(0, 2, allow_nan=False), st.integers(min_value=0, max_value=1500)
    ),
    max_size=200,
)


@given(arrivals)
def test_no_span_of_time_passes_more_than_burst_and_rate(
    messages: list[tuple[float, int]],
) -> None:
    """Over any t seconds at most burst + rate * t, in messages and in bytes."""
    clock = FakeClock()
    limiter = make_limiter(clock)
    passed: list[tuple[float, int]] = []
    for pause, size in messages:
        clock.advance(pause)
        if limiter.check(size) is Verdict.PASS:
            passed.append((clock(), size))
    for start, (began, _) in enumerate(passed):
        size_sum = 0
        for count, (at, size) in enumerate(passed[start:], 1):
            size_sum += size
            elapsed = at - began
            assert count <= 20 + 10 * elapsed + 1e-6
            assert size_sum <= 2000 + 1000 * elapsed + 1e-6


@given(st.floats(0.05, 50), st.integers(1, 50))
def test_a_bucket_sustains_its_rate(rate: float, burst: int) -> None:
    """A client that sends at exactly the rate is never limited."""
    now = 0.0
    bucket = TokenBucket(rate, burst, now)
    for _ in range(burst + 50):
        assert bucket.take(1, now)
        now += 1 / rate * (1 + 1e-9)


def test_the_rate_never_passes_what_does_not_fit_the_bytes() -> None:
    clock = FakeClock()
    limiter = make_limiter(clock)
    assert limiter.check(2000) is Verdict.PASS
    assert limiter.check(1) is Verdict.DROP
    # The message refused for its bytes has cost no message token.
    clock.advance(0.001)
    assert all(limiter.check(0) is Verdict.PASS for _ in range(19))


@given(st.integers(11, 1000))
def test_a_lasting_excess_closes(per_second: int) -> None:
    clock = FakeClock()
    limiter = make_limiter(clock)
    verdicts = []
    for _ in range(30 * per_second):
        clock.advance(1 / per_second)
        verdicts.append(limiter.check(1))
        if verdicts[-1] is Verdict.CLOSE:
            break
    first_drop = verdicts.index(Verdict.DROP)
    assert verdicts[-1] is Verdict.CLOSE
    assert (len(verdicts) - 1 - first_drop) / per_second >= 5 - 1e-6


def test_an_excess_now_and_then_is_dropped_only() -> None:
    clock = FakeClock()
    limiter = make_limiter(clock)
    for _ in range(20):
        verdicts = [limiter.check(1) for _ in range(30)]
        assert Verdict.CLOSE not in verdicts
        assert verdicts[-1] is Verdict.DROP
        clock.advance(3)


def test_without_tolerance_the_first_excess_closes() -> None:
    limiter = make_limiter(FakeClock(), burst_messages=1, tolerance_seconds=0)
    assert limiter.check(1) is Verdict.PASS
    assert limiter.check(1) is Verdict.CLOSE


def test_a_client_that_waits_for_retry_after_passes() -> None:
    clock = FakeClock()
    limiter = make_limiter(clock)
    while limiter.check(100) is Verdict.PASS:
        continue
    clock.advance(limiter.retry_after_seconds(100) + 1e-9)
    assert limiter.check(100) is Verdict.PASS


def test_a_json_text_of_many_values_counts_for_more() -> None:
    limiter = make_limiter(FakeClock(), burst_bytes=100_000)
    prose = '{"text": "' + "word " * 1000 + '"}'
    assert limiter.weigh(prose, len(prose)) < 1.01 * len(prose)
    dense = "[" + "[]," * 1000 + "[]]"
    assert limiter.weigh(dense, len(dense)) > 10 * len(dense)
    # What may come at all comes when nothing else does.
    assert limiter.weigh(dense * 100, 300_000) == 300_000
    assert limiter.weigh(dense * 10, 30_000) == 100_000


def test_a_reserved_message_waits_and_those_behind_it_longer() -> None:
    clock = FakeClock()
    limiter = make_limiter(clock, messages_per_second=2.0, burst_messages=1.0)
    assert limiter.check(1) is Verdict.PASS
    assert [limiter.reserve(1) for _ in range(3)] == [0.5, 1.0, 1.5]
    clock.advance(1.5)
    assert limiter.check(1) is Verdict.DROP
    clock.advance(0.5)
    assert limiter.check(1) is Verdict.PASS


def test_the_delay_of_a_message_is_part_of_the_excess() -> None:
    clock = FakeClock()
    limiter = make_limiter(
        clock, messages_per_second=1.0, burst_messages=1.0, tolerance_seconds=5.0
    )
    assert limiter.check(1) is Verdict.PASS
    assert limiter.check(1) is Verdict.DROP
    limiter.reserve(1)
    clock.advance(6)
    limiter.extend_excess()
    assert limiter.check(1) is Verdict.PASS
    assert limiter.check(1) is Verdict.CLOSE
