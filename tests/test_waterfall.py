"""Test the picture of a trace on spans that are written by hand."""

from dataclasses import dataclass
from xml.etree import ElementTree

from tests.waterfall import PICTURE, draw, find_depths

_SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Planted:
    service: str
    name: str
    span_id: str
    parent_id: str
    begin_ns: int
    end_ns: int


def test_each_span_has_a_bar_below_its_parent() -> None:
    spans = [
        Planted("worker", "job", "c", "b", 3_000_000, 9_000_000),
        Planted("browser", "ask", "a", "", 0, 10_000_000),
        Planted("serve", "receive <room>", "b", "a", 2_000_000, 3_000_000),
    ]
    root = ElementTree.fromstring(draw(spans))
    bars = list(root.iter(f"{_SVG}rect"))
    assert [bar.get("class") for bar in bars] == ["browser", "serve", "worker"]
    assert float(bars[1].get("x", 0)) < float(bars[2].get("x", 0))
    texts = [one.text for one in root.iter(f"{_SVG}text")]
    assert texts[0] == "one trace, 10 ms"
    assert "serve: receive <room>" in texts


def test_a_span_whose_parent_is_not_drawn_is_at_the_left() -> None:
    assert find_depths({"a": "", "b": "a", "c": "of another"}) == {
        "a": 0,
        "b": 1,
        "c": 0,
    }


def test_the_picture_of_the_page_has_every_process() -> None:
    root = ElementTree.fromstring(PICTURE.read_text())
    services = {bar.get("class") for bar in root.iter(f"{_SVG}rect")}
    assert services == {"browser", "serve", "worker"}
