"""Decide whether and when to reconnect after a connection has ended."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from connections.close_codes import BY_CODE, Reconnect, get_close_reason

_SHORTEST_SECONDS = 0.5
_LONGEST_SECONDS = 20.0
_SPREAD_MS = (0, 1_000)
_LATER_MS = (5_000, 15_000)
_REPLACEMENT_SECONDS = 30.0
"""The wait while a node is replaced and its port refuses."""
_REPLACEMENT_SPREAD = (0.25, 2.0)
_SILENT = (1000, 1005, 1006)
"""Codes that stand for a missing or empty close frame."""

Random = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of a connection, and what the server asked the client to do."""

    code: int
    reason: str
    reconnect: Reconnect
    after_seconds: float | None = None
    ref: str | None = None

    @property
    def is_final(self) -> bool:
        """True if a retry changes nothing; an evicted client may connect again."""
        return self.reconnect is Reconnect.NEVER and self.reason != "evicted"


def read_end(code: int, reason: str, bye: dict[str, Any] | None) -> Ended:
    """Combine the close frame with the `bye` before it."""
    if bye is not None and bye["code"] != code and code not in _SILENT:
        bye = None
    known = code if bye is None else int(bye["code"])
    close_reason = get_close_reason(known)
    bye = bye or {}
    reconnect = close_reason.reconnect
    if known not in BY_CODE and bye.get("reconnect") in list(Reconnect):
        reconnect = Reconnect(bye["reconnect"])
    after_ms = bye.get("after_ms")
    return Ended(
        code=known,
        reason=bye.get("reason") or reason or close_reason.reason,
        reconnect=reconnect,
        after_seconds=None if after_ms is None else after_ms / 1000,
        ref=bye.get("ref"),
    )


def back_off(failures: int, random: Random) -> float:
    """
    Return the seconds to wait after so many failures in a row.

    Full jitter, applied after the cap: clients at the cap are still spread
    over the whole span.
    """
    cap = min(_LONGEST_SECONDS, _SHORTEST_SECONDS * 2 ** min(failures + 1, 16))
    return _spread(_SHORTEST_SECONDS, cap, random)


def decide(
    ended: Ended,
    *,
    failures: int,
    random: Random,
    elapsed_seconds: float = 0,
    since_drain_seconds: float = math.inf,
) -> float | None:
    """
    Return the seconds to wait before returning, or None for staying away.

    Args:
        ended: how the connection ended.
        failures: connections in a row that did not last.
        random: returns numbers from 0 to 1.
        elapsed_seconds: time since the server named `after_seconds`.
        since_drain_seconds: time since a node announced its drain.
    """
    given = ended.after_seconds
    if given is not None:
        given = max(0.0, given - elapsed_seconds)
    if ended.reconnect in (Reconnect.NEVER, Reconnect.ON_ACTION):
        return None
    if ended.reconnect is Reconnect.LATER:
        return _spread_ms(_LATER_MS, random) if given is None else given
    if ended.reconnect is Reconnect.NOW:
        if failures:
            # After repeated refusals "now" would be a loop without a pause.
            return max(given or 0.0, back_off(failures - 1, random))
        return _spread_ms(_SPREAD_MS, random) if given is None else given
    if ended.reconnect is Reconnect.NEW_TOKEN:
        return back_off(failures, random)
    if since_drain_seconds < _REPLACEMENT_SECONDS:
        spread_seconds = _spread(*_REPLACEMENT_SPREAD, random)
    else:
        spread_seconds = back_off(failures, random)
    # The jitter comes on top: all who were refused together got the same time.
    return (given or 0.0) + spread_seconds


def _spread(least: float, most: float, random: Random) -> float:
    return least + random() * (most - least)


def _spread_ms(span: tuple[int, int], random: Random) -> float:
    return _spread(span[0] / 1000, span[1] / 1000, random)
