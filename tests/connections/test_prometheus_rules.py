"""Test the Prometheus rules with promtool, and the runbook."""

import re
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command

from connections.alerts.prometheus import make_rules
from connections.alerts.runbook import read_sections
from connections.config.alert_rules import DEFAULT_RULES
from connections.testing.communicators import make_config
from connections.testing.waiting import scale
from tests.integration.services import find_program

pytestmark = pytest.mark.source

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "connections" / "alerts" / "runbook.md"
MINUTES = 30

Series = dict[str, str]
"""Values per minute by series, in promtool's notation."""

ACTIVE = 'active_websocket_connections{route="/"}'
MESSAGES = 'websocket_messages_total{direction="in"}'
ERRORS = 'websocket_errors_total{kind="internal"}'
HANDSHAKES = 'websocket_connections_total{outcome="accepted"}'
LOST = "websocket_nodes_lost"
STUCK = "websocket_consumers_stuck"
SUSPECTS = "websocket_leak_suspects"
SWEPT = "websocket_sweeper_last_run_timestamp_seconds"
STEPS = "websocket_steps_overdue"
PARTS = "websocket_sweep_parts_overdue"
SLOW = 'websocket_disconnects_total{reason="slow_consumer"}'
FAILED = 'websocket_auth_failures_total{reason="unauthenticated"}'
LAG = "websocket_event_loop_lag_seconds"

FULL = 'websocket_connections_total{outcome="pool_full"}'
DEGRADED = "websocket_pool_degraded"
UP = "websocket_database_up"
IN_POSTGRES = 'websocket_config_info{pool="postgres"}'
IN_REDIS = 'websocket_config_info{pool="redis"}'

FIRING: dict[str, Series] = {
    "pool_full": {FULL: "0+2x30"},
    "pool_degraded": {DEGRADED: "1x30"},
    "database_down": {UP: "0x30"},
    "pool_near_exhaustion": {
        "websocket_pool_slots": "90x30",
        "websocket_pool_limit": "100x30",
    },
    "high_error_rate": {MESSAGES: "0+1000x30", ERRORS: "0+60x30"},
    "leak_suspected": {STUCK: "0x30", SUSPECTS: "1x30"},
    "mass_disconnect": {ACTIVE: "100x20 40x10"},
    "reconnect_storm": {ACTIVE: "100x30", HANDSHAKES: "0+250x30"},
    "dead_node": {LOST: "1x30"},
    "sweeper_silent": {SWEPT: "1400x30"},
    "step_overdue": {STEPS: "0x30", PARTS: "1x30"},
    "recorder_behind": {"websocket_recorder_lag_seconds": "31x30"},
    "slow_consumers": {SLOW: "0+12x30"},
    "authentication_failures": {FAILED: "0+120x30"},
    "loop_lag": {LAG: "0.6x30"},
}
"""Series that fire at the 26th minute."""

QUIET: dict[str, list[Series]] = {
    "pool_full": [{FULL: "0x30"}, {FULL: "0+9x10 90x20"}, {}],
    "pool_degraded": [
        {DEGRADED: "0x30"},
        {DEGRADED: "1x30", UP: "0x30", IN_POSTGRES: "1x30"},
        {},
    ],
    "database_down": [{UP: "1x30"}, {UP: "1x25 0 1x4"}, {}],
    "pool_near_exhaustion": [
        {"websocket_pool_slots": "89x30", "websocket_pool_limit": "100x30"},
        {},
    ],
    "high_error_rate": [
        {MESSAGES: "0+1000x30", ERRORS: "0+40x30"},
        {MESSAGES: "0+90x30", ERRORS: "0+90x30"},
        {},
    ],
    "leak_suspected": [{STUCK: "0x30", SUSPECTS: "0x30"}, {}],
    "mass_disconnect": [
        {ACTIVE: "100x20 60x10"},
        {ACTIVE: "19x20 0x10"},
        {ACTIVE: "100x5 10x25"},
        {},
    ],
    "reconnect_storm": [
        {ACTIVE: "100x30", HANDSHAKES: "0+150x30"},
        {ACTIVE: "10x30", HANDSHAKES: "0+90x30"},
        {},
    ],
    "dead_node": [{LOST: "0x30"}, {ACTIVE: "0x30"}],
    "sweeper_silent": [{SWEPT: "0+60x30"}, {}],
    "step_overdue": [{STEPS: "0x30", PARTS: "0x30"}, {}],
    "recorder_behind": [{"websocket_recorder_lag_seconds": "29x30"}, {}],
    "slow_consumers": [{SLOW: "0+8x30"}, {}],
    "authentication_failures": [{FAILED: "0+80x30"}, {}],
    "loop_lag": [{LAG: "0.4x30"}, {LAG: "0x25 0.6 0x4"}, {}],
}
"""Series that do not fire."""

