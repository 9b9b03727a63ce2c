"""Test the tables and charts of the benchmarks on results that are written by hand."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.charts import CHARTS, DRAWN, RECORD, draw, write_charts
from benchmarks.charts import main as draw_charts
from benchmarks.measures import CONTENDERS_OF
from benchmarks.tables import make_tables
from tests.project import ROOT

MACHINE = {
    "cores": 2,
    "load_average": 1.4,
    "processor": "a <processor>",
    "python": "3.11.7",
    "revision": "abc1234",
}

ECHO = {
    "channels-daphne": [
        {"echoes_per_second": 1000.0, "echo_cpu_us": 200.0},
        {"echoes_per_second": 1200.0, "echo_cpu_us": 200.0},
    ],
    "channels-uvicorn": [
        {"echoes_per_second": 1500.0, "echo_cpu_us": 180.0},
        {"echoes_per_second": 1500.0, "echo_cpu_us": 180.0},
    ],
    "orchestra-uvicorn": [
        {"echoes_per_second": 9000.0, "echo_cpu_us": 25.0},
        {"echoes_per_second": 12000.0, "echo_cpu_us": 25.0},
    ],
}


def write_results(folder: Path) -> Path:
    place = folder / "results.json"
    place.write_text(
        json.dumps({"machine": MACHINE, "is_quick": True, "rounds": {"echo": ECHO}})
    )
    return place


def test_a_contender_is_compared_with_channels_on_its_own_server() -> None:
    figures, daphne, uvicorn = make_tables(ECHO)
    assert "orchestra-uvicorn" in figures
    assert "times better than channels-daphne" in daphne
    assert "9.50 (9.00-10.0)" in daphne
    assert uvicorn.startswith("| times better than channels-uvicorn")
    assert "7.00 (6.00-8.00)" in uvicorn


def test_a_chart_has_a_bar_for_each_server_as_long_as_its_median(
    tmp_path: Path,
) -> None:
    place, _ = write_charts(write_results(tmp_path), tmp_path)
    tree = ElementTree.parse(place).getroot()
    widths = [
        float(one.attrib["width"]) for one in tree.iter() if "width" in one.attrib
    ]
    assert widths == sorted(widths) and len(widths) == len(ECHO)
    assert widths[0] / widths[-1] == pytest.approx(1100 / 10_500, abs=0.001)
    text = " ".join(tree.itertext())
    assert "Smoke test, no comparison: 2 rounds, median" in text
    assert "a <processor>" in text
    assert "10,500 (9,000-12,000)" in text


def test_a_measure_that_was_recorded_again_has_its_own_revision() -> None:
    recorded = {"machine": MACHINE, "is_quick": False, "rounds": {"echo": ECHO}}
    recorded["machines"] = {"echo": {**MACHINE, "revision": "def5678"}}
    chart = next(one for one in DRAWN if one.measure == "echo")
    assert "revision def5678" in draw(chart, recorded)


def test_the_command_names_the_charts_that_it_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_results(tmp_path)
    assert draw_charts(["--results", str(place), "--folder", str(tmp_path)]) == 0
    drawn = [tmp_path / f"benchmarks-{name}.svg" for name in ("echo", "echo-cpu")]
    assert all(place.exists() for place in drawn)
    assert capsys.readouterr().out.split() == list(map(str, drawn))


def test_each_chart_is_of_a_value_that_is_measured() -> None:
    recorded = json.loads(RECORD.read_text())
    for chart in DRAWN:
        assert chart.measure in CONTENDERS_OF
        for rounds in recorded["rounds"].get(chart.measure, {}).values():
            assert chart.key in rounds[0]


def test_the_charts_in_the_pages_are_those_of_the_recorded_results() -> None:
    recorded = json.loads(RECORD.read_text())
    page = (ROOT / "docs" / "topics" / "performance.md").read_text()
    for chart in DRAWN:
        drawn = draw(chart, recorded)
        place = CHARTS / f"benchmarks-{chart.name}.svg"
        assert place.exists() == bool(drawn)
        assert (place.name in page) == bool(drawn)
        assert not drawn or place.read_text() == drawn


def test_the_longest_figure_has_its_place_beside_the_longest_bar(
    tmp_path: Path,
) -> None:
    figure = "191,961 (174,589-193,748)"
    chart = next(one for one in DRAWN if one.name == "broadcast-few")
    values = [{chart.key: float(one)} for one in (174_589, 191_961, 193_748)]
    recorded = json.loads(RECORD.read_text())
    recorded["rounds"] = {chart.measure: {"orchestra-serve-direct": values}}
    tree = ElementTree.fromstring(draw(chart, recorded))
    (text,) = (one for one in tree.iter() if one.text == figure)
    width = float(tree.attrib["viewBox"].split()[2])
    # Letters of thirteen pixels are seven wide on average.
    assert float(text.attrib["x"]) + 7 * len(figure) <= width
