"""Decide the transitions of an alert: pending, firing, resolved. No I/O."""

from datetime import datetime, timedelta
from enum import Enum

from connections.config.alert_rules import AlertRule


class Step(Enum):
    """A transition of a rule's alert."""

    STAY = "stay"
    BEGIN = "begin"
    """Create a pending alert."""
    BEGIN_FIRING = "begin firing"
    """Create a firing alert."""
    FIRE = "fire"
    DROP = "drop"
    """Delete a pending alert, because the value fell before it fired."""
    RESOLVE = "resolve"


def decide(
    rule: AlertRule,
    state: str | None,
    since: datetime | None,
    value: float,
    now: datetime,
) -> Step:
    """
    Return the next step; state is None if no alert is pending or firing.

    `since` is the start of a pending alert. A clear value may equal the threshold,
    for counts: then a count of one less than the threshold resolves.
    """
    if state == "firing":
        return Step.RESOLVE if value < rule.clear else Step.STAY
    if value < rule.threshold:
        return Step.STAY if state is None else Step.DROP
    wait = timedelta(seconds=rule.for_seconds)
    if state is None or since is None:
        return Step.BEGIN if wait else Step.BEGIN_FIRING
    # A start far in the future is from before the clock was set back.
    return Step.FIRE if abs(now - since) >= wait else Step.STAY
