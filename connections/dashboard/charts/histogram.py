"""Draw the histogram of session durations: closed sessions, overlaid by open ones."""

from collections.abc import Sequence

from django.utils.safestring import SafeString

from connections.dashboard.charts.scales import format_seconds, make_ticks
from connections.dashboard.charts.svg import element, image, number, text, title

_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 10, 34
_GAP = 0.22


def draw_histogram(
    edges: Sequence[float],
    closed: Sequence[int],
    open_ages: Sequence[int],
    *,
    width: int = 560,
    height: int = 220,
) -> SafeString:
    """
    Return bars for buckets with edges in seconds, and one above the last edge.

    Each series is scaled to its own total: a few open connections would be
    invisible beside a day of closed ones.
    """
    count = len(edges) + 1
    if not len(closed) == len(open_ages) == count:
        raise ValueError(f"{count} buckets are needed")
    shares = [_share(closed), _share(open_ages)]
    ticks = make_ticks(max(*shares[0], *shares[1], 0.01) * 100)
    inner_width, inner_height = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    parts = [_draw_grid(ticks, width, inner_height)]
    slot = inner_width / count
    bar = slot * (1 - _GAP)
    for index in range(count):
        left = _LEFT + slot * index + slot * _GAP / 2
        label = _name(edges, index)
        tops = [inner_height * (1 - share[index] * 100 / ticks[-1]) for share in shares]
        parts.append(
            element(
                "g",
                title(f"{label}: {closed[index]} closed, {open_ages[index]} open"),
                _draw_bar(left, tops[0], bar, inner_height, "closed"),
                _draw_bar(left + bar * 0.25, tops[1], bar * 0.5, inner_height, "open"),
                element(
                    "rect",
                    x=_LEFT + slot * index,
                    y=_TOP,
                    width=slot,
                    height=inner_height,
                    class_="target",
                ),
            )
        )
    parts.append(_draw_edges(edges, slot, height, sparse=slot < 38))
    label = (
        f"Durations of {sum(closed)} closed sessions,"
        f" and ages of {sum(open_ages)} open ones"
    )
    return image(
        *parts, width=width, height=height, label=label, class_="chart histogram"
    )


def _share(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _name(edges: Sequence[float], index: int) -> str:
    if index == 0:
        return f"up to {format_seconds(edges[0])}"
    if index == len(edges):
        return f"over {format_seconds(edges[-1])}"
    return f"{format_seconds(edges[index - 1])} to {format_seconds(edges[index])}"


def _draw_grid(ticks: Sequence[float], width: int, inner_height: float) -> SafeString:
    parts = []
    for tick in ticks:
        y = _TOP + inner_height * (1 - tick / ticks[-1])
        parts.append(element("path", d=f"M{_LEFT} {number(y)}H{width - _RIGHT}"))
        parts.append(text(f"{tick:g}%", x=_LEFT - 6, y=y + 4, text_anchor="end"))
    return element("g", *parts, class_="grid")


def _draw_bar(
    left: float, top: float, width: float, inner_height: float, kind: str
) -> str:
    height = inner_height - top
    if height <= 0:
        return ""
    # The smallest count must remain visible.
    height = max(height, 1.5)
    return element(
        "rect",
        x=left,
        y=_TOP + inner_height - height,
        width=width,
        height=height,
        rx=min(2.0, width / 2),
        class_=kind,
    )


def _draw_edges(
    edges: Sequence[float], slot: float, height: int, *, sparse: bool
) -> SafeString:
    parts = []
    for index, edge in enumerate(edges):
        if sparse and index % 2 == 0:
            continue
        x = _LEFT + slot * (index + 1)
        parts.append(
            text(
                format_seconds(edge), x=x, y=height - _BOTTOM + 18, text_anchor="middle"
            )
        )
    return element("g", *parts, class_="axis")