BETWEEN: dict[str, Series] = {
    "pool_near_exhaustion": {
        "websocket_pool_slots": "95x10 85x20",
        "websocket_pool_limit": "100x30",
    },
    "high_error_rate": {MESSAGES: "0+1000x30", ERRORS: "0+60x10 640+40x20"},
    "loop_lag": {LAG: "0.6x10 0.3x20"},
    "recorder_behind": {"websocket_recorder_lag_seconds": "31x10 11x20"},
    "sweeper_silent": {SWEPT: "500x10 625+60x20"},
    "mass_disconnect": {ACTIVE: "100x18 40x3 60x9"},
}
"""Series that were above the threshold, and are still above `clear`."""


def expand(values: str) -> str:
    """Convert the short notation of this module to promtool's."""
    parts = []
    for part in values.split():
        value, _, count = part.partition("x")
        if not count or "+" in value:
            parts.append(part)
        else:
            parts.append(f"{value}+0x{int(count)}")
    return " ".join(parts)


def make_test(rule: str, series: Series, *, fires: bool) -> dict[str, Any]:
    title = next(one.title for one in DEFAULT_RULES if one.name == rule)
    return {
        "name": f"{rule} {'fires' if fires else 'is quiet'} {series}",
        "interval": "1m",
        "input_series": [
            {"series": name, "values": expand(values)}
            for name, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{title}", alertstate="firing"}})',
                "eval_time": "26m",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }


def run_promtool(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [find_program("promtool"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=scale(30),
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yml"
    path.write_text(make_rules(DEFAULT_RULES))
    return path


def run_rules(
    folder: Path, tests: list[dict[str, Any]], *files: str
) -> tuple[int, str]:
    content = {
        "rule_files": list(files) or ["rules.yml"],
        "evaluation_interval": "15s",
        "tests": tests,
    }
    (folder / "test.yml").write_text(yaml.safe_dump(content))
    return run_promtool(folder, "test", "rules", "test.yml")


def test_promtool_accepts_the_rules(rules: Path) -> None:
    code, output = run_promtool(
        rules.parent, "check", "rules", "--lint=all", "--lint-fatal", rules.name
    )
    assert code == 0, output
    assert f"{len(DEFAULT_RULES)} rules found" in output


@pytest.mark.parametrize("rule", [rule.name for rule in DEFAULT_RULES])
def test_each_rule_fires_when_it_should_and_only_then(rules: Path, rule: str) -> None:
    tests = [make_test(rule, FIRING[rule], fires=True)]
    tests += [make_test(rule, series, fires=False) for series in QUIET[rule]]
    code, output = run_rules(rules.parent, tests)
    assert code == 0, output


@pytest.mark.parametrize("rule", list(BETWEEN))
def test_a_firing_rule_fires_down_to_its_clear_value(rules: Path, rule: str) -> None:
    code, output = run_rules(rules.parent, [make_test(rule, BETWEEN[rule], fires=True)])
    assert code == 0, output


@pytest.mark.parametrize(
    "series",
    [
        {DEGRADED: "1x30", UP: "1x30", IN_POSTGRES: "1x30"},
        {DEGRADED: "1x30", UP: "0x30", IN_REDIS: "1x30"},
    ],
)
def test_a_pool_that_is_lost_by_itself_fires(rules: Path, series: Series) -> None:
    tests = [make_test("pool_degraded", series, fires=True)]
    code, output = run_rules(rules.parent, tests)
    assert code == 0, output


def test_an_alert_of_others_holds_no_rule_up(rules: Path) -> None:
    """Another team has an alert of the same name, which fires."""
    others = {"alert": "LoopLag", "expr": "vector(1)", "labels": {"severity": "page"}}
    groups = {"groups": [{"name": "others", "rules": [others]}]}
    (rules.parent / "others.yml").write_text(yaml.safe_dump(groups))
    test = make_test("loop_lag", {LAG: "0.3x30"}, fires=True)  # Theirs alone.
    code, output = run_rules(rules.parent, [test], "rules.yml", "others.yml")
    assert code == 0, output


def test_one_refusal_fires_and_ends_a_minute_later(rules: Path) -> None:
    test = make_test("pool_full", {FULL: "0x101 1x19"}, fires=True)
    later = make_test("pool_full", {FULL: "0x95 1x25"}, fires=False)
    for one in (test, later):
        one["interval"] = "15s"
    code, output = run_rules(rules.parent, [test, later])
    assert code == 0, output


def test_every_rule_that_clears_lower_is_tested_for_it() -> None:
    swings = {rule.name for rule in DEFAULT_RULES if rule.clear < rule.threshold}
    rates = {"reconnect_storm", "slow_consumers", "authentication_failures"}
    assert swings - rates == set(BETWEEN)


def test_no_node_at_all_is_a_dead_node(rules: Path) -> None:
    code, output = run_rules(rules.parent, [make_test("dead_node", {}, fires=True)])
    assert code == 0, output


def test_a_wrong_threshold_fails(tmp_path: Path) -> None:
    """The tests above fail for a changed threshold."""
    config = make_config(alerts=[{"name": "loop_lag", "threshold": 0.7}])
    (tmp_path / "rules.yml").write_text(make_rules(config.alerts))
    code, _ = run_rules(
        tmp_path, [make_test("loop_lag", FIRING["loop_lag"], fires=True)]
    )
    assert code != 0


def test_a_disabled_rule_is_left_out() -> None:
    config = make_config(alerts=[{"name": "loop_lag", "enabled": False}])
    assert "LoopLag" not in make_rules(config.alerts)


def test_the_command_prints_the_rules_of_the_configuration(settings: Any) -> None:
    settings.WEBSOCKET = {
        "alerts": [{"name": "loop_lag", "for_seconds": 1.5, "severity": "critical"}]
    }
    out = StringIO()
    call_command("prometheus_rules", "--runbook=https://example.com/r.md", stdout=out)
    (group,) = yaml.safe_load(out.getvalue())["groups"]
    rule = next(one for one in group["rules"] if one["alert"] == "LoopLag")
    assert rule["for"] == "1500ms"
    assert rule["labels"] == {"severity": "critical", "component": "orchestra"}
    assert rule["annotations"]["runbook_url"] == "https://example.com/r.md#loop_lag"


def test_the_deployed_rules_are_up_to_date() -> None:
    """`manage.py prometheus_rules > deploy/prometheus/orchestra.rules.yml`"""
    deployed = ROOT / "deploy" / "prometheus" / "orchestra.rules.yml"
    assert deployed.read_text() == make_rules(DEFAULT_RULES)


# The runbook


def test_every_rule_has_a_complete_section() -> None:
    sections = read_sections()
    assert list(sections) == [rule.name for rule in DEFAULT_RULES]
    for text in sections.values():
        found = re.findall(r"^\*\*(\w+)\.\*\*", text, flags=re.MULTILINE)
        assert found == ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def test_links_of_rules_and_runbook_have_targets() -> None:
    sections = read_sections()
    (group,) = yaml.safe_load(make_rules(DEFAULT_RULES))["groups"]
    links = [one["annotations"]["runbook_url"] for one in group["rules"]]
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).is_file()
        assert anchor in sections
    for anchor in re.findall(r"\]\(#([^)]+)\)", RUNBOOK.read_text()):
        assert anchor in sections


def test_the_runbook_names_series_and_keys_that_exist() -> None:
    text = RUNBOOK.read_text()
    exported = (ROOT / "connections" / "views/series.py").read_text()
    for name in set(re.findall(r"`((?:active_)?websocket_[a-z_]+)", text)):
        stem = name.removesuffix("_total")
        assert f'"{stem}"' in exported, name
    config = make_config()
    for key in set(
        re.findall(
            r"`((?:buffers|drain|errors|handshake|node|recorder)\.[a-z_]+)`", text
        )
    ):
        section, _, field = key.partition(".")
        assert hasattr(getattr(config, section), field), key
