"""Test that the commands of each section of the runbook find its alert."""

import shlex
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone

from connections.alerts.runbook import read_commands
from connections.config.alert_rules import DEFAULT_RULES
from connections.models import Alert

RULES = [rule.name for rule in DEFAULT_RULES]
MADE_LIVE = {"pool_full", "database_down"}
"""Sections whose commands only tests/incidents/ can run: they ask a server."""


@pytest.mark.django_db
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in MADE_LIVE])
def test_the_commands_of_a_section_find_its_alert(rule: str) -> None:
    Alert.objects.create(
        rule=rule,
        severity="critical",
        state="firing",
        value=3,
        peak=4,
        threshold=1,
        detail="node web-1:77",
        since=timezone.now(),
    )
    commands = read_commands(rule)
    managed = [one for one in commands if one.startswith("manage.py ")]
    assert managed[0] == "manage.py alerts"
    out = StringIO()
    call_command(*shlex.split(managed[0])[1:], stdout=out)
    assert rule in out.getvalue() and "node web-1:77" in out.getvalue()


@pytest.mark.parametrize("rule", RULES)
def test_a_section_names_commands_that_exist(rule: str) -> None:
    for command in read_commands(rule):
        words = shlex.split(command)
        if words[0] == "manage.py":
            with pytest.raises(SystemExit) as ended:
                call_command(*words[1:2], "--help")
            assert ended.value.code == 0
        else:
            assert words[:2] == ["curl", "-s"]
