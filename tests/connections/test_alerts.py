"""Alerts: values from rows, states from values, and mails."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core import mail
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from connections.alerts.email import deliver
from connections.alerts.evaluator import Evaluator
from connections.alerts.measurements import (
    Measurements,
    describe,
    measure,
    read_measurements,
)
from connections.alerts.self_test import run_self_test
from connections.config.alert_rules import DEFAULT_RULES, AlertRule
from connections.config.loader import WebSocketConfig
from connections.metrics.counters import Counters
from connections.models import Alert, ErrorEvent, MinuteRollup, Node
from connections.sweeper.rollups import roll_up
from connections.sweeper.sweeper import Sweeper
from connections.testing.communicators import make_config
from tests.connections.mail_backends import BROKEN, LOCMEM, use_backend
from tests.connections.rows import make_node_row
from tests.logged import find_records

pytestmark = pytest.mark.django_db(transaction=True)

RULES = {rule.name: rule for rule in DEFAULT_RULES}
START = datetime(2026, 1, 1, tzinfo=UTC)
LAG = RULES["loop_lag"]


class Moment:
    """The time of day, which the test advances."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let some seconds pass."""
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def moment() -> Moment:
    return Moment()


@pytest.fixture
def mailed(settings: Any) -> WebSocketConfig:
    """A configuration that names a recipient, and mails that stay in memory."""
    use_backend(settings, LOCMEM)
    return make_config(alert_recipients=["duty@example.com"])


def make_recent(node_id: str, **recent: float) -> Node:
    return make_node_row(node_id, counters={"recent": recent}, open_connections=10)


def fire(moment: Moment) -> Alert:
    """Have an alert of the loop's lag fire."""
    evaluator = Evaluator([LAG], now=moment)
    evaluator.evaluate(Measurements(loop_lag_seconds=1))
    moment.advance(LAG.for_seconds)
    evaluator.evaluate(Measurements(loop_lag_seconds=1))
    return Alert.objects.get()


def resolve(moment: Moment) -> Alert:
    Evaluator([LAG], now=moment).evaluate(Measurements())
    return Alert.objects.get()


# Values


def get_values() -> dict[str, float]:
    measurements = read_measurements()
    return {rule.name: measure(rule, measurements) for rule in DEFAULT_RULES}


def test_every_value_of_a_quiet_cluster_is_zero() -> None:
    make_node_row()
    assert set(get_values().values()) == {0}


def test_values_are_of_all_nodes_together() -> None:
    make_recent("n1", messages_in=150, errors=30, slow_consumers=2, auth_failures=1)
    make_recent("n2", messages_in=50, errors=10, slow_consumers=3, opened=100)
    make_node_row(
        "n3",
        loop_lag_seconds=0.7,
        counters={
            "pool_slots": 30,
            "pool_limit": 40,
            "stuck_consumers": 2,
            "recorder_lag_seconds": 12.5,
        },
    )
    values = get_values()
    assert values["high_error_rate"] == 0.2
    assert values["slow_consumers"] == 5
    assert values["authentication_failures"] == 1
    assert values["reconnect_storm"] == 5
    assert values["pool_near_exhaustion"] == 0.75
    assert values["leak_suspected"] == 2
    assert values["recorder_behind"] == 12.5
    assert values["loop_lag"] == 0.7


def describe_rule(name: str) -> str:
    return describe(RULES[name], read_measurements())


