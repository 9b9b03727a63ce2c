"""How an alert goes from pending to firing to resolved: decisions, no I/O."""

from datetime import datetime, timedelta
from enum import Enum

from connections.config.alert_rules import AlertRule


class Step(Enum):
    """What becomes of a rule's alert."""

    STAY = "stay"
    BEGIN = "begin"
    """Make one that is pending."""
    BEGIN_FIRING = "begin firing"
    """Make one that fires at once."""
    FIRE = "fire"
    DROP = "drop"
    """The value fell before it fired: as if nothing had been."""
    RESOLVE = "resolve"


def decide(
    rule: AlertRule,
    state: str | None,
    since: datetime | None,
    value: float,
    now: datetime,
) -> Step:
    """
    Return the next step; state is None where no alert is pending or firing.

    `since` is when a pending one began. A clear value equal to the threshold is
    allowed for counts: then one less than the threshold clears.
    """
    if state == "firing":
        return Step.RESOLVE if value < rule.clear else Step.STAY
    if value < rule.threshold:
        return Step.STAY if state is None else Step.DROP
    wait = timedelta(seconds=rule.for_seconds)
    if state is None or since is None:
        return Step.BEGIN if wait else Step.BEGIN_FIRING
    return Step.FIRE if now - since >= wait else Step.STAY
