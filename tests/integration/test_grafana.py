"""Test that Grafana's dashboards are current and query existing metrics."""

import json
import re
import runpy
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from connections.testing import LiveServer, Servers, wait_until
from connections.testing.waiting import scale
from tests.integration.services import find_program
from tests.project import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
BOARDS = sorted((GRAFANA / "boards").glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def find_expressions(board: dict[str, Any]) -> Iterator[str]:
    """Yield a dashboard's queries, with its variables filled in."""
    for panel in board["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m")
            yield re.sub(r"\$\w+", "x", expression)


def test_the_boards_are_the_output_of_their_script() -> None:
    made = runpy.run_path(str(GRAFANA / "build.py"))["build"]()
    assert {path.name: path.read_text() for path in BOARDS} == made


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_panels_keep_the_rules(path: Path) -> None:
    """Panels follow Grafana's dashboard-linter and do not overlap."""
    board = read(path)
    assert board["uid"]
    assert board["editable"] is False
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert set(variables) == {"datasource", "job", "instance"}
    for name in ("job", "instance"):
        assert variables[name]["multi"] is True
        assert variables[name]["allValue"] == ".+"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'job=~"$job", instance=~"$instance"' in target["expr"]
            ranges = re.findall(r"\[(.*?)\]", target["expr"])
            assert set(ranges) <= {"$__rate_interval"}


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_expression_parses(path: Path, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(find_expressions(read(path)))
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run(
        [find_program("promtool"), "check", "rules", file],
        capture_output=True,
        text=True,
        timeout=scale(30),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def read_names(server: LiveServer) -> set[str]:
    """Return the names of a node's samples, and of series without samples."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=scale(10)) as response:
        lines = response.read().decode().splitlines()
    declared = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    return declared | {re.split(r"[{ ]", one)[0] for one in lines if one[:1] != "#"}


async def test_every_metric_exists(servers: Servers) -> None:
    server = servers.start(config={"node__beat_seconds": 0.1})
    wanted = {
        name
        for path in BOARDS
        for expression in find_expressions(read(path))
        for name in re.findall(r"\b(?:active_)?websocket_\w+", expression)
    }
    assert len(wanted) > 20
    # The sweeper's series appear with its first round.
    await wait_until(lambda: wanted <= read_names(server), 60)
