"""Filters of the dashboard, read from the query string."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from connections.node.top import MEASURES
from connections.storage.text import clean

RANGES = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
}
GROUPINGS = ("node", "route")
TOPS = MEASURES
_WIDTHS = range(280, 2001)
_WIDTH_STEP = 20
"""Widths are rounded down to a multiple, so that browsers share drawings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A range of time, filters, and the grouping of the map."""

    range: str = "1h"
    by: str = "node"
    top: str = "connections"
    node: str = ""
    route: str = ""
    width: int = 1120
    site: str = ""
    """The admin site of the page; the panels link to its pages."""

    problems: tuple[str, ...] = ()
    """Invalid parameters; their defaults apply."""

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> "Selection":
        """Return the selection in a URL's parameters."""
        values: dict[str, Any] = {}
        problems = []
        choices = (("range", tuple(RANGES)), ("by", GROUPINGS), ("top", TOPS))
        for name, allowed in choices:
            value = parameters.get(name)
            if value in allowed:
                values[name] = value
            elif value:
                words = ", ".join(allowed)
                problems.append(f"{name}={value:.40} is not one of {words}")
        for name in ("node", "route"):
            values[name] = clean(parameters.get(name, ""), 255)
        width = parameters.get("width", "")
        if width.isascii() and width.isdecimal() and len(width) < 6:
            bounded = min(max(int(width), _WIDTHS[0]), _WIDTHS[-1])
            values["width"] = bounded // _WIDTH_STEP * _WIDTH_STEP
        elif width:
            problems.append(f"width={width:.40} is not a number of pixels")
        return cls(**values, problems=tuple(problems))

    @property
    def span(self) -> timedelta:
        """The length of the range."""
        return RANGES[self.range]

    @property
    def is_filtered(self) -> bool:
        """True if a filter hides connections."""
        return bool(self.node or self.route)

    def query(self, **changes: str) -> str:
        """Return the query string for this selection with some values changed."""
        values = {
            "range": self.range,
            "by": self.by,
            "top": "" if self.top == TOPS[0] else self.top,
            "node": self.node,
            "route": self.route,
            **changes,
        }
        return urlencode({name: value for name, value in values.items() if value})
