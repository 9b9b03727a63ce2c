"""
Alert rules: the measured value, its threshold and how long it must last.

The list in the configuration changes rules by name. Rules and keys that the
list does not name keep the defaults in this module.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connections.config.fields import Listed, Problem
from connections.config.kinds import Choice, Flag, Kind, Number

SEVERITIES = ("info", "warning", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """
    One rule; it fires once its value has been at the threshold for for_seconds.

    It clears below `clear`, so that a value around the threshold does not fire
    repeatedly. Below `minimum` events the value is ignored; `about` names the
    events.
    """

    name: str
    about: str
    unit: str
    """The unit of the value; `%` marks a share, which is 1 at most."""
    threshold: float
    clear: float
    for_seconds: float
    severity: str
    minimum: float = 0
    enabled: bool = True

    @property
    def title(self) -> str:
        """The name in Prometheus style, such as PoolNearExhaustion."""
        return "".join(part.capitalize() for part in self.name.split("_"))


DEFAULT_RULES = (
    AlertRule(
        name="pool_full",
        about="handshakes per minute that were refused because all slots are taken",
        unit="/min",
        threshold=1,
        clear=1,
        for_seconds=0,
        severity="critical",
    ),
    AlertRule(
        name="pool_degraded",
        about="nodes that cannot reach the shared pool",
        unit="nodes",
        threshold=1,
        clear=1,
        for_seconds=10,
        severity="critical",
    ),
    AlertRule(
        name="database_down",
        about="nodes whose database does not answer or refuses writes",
        unit="nodes",
        threshold=1,
        clear=1,
        for_seconds=10,
        severity="critical",
    ),
    AlertRule(
        name="pool_near_exhaustion",
        about="share of all slots that is taken",
        unit="%",
        threshold=0.9,
        clear=0.8,
        for_seconds=60,
        severity="warning",
    ),
    AlertRule(
        name="high_error_rate",
        about="share of messages whose handling failed, of at least `minimum` "
        "messages per minute",
        unit="%",
        threshold=0.05,
        clear=0.02,
        for_seconds=120,
        minimum=100,
        severity="critical",
    ),
    AlertRule(
        name="leak_suspected",
        about="consumers that still run a minute after their connection ended",
        unit="consumers",
        threshold=1,
        clear=1,
        for_seconds=60,
        severity="warning",
    ),
    AlertRule(
        name="mass_disconnect",
        about="share of connections that ended within ten minutes, of at least "
        "`minimum` connections",
        unit="%",
        threshold=0.5,
        clear=0.3,
        for_seconds=60,
        minimum=20,
        severity="critical",
    ),
    AlertRule(
        name="reconnect_storm",
        about="handshakes per minute and open connection, from `minimum` handshakes on",
        unit="/min",
        threshold=2,
        clear=1,
        for_seconds=60,
        minimum=100,
        severity="warning",
    ),
    AlertRule(
        name="dead_node",
        about="nodes found dead within ten minutes",
        unit="nodes",
        threshold=1,
        clear=1,
        for_seconds=0,
        severity="critical",
    ),
    AlertRule(
        name="sweeper_silent",
        about="time since the last finished sweep",
        unit="s",
        threshold=60,
        clear=30,
        for_seconds=20,
        severity="warning",
    ),
    AlertRule(
        name="step_overdue",
        about="periodic steps of nodes and of the sweeper that have not succeeded for "
        "three of their intervals",
        unit="steps",
        threshold=1,
        clear=1,
        for_seconds=10,
        severity="critical",
    ),
    AlertRule(
        name="recorder_behind",
        about="age of the oldest record of a node that waits for the database",
        unit="s",
        threshold=30,
        clear=10,
        for_seconds=30,
        severity="warning",
    ),
    AlertRule(
        name="slow_consumers",
        about="connections per minute aborted because the client did not read",
        unit="/min",
        threshold=10,
        clear=2,
        for_seconds=60,
        severity="warning",
    ),
    AlertRule(
        name="authentication_failures",
        about="handshakes per minute that were refused for their credentials",
        unit="/min",
        threshold=100,
        clear=50,
        for_seconds=60,
        severity="warning",
    ),
    AlertRule(
        name="loop_lag",
        about="greatest delay of a node's event loop within ten seconds",
        unit="s",
        threshold=0.5,
        clear=0.25,
        for_seconds=30,
        severity="warning",
    ),
)

_BY_NAME = {rule.name: rule for rule in DEFAULT_RULES}


def format_value(name: str, value: float) -> str:
    """Return the value of a rule with its unit: 95 %, 12 /min, 1 node, 0.5 s."""
    unit = _BY_NAME[name].unit if name in _BY_NAME else ""
    if unit == "%":
        return f"{100 * value:.3g} %"
    if value == 1 and unit.endswith("s") and len(unit) > 1:
        unit = unit.removesuffix("s")
    return f"{value:.4g} {unit}".rstrip()


_KINDS: dict[str, Kind] = {
    "threshold": Number(1e-6, 1e9),
    "clear": Number(1e-6, 1e9),
    "for_seconds": Number(0, 86_400),
    "minimum": Number(0, 1e9),
    "severity": Choice(SEVERITIES),
    "enabled": Flag(),
}


@dataclass(frozen=True, slots=True)
class Rules(Listed):
    """A list of mappings, each with a rule's name and its changed keys."""

    @property
    def allowed(self) -> str:
        keys = ", ".join(_KINDS)
        return f"a list of rules, each with a name and any of {keys}"

    def read(
        self, raw: object, path: str, problems: list[Problem]
    ) -> tuple[AlertRule, ...]:
        if not isinstance(raw, Sequence) or isinstance(raw, str):
            problems.append(Problem(path, raw, self.allowed))
            return DEFAULT_RULES
        changed: dict[str, AlertRule] = {}
        for index, one in enumerate(raw):
            place = f"{path}[{index}]"
            if not isinstance(one, Mapping):
                problems.append(Problem(place, one, "a mapping with a name"))
                continue
            name = one.get("name")
            if not isinstance(name, str) or name not in _BY_NAME:
                allowed = "one of " + ", ".join(_BY_NAME)
                problems.append(Problem(f"{place}.name", name, allowed))
            elif name in changed:
                problems.append(Problem(f"{place}.name", name, "each rule once"))
            else:
                changed[name] = _change(_BY_NAME[name], one, place, problems)
        return tuple(changed.get(rule.name, rule) for rule in DEFAULT_RULES)

    def format(self, value: object) -> str:
        return f"{len(DEFAULT_RULES)} rules"


