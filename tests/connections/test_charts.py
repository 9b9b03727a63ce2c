"""Test that charts are correct SVG without inline styles."""

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from connections.dashboard.charts.cells import (
    GLYPHS,
    choose_pitch,
    draw_cells,
    draw_row,
)
from connections.dashboard.charts.histogram import draw_histogram
from connections.dashboard.charts.scales import (
    format_bytes,
    format_count,
    format_seconds,
    make_ticks,
    make_time_ticks,
    split_seconds,
)
from connections.dashboard.charts.sparkline import draw_sparkline
from connections.dashboard.charts.svg import element, image, text
from connections.dashboard.charts.trend import Series, draw_trend
from connections.node.live_state import LiveState

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def parse(svg: str) -> ElementTree.Element:
    """Parse the drawing, which must be well-formed."""
    return ElementTree.fromstring(svg)


def count_cells(svg: str, kind: str, pitch: int) -> int:
    """Return the number of cells of a state in a path with dashes."""
    path = next(one for one in parse(svg) if one.get("class") == kind)
    dashes = [float(part) for part in path.attrib["stroke-dasharray"].split()]
    lengths = [float(part) for part in re.findall(r"h([\d.]+)", path.attrib["d"])]
    bars = len(GLYPHS[kind].bars)
    cells = 0
    for length in lengths[::bars]:
        at, drawn = 0.0, 0
        while at < length - 0.01:
            at += sum(dashes)
            drawn += 1
        cells += drawn
    return cells


def test_attributes_and_texts_are_escaped() -> None:
    svg = element("g", text("<script>"), data_x='"><script>', hidden=None)
    assert svg == '<g data-x="&quot;&gt;&lt;script&gt;"><text>&lt;script&gt;</text></g>'


@pytest.mark.parametrize(
    "svg",
    [
        draw_sparkline([1, 2, 3]),
        draw_histogram((1, 5), (1, 2, 3), (0, 0, 1)),
        draw_trend(
            [Series(name="a", kind="k0", values=[1, 2])],
            [NOON, NOON + timedelta(hours=1)],
            label="x",
        ),
        draw_cells([[("quiet", "a")]], width=100, label="x", key_length=1).svg,
    ],
)
def test_nothing_is_styled_inline(svg: str) -> None:
    """`default-src 'self'` refuses style attributes, and scripts with them."""
    assert " style=" not in svg and "<style" not in svg and " onclick" not in svg
    parse(svg)


@pytest.mark.parametrize(
    ("maximum", "ticks"),
    [
        (0, [0, 1]),
        (3, [0, 1, 2, 3]),
        (100, [0, 50, 100]),
        (0.7, [0, 0.2, 0.4, 0.6, 0.8]),
    ],
)
def test_ticks_are_round_and_reach_the_maximum(
    maximum: float, ticks: list[float]
) -> None:
    assert make_ticks(maximum) == ticks


def test_time_ticks_are_round() -> None:
    start = NOON + timedelta(minutes=7)
    ticks = make_time_ticks(start, start + timedelta(hours=1), 4)
    assert [label for _, label in ticks] == ["12:15", "12:30", "12:45", "13:00"]
    week = make_time_ticks(NOON, NOON + timedelta(days=7), 7)
    assert week[0][1] == "03 Jan"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (9.5, "9.5"),
        (123.4, "123"),
        (999, "999"),
        (1_000, "1k"),
        (1_234, "1.2k"),
        (10_000, "10k"),
        (5_600_000, "5.6M"),
    ],
)
def test_counts_are_short(value: float, expected: str) -> None:
    assert format_count(value) == expected


def test_amounts_have_their_units() -> None:
    assert format_bytes(512) == "512 B"
    assert format_bytes(1_234_000) == "1.2 MB"
    shown = [format_seconds(one) for one in (0, 0.45, 1.5, 12, 200, 7_500, 90_000)]
    assert shown == [
        "0 s",
        "450 ms",
        "1.5 s",
        "12 s",
        "3 min 20 s",
        "2 h 5 min",
        "1 d 1 h",
    ]
    assert split_seconds(222) == ("3.7", "min")
    assert split_seconds(0.5) == ("0.50", "s")


def test_a_histogram_shows_shares_of_each_series() -> None:
    """Two open connections are visible beside a thousand closed ones."""
    svg = draw_histogram((1, 5), (500, 500, 0), (0, 2, 0), height=144)
    bars = {
        (one.get("class"), one.get("x")): float(one.get("height", 0))
        for one in parse(svg).iter()
        if one.tag.endswith("rect") and one.get("class") in ("closed", "open")
    }
    heights = sorted(bars.values())
    assert heights == [50, 50, 100]
    assert "1 s to 5 s: 500 closed, 2 open" in svg


def test_a_histogram_needs_one_bucket_more_than_edges() -> None:
    with pytest.raises(ValueError, match="3 buckets"):
        draw_histogram((1, 5), (1, 2), (1, 2, 3))


def test_a_trend_has_tooltips_with_values() -> None:
    times = [NOON + timedelta(minutes=index) for index in range(3)]
    series = [
        Series(name="internal", kind="k0", values=[0, 4, 2], is_filled=True),
        Series(name="rate", kind="k1", values=[1, 1, 1]),
    ]
    svg = draw_trend(series, times, label="Errors", width=250, height=136)
    assert "2026-01-02 12:01:00 UTC: internal 4, rate 1" in svg
    line = next(
        one.attrib["d"]
        for one in parse(svg).iter()
        if one.get("class") == "line" and one.attrib["d"].startswith("M40 110")
    )
    assert line == "M40 110L140 10L240 60"


def test_every_state_has_its_own_shape() -> None:
    assert set(GLYPHS) == {state.value for state in LiveState}
    assert len({(one.dashes, one.bars) for one in GLYPHS.values()}) == len(GLYPHS)


@pytest.mark.parametrize("kind", GLYPHS)
@pytest.mark.parametrize("count", [1, 7, 40])
def test_each_connection_is_one_cell(kind: str, count: int) -> None:
    """The dashes of a run are its cells."""
    grid = draw_cells([[(kind, "k")] * count], width=140, label="x", key_length=1)
    assert count_cells(grid.svg, kind, 14) == count
    assert grid.keys == "k" * count


def test_clients_with_several_connections_are_set_apart() -> None:
    cell, other = ("quiet", "a"), ("active", "b")
    groups = [[cell], [cell], [cell, other], [other], [cell]]
    grid = draw_cells(groups, width=1000, label="x", key_length=1)
    assert grid.keys == "aa ab ba"


def test_more_cells_are_smaller() -> None:
    assert choose_pitch(100, 1100) == 14
    assert choose_pitch(10_000, 1100) == 6
    grid = draw_cells([[("quiet", "x")]] * 10_000, width=1100, label="x", key_length=1)
    assert len(grid.svg) < 10_000


def test_cells_of_a_named_client_are_hidden_from_screen_readers() -> None:
    """The client's name and number of connections stand beside them."""
    assert 'aria-hidden="true"' in draw_row([("active", "a")])


def test_an_image_has_a_label() -> None:
    svg = image(width=10, height=5.25, label='a "b"')
    assert parse(svg).attrib == {
        "viewBox": "0 0 10 5.2",
        "width": "10",
        "height": "5.2",
        "role": "img",
        "aria-label": 'a "b"',
    }
