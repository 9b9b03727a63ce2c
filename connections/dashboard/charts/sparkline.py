"""Draw a line chart the size of a word."""

from collections.abc import Sequence

from django.utils.safestring import SafeString

from connections.dashboard.charts.scales import scale
from connections.dashboard.charts.svg import element, number

_WIDTH = 120
_HEIGHT = 28
_MARGIN = 2


def draw_sparkline(values: Sequence[float]) -> SafeString:
    """
    Return a line without axes, with its last value marked.

    Screen readers skip it: the text beside it has the same content.
    """
    if len(values) < 2:
        values = [0, 0]
    inner = _HEIGHT - 2 * _MARGIN
    step = (_WIDTH - 2 * _MARGIN) / (len(values) - 1)
    highest = max(max(values), 1e-9)
    points = [
        (_MARGIN + step * index, _MARGIN + y)
        for index, y in enumerate(scale(values, highest, inner))
    ]
    line = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    floor = _HEIGHT - _MARGIN
    last_x, last_y = points[-1]
    return element(
        "svg",
        element("path", d=f"M{_MARGIN} {floor}L{line}V{floor}Z", class_="area"),
        element("path", d=f"M{line}", class_="line"),
        element("circle", cx=last_x, cy=last_y, r=2),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        class_="sparkline",
        aria_hidden="true",
    )