def test_alerts_name_their_cause() -> None:
    now = timezone.now()
    refused = {"unauthenticated": 120, "rate": 30}
    make_node_row(
        "n1",
        loop_lag_seconds=0.7,
        counters={
            "recent": {"auth_failures": 120, "messages_in": 200, "errors": 20},
            "recorder_pending": 42,
            "recorder_lag_seconds": 60,
        },
        minute={"minute": 1, "refused": refused, "ends": {"network": 90}},
        unrolled=[{"minute": 0, "ends": {"network": 5, "idle": 1}}],
    )
    make_node_row("n2", host="w", pid=2, state="lost", beat_at=START, stopped_at=now)
    for number in range(3):
        ErrorEvent.objects.create(
            error_id=str(number),
            node_id="n1",
            at=now,
            exception_class="builtins.ValueError",
            where="chat/consumers.py/receive:12",
        )
    cause = "ValueError at chat/consumers.py/receive:12 (3 times)"
    assert describe_rule("high_error_rate") == cause
    assert describe_rule("loop_lag") == "node h:1: 0.7 s"
    assert describe_rule("recorder_behind") == "node h:1: 42 records"
    assert describe_rule("dead_node") == "node w:2, last beat 00:00:00 UTC"
    assert describe_rule("authentication_failures") == "unauthenticated 120"
    assert describe_rule("pool_full") == ""
    minute = int(now.timestamp() // 60) - 2
    MinuteRollup.objects.create(node_id="n1", minute=minute, open_connections=100)
    assert describe_rule("mass_disconnect") == "network 95; idle 1"


def test_rates_of_little_traffic_are_zero() -> None:
    make_recent("n1", messages_in=99, errors=99, opened=50, refused=49)
    values = get_values()
    assert (values["high_error_rate"], values["reconnect_storm"]) == (0, 0)


def test_dead_nodes_count_as_dead_alone() -> None:
    make_node_row("n1", state="stopped", loop_lag_seconds=9, stopped_at=timezone.now())
    make_node_row("n2", state="lost", loop_lag_seconds=9, stopped_at=timezone.now())
    long_ago = timezone.now() - timedelta(minutes=11)
    make_node_row("n3", state="lost", stopped_at=long_ago)
    values = get_values()
    assert (values["loop_lag"], values["dead_node"]) == (0, 1)


@pytest.mark.parametrize(
    ("before", "now", "minutes_ago", "value"),
    [(100, 25, 2, 0.75), (100, 100, 2, 0), (19, 0, 2, 0), (100, 0, 30, 0)],
)
def test_a_mass_disconnect_is_the_part_that_ended(
    before: int, now: int, minutes_ago: int, value: float
) -> None:
    minute = int(timezone.now().timestamp() // 60) - minutes_ago
    for node_id in ("n1", "n2"):
        MinuteRollup.objects.create(
            node_id=node_id, minute=minute, open_connections=before / 2
        )
    make_node_row(open_connections=now)
    if before == 19:
        MinuteRollup.objects.update(open_connections=9)
    assert get_values()["mass_disconnect"] == value


def test_a_restart_within_a_minute_is_no_mass_disconnect() -> None:
    """The connections of the killed node are counted by its successor."""
    minute = int(timezone.now().timestamp() // 60) - 1
    counts = {"minute": minute, "open_connections": 100, "max_open": 100}
    make_node_row("killed", state="lost", minute=counts)
    make_node_row("new", unrolled=[counts], open_connections=100)
    roll_up(500)
    assert get_values()["mass_disconnect"] == 0


# States


def test_an_alert_waits_before_it_fires(moment: Moment) -> None:
    evaluator = Evaluator([LAG], now=moment)
    evaluator.evaluate(Measurements(loop_lag_seconds=0.5))
    assert Alert.objects.get().state == "pending"
    moment.advance(LAG.for_seconds - 1)
    evaluator.evaluate(Measurements(loop_lag_seconds=3))
    assert Alert.objects.get().state == "pending"
    moment.advance(1)
    evaluator.evaluate(Measurements(loop_lag_seconds=1))
    alert = Alert.objects.get()
    assert (alert.state, alert.value, alert.peak) == ("firing", 1, 3)
    assert (alert.since, alert.fired_at) == (START, moment.now)


def test_a_clock_set_back_holds_no_alert(moment: Moment) -> None:
    """Clocks that differ by less than an alert waits let none fire early."""
    evaluator = Evaluator([LAG], now=moment)
    evaluator.evaluate(Measurements(loop_lag_seconds=1))
    moment.advance(1 - LAG.for_seconds)
    evaluator.evaluate(Measurements(loop_lag_seconds=1))
    assert Alert.objects.get().state == "pending"
    moment.advance(-3600)
    evaluator.evaluate(Measurements(loop_lag_seconds=1))
    assert Alert.objects.get().state == "firing"


def test_a_pending_alert_whose_value_falls_is_deleted(moment: Moment) -> None:
    evaluator = Evaluator([LAG], now=moment)
    evaluator.evaluate(Measurements(loop_lag_seconds=1))
    evaluator.evaluate(Measurements(loop_lag_seconds=0.49))
    assert not Alert.objects.exists()


def test_a_value_between_clear_and_threshold_goes_on_firing(moment: Moment) -> None:
    fire(moment)
    Evaluator([LAG], now=moment).evaluate(Measurements(loop_lag_seconds=LAG.clear))
    assert Alert.objects.get().state == "firing"
    assert resolve(moment).state == "resolved"


def test_a_disabled_rule_resolves_its_alert(moment: Moment) -> None:
    fire(moment)
    config = make_config(alerts=[{"name": "loop_lag", "enabled": False}])
    Evaluator(config.alerts, now=moment).evaluate(Measurements(loop_lag_seconds=9))
    assert Alert.objects.get().state == "resolved"


def test_firing_and_resolving_are_logged_once_each(
    moment: Moment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "connections.alerts")
    fire(moment)
    Evaluator([LAG], now=moment).evaluate(Measurements(loop_lag_seconds=1))
    resolve(moment)
    said = find_records(caplog, "connections.alerts.evaluator")
    events = [record.__dict__["event"] for record in said]
    assert events == ["alert_firing", "alert_resolved"]


class AlertMachine(RuleBasedStateMachine):
    """Several evaluators, some with an outdated alert, of an arbitrary value."""

    watched = AlertRule(
        name="loop_lag",
        about="",
        unit="",
        threshold=10,
        clear=5,
        for_seconds=30,
        severity="warning",
    )

    @initialize()
    def begin(self) -> None:
        Alert.objects.all().delete()
        self.moment = Moment()
        self.value = 0
        # The model: a single evaluator that keeps everything in memory.
        self.state = "none"
        self.since = START
        self.fired = 0

    # One rule, not one for each: then every step may change something.
    @rule(
        value=st.sampled_from([10, 15, 10, 15, 9, 5, 4, 0]),
        seconds=st.sampled_from([1, 10, 29, 30, 40]),
        evaluators=st.integers(1, 3),
    )
    def evaluate_a_value(self, value: int, seconds: int, evaluators: int) -> None:
        self.value = value
        self.moment.advance(seconds)
        self.evaluate(evaluators)

    def evaluate(self, evaluators: int) -> None:
        for _ in range(evaluators):
            evaluator = Evaluator([self.watched], now=self.moment)
            evaluator.evaluate(Measurements(loop_lag_seconds=self.value))
            self._model()

    @rule(seconds=st.sampled_from([1, 30]))
    def evaluate_between_read_and_write(self, seconds: int) -> None:
        """Let one evaluator run after another has read the alert."""
        self.moment.advance(seconds)
        others = [self.evaluate]

        def read_clock() -> datetime:
            if others:
                others.pop()(1)
            return self.moment()

        late = Evaluator([self.watched], now=read_clock)
        late.evaluate(Measurements(loop_lag_seconds=self.value))

    def _model(self) -> None:
        waited = (self.moment.now - self.since).total_seconds()
        if self.state == "firing":
            if self.value < 5:
                self.state = "none"
        elif self.value < 10:
            self.state = "none"
        elif self.state == "none":
            self.state, self.since = "pending", self.moment.now
        elif waited >= 30:
            self.state = "firing"
            self.fired += 1

    @invariant()
    def the_rows_match_the_model(self) -> None:
        opened = Alert.objects.open()
        states = [alert.state for alert in opened]
        assert states == ([] if self.state == "none" else [self.state])
        assert Alert.objects.exclude(fired_at=None).count() == self.fired
        for alert in Alert.objects.exclude(fired_at=None):
            assert alert.fired_at is not None
            assert alert.fired_at - alert.since >= timedelta(seconds=30)
            assert (alert.state == "resolved") == (alert.resolved_at is not None)


def test_states_are_right_for_any_value_and_any_evaluators() -> None:
    run_state_machine_as_test(
        AlertMachine, settings=examples(max_examples=20, stateful_step_count=30)
    )


# The mail


def test_each_state_is_mailed_once(moment: Moment, mailed: WebSocketConfig) -> None:
    fire(moment)
    assert [deliver(mailed, now=moment) for _ in range(3)] == [1, 0, 0]
    resolve(moment)
    assert [deliver(mailed, now=moment) for _ in range(3)] == [1, 0, 0]
    subjects = [message.subject for message in mail.outbox]
    assert subjects == ["FIRING: loop_lag", "RESOLVED: loop_lag"]
    assert mail.outbox[0].to == ["duty@example.com"]
    assert "Runbook: manage.py alerts --runbook loop_lag" in mail.outbox[0].body
    assert "Value: 1 s, highest 1 s" in mail.outbox[0].body


def test_a_pending_alert_is_not_mailed(moment: Moment, mailed: WebSocketConfig) -> None:
    Evaluator([LAG], now=moment).evaluate(Measurements(loop_lag_seconds=1))
    assert deliver(mailed, now=moment) == 0


def test_without_recipients_the_admins_get_the_mail(
    moment: Moment, mailed: WebSocketConfig, settings: Any
) -> None:
    settings.ADMINS = [("Ada", "ada@example.com")]
    fire(moment)
    assert deliver(make_config(), now=moment) == 1
    assert mail.outbox[0].to == ["ada@example.com"]


def test_alerts_resolved_long_ago_are_not_mailed(
    moment: Moment, mailed: WebSocketConfig
) -> None:
    fire(moment)
    resolve(moment)
    moment.advance(86_401)
    assert deliver(mailed, now=moment) == 0


def test_a_mail_that_fails_is_recorded_and_tried_again(
    moment: Moment,
    mailed: WebSocketConfig,
    settings: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fire(moment)
    failed_before = Counters().get_failures().get("The delivery of alerts", 0)
    use_backend(settings, BROKEN)
    assert deliver(mailed, now=moment) == 0
    assert Alert.objects.get().mail_error == "OSError: no mail server"
    assert "will be tried again: OSError: no mail server" in caplog.text
    assert Counters().get_failures()["The delivery of alerts"] > failed_before
    use_backend(settings, LOCMEM)
    moment.advance(59)
    assert deliver(mailed, now=moment) == 0
    moment.advance(1)
    assert deliver(mailed, now=moment) == 1
    assert Alert.objects.get().mail_error == ""


def test_retries_back_off_and_end_after_the_alert(
    moment: Moment, mailed: WebSocketConfig, settings: Any
) -> None:
    use_backend(settings, BROKEN)
    fire(moment)
    tried = []
    for minute in range(60):
        deliver(mailed, now=moment)
        if Alert.objects.get().mail_tried_at == moment.now:
            tried.append(minute)
        moment.advance(60)
    assert tried == [0, 1, 3, 7, 15, 31]
    moment.advance(3600)
    Alert.objects.update(mail_attempts=19)
    deliver(mailed, now=moment)
    assert Alert.objects.unsent(moment.now).exists()
    resolve(moment)
    Alert.objects.update(mail_attempts=19)
    deliver(mailed, now=moment)
    assert not Alert.objects.unsent(moment.now).exists()


def test_a_clock_set_back_delays_no_mail(
    moment: Moment, mailed: WebSocketConfig, settings: Any
) -> None:
    fire(moment)
    use_backend(settings, BROKEN)
    deliver(mailed, now=moment)
    use_backend(settings, LOCMEM)
    moment.advance(-59)
    assert deliver(mailed, now=moment) == 0
    moment.advance(-3600)
    assert deliver(mailed, now=moment) == 1


def test_one_of_two_deliveries_sends(moment: Moment, mailed: WebSocketConfig) -> None:
    alert = fire(moment)
    assert Alert.objects.claim(alert, moment.now)
    assert not Alert.objects.claim(alert, moment.now)
    assert deliver(mailed, now=moment) == 0


def test_a_sweep_completes_when_a_mail_fails(
    mailed: WebSocketConfig, settings: Any
) -> None:
    use_backend(settings, BROKEN)
    make_node_row(state="lost", stopped_at=timezone.now())
    swept = Sweeper(mailed).sweep()
    assert swept.is_leader
    alert = Alert.objects.get(rule="dead_node")
    assert (alert.state, alert.mail_attempts) == ("firing", 1)


# For operators


@pytest.fixture
def project(settings: Any, mailed: WebSocketConfig) -> Iterator[None]:
    """The configuration that the commands see."""
    settings.WEBSOCKET = mailed
    yield


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("alerts", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_the_self_test_mails_every_rule_and_leaves_no_rows(
    project: None,
) -> None:
    lines = [json.loads(line) for line in run("--self-test", "--json").splitlines()]
    assert [line["rule"] for line in lines] == list(RULES)
    assert [line["problem"] for line in lines] == [""] * len(RULES)
    assert [line["mails"] for line in lines] == [2] * len(RULES)
    assert len(mail.outbox) == 2 * len(RULES)
    assert all(one.subject.startswith("[self-test] ") for one in mail.outbox)
    assert not Alert.objects.exists()
    assert not Node.objects.exists()
    assert not MinuteRollup.objects.exists()


def test_the_self_test_leaves_real_alerts_alone(moment: Moment, project: None) -> None:
    fire(moment)
    run("--self-test", "--without-mail")
    assert Alert.objects.get().state == "firing"
    assert not mail.outbox


def test_the_self_test_fails_when_a_mail_fails(project: None, settings: Any) -> None:
    use_backend(settings, BROKEN)
    with pytest.raises(CommandError, match=f"{len(RULES)} rules failed"):
        run("--self-test")


def test_the_self_test_finds_a_rule_that_cannot_fire() -> None:
    """The configuration refuses such a share; other values may be out of reach."""
    config = make_config(alerts=[{"name": "mass_disconnect", "threshold": 1}])
    rules = [
        replace(one, threshold=2) if one.name == "mass_disconnect" else one
        for one in config.alerts
    ]
    unreachable = replace(config, alerts=tuple(rules))
    (failed,) = [
        one for one in run_self_test(unreachable, with_mail=False) if one.problem
    ]
    assert failed.rule == "mass_disconnect"
    assert failed.problem == "not raised at 1 instead of pending"


def test_the_command_shows_firing_alerts(moment: Moment, project: None) -> None:
    assert run() == "no alert is pending or firing\n"
    fire(moment)
    assert run().startswith("firing    warning   loop_lag")
    line = json.loads(run("--json"))
    assert (line["rule"], line["state"], line["value"]) == ("loop_lag", "firing", 1)
    assert line["since"] == START.isoformat()


def test_the_command_shows_a_section_of_the_runbook() -> None:
    text = run("--runbook", "pool_full")
    assert text.startswith("**Meaning.**") and "manage.py connections list" in text
    with pytest.raises(CommandError, match="invalid choice: 'pool'"):
        run("--runbook", "pool")


def test_the_command_shows_the_rules(project: None) -> None:
    rules = [json.loads(line) for line in run("--rules", "--json").splitlines()]
    assert [one["name"] for one in rules] == list(RULES)
    assert "loop_lag" in run("--rules")