def check_address(text: str) -> None:
    """Raise ValueError for a text that cannot be an e-mail address."""
    name, at, domain = text.rpartition("@")
    if not (name and at and domain) or any(part.isspace() for part in text):
        raise ValueError("no e-mail address")


def _change(
    rule: AlertRule, raw: Mapping[object, object], place: str, problems: list[Problem]
) -> AlertRule:
    values: dict[str, object] = {}
    for key, value in raw.items():
        if key == "name":
            continue
        kind = _KINDS.get(key) if isinstance(key, str) else None
        if kind is None:
            known = ", ".join(("name", *_KINDS))
            allowed = f"an unknown key; known: {known}"
            problems.append(Problem(f"{place}.{key}", value, allowed))
            continue
        try:
            values[str(key)] = kind.parse(value)
        except ValueError as exc:
            problems.append(Problem(f"{place}.{key}", value, str(exc)))
    threshold = values.get("threshold")
    if rule.unit == "%" and isinstance(threshold, int | float) and threshold > 1:
        allowed = "a share of at most 1, such as 0.9 for 90 %"
        problems.append(Problem(f"{place}.threshold", threshold, allowed))
        return rule
    if isinstance(threshold, int | float) and "clear" not in raw:
        # A changed threshold alone keeps its ratio to `clear`.
        values["clear"] = threshold * rule.clear / rule.threshold
    changed: AlertRule = dataclasses.replace(rule, **values)  # type: ignore[arg-type]
    if changed.clear > changed.threshold:
        allowed = f"at most the threshold, {changed.threshold:g}"
        problems.append(Problem(f"{place}.clear", changed.clear, allowed))
        return rule
    return changed
