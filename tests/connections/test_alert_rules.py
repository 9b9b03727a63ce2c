"""The list of rules in the configuration: by name, each problem named."""

from typing import Any

import pytest

from connections.config.alert_rules import DEFAULT_RULES, AlertRule
from connections.config.fields import read_section
from connections.config.loader import WebSocketConfig
from connections.testing.communicators import make_config


def find_problems(alerts: object, **others: object) -> list[str]:
    problems: list[Any] = []
    read_section(WebSocketConfig, {"alerts": alerts, **others}, "websocket", problems)
    return [str(problem) for problem in problems]


def get_rule(name: str, alerts: object) -> AlertRule:
    return next(rule for rule in make_config(alerts=alerts).alerts if rule.name == name)


def test_without_a_list_the_rules_are_the_defaults() -> None:
    assert make_config().alerts == DEFAULT_RULES


def test_a_rule_is_changed_by_its_name_and_the_others_stay() -> None:
    changed = {"name": "loop_lag", "threshold": 2, "clear": 1, "severity": "critical"}
    config = make_config(alerts=[changed, {"name": "dead_node", "enabled": False}])
    rules = {rule.name: rule for rule in config.alerts}
    assert (rules["loop_lag"].threshold, rules["loop_lag"].clear) == (2, 1)
    assert rules["loop_lag"].severity == "critical"
    assert rules["loop_lag"].for_seconds == 30
    assert not rules["dead_node"].enabled
    assert len(rules) == len(DEFAULT_RULES)


def test_another_threshold_alone_keeps_the_distance_to_clear() -> None:
    rule = get_rule("loop_lag", [{"name": "loop_lag", "threshold": 0.1}])
    assert (rule.threshold, rule.clear) == (0.1, 0.05)


@pytest.mark.parametrize(
    ("alerts", "words"),
    [
        ("loud", ["websocket.alerts", "a list of rules"]),
        ({"loop_lag": {}}, ["websocket.alerts", "a list of rules"]),
        (["loop_lag"], ["websocket.alerts[0]", "a mapping with a name"]),
        ([{"threshold": 1}], ["alerts[0].name", "None", "one of pool_full"]),
        ([{"name": "lag"}], ["alerts[0].name", "'lag'", "loop_lag"]),
        ([{"name": ["lag"]}], ["alerts[0].name", "loop_lag"]),
        ([{"name": "loop_lag"}, {"name": "loop_lag"}], ["alerts[1].name", "once"]),
        ([{"name": "loop_lag", "threshold": "1"}], ["alerts[0].threshold", "number"]),
        ([{"name": "loop_lag", "threshold": 0}], ["alerts[0].threshold", "from"]),
        ([{"name": "loop_lag", "for_seconds": -1}], ["alerts[0].for_seconds"]),
        ([{"name": "loop_lag", "severity": "loud"}], ["alerts[0].severity", "warning"]),
        ([{"name": "loop_lag", "enabled": 1}], ["alerts[0].enabled", "true or false"]),
        ([{"name": "loop_lag", "after": 1}], ["alerts[0].after", "unknown key"]),
        (
            [{"name": "pool_near_exhaustion", "threshold": 95}],
            ["alerts[0].threshold", "95", "0.9 for 90 %"],
        ),
        ([{"name": "loop_lag", "clear": 9}], ["alerts[0].clear", "threshold, 0.5"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    alerts: object, words: list[str]
) -> None:
    (problem,) = find_problems(alerts)
    assert all(word in problem for word in words), problem


def test_every_problem_of_the_list_is_reported() -> None:
    alerts = [
        {"name": "loop_lag", "threshold": "x", "severity": "x"},
        {"name": "nothing"},
        7,
    ]
    assert len(find_problems(alerts)) == 4


@pytest.mark.parametrize("address", ["me", "@example.com", "me@", "a b@example.com"])
def test_a_recipient_without_an_address_is_a_problem(address: str) -> None:
    (problem,) = find_problems([], alert_recipients=[address])
    assert "alert_recipients" in problem


@pytest.mark.parametrize("rule", DEFAULT_RULES, ids=lambda rule: rule.name)
def test_a_default_clears_no_higher_than_it_fires(rule: AlertRule) -> None:
    assert 0 < rule.clear <= rule.threshold
