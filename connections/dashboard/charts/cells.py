"""
Draw the connection map: one cell per connection, the cells of a client together.

Ten thousand cells need only a few paths: adjacent cells of one state are a line
whose dashes are the cells. A cell shows its connection's state by shape as well
as by colour.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from django.utils.safestring import SafeString

from connections.dashboard.charts.svg import element, image, number

PITCHES = (14, 11, 9, 7, 6, 5)
_BLANK = ""


@dataclass(frozen=True, slots=True)
class Glyph:
    """The shape of a cell, in fractions of its size."""

    dashes: tuple[tuple[float, float], ...]
    """Start and end of each dash, from the left."""

    bars: tuple[tuple[float, float], ...]
    """Top and bottom of each bar from which the dashes are cut."""


GLYPHS = {
    "active": Glyph(((0, 1),), ((0, 1),)),
    "quiet": Glyph(((0.25, 0.75),), ((0.25, 0.75),)),
    "near_idle": Glyph(((0, 1),), ((0.62, 1),)),
    "slow": Glyph(((0.3, 0.7),), ((0, 1),)),
    "limited": Glyph(((0, 0.36), (0.64, 1)), ((0, 1),)),
    "draining": Glyph(((0, 1),), ((0, 0.34), (0.66, 1))),
}
"""Shapes by state; busy connections have the largest, quiet ones the smallest."""

Cell = tuple[str, str]
"""A state and a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Cells in rows: the drawing, and the key of each cell for clicks."""

    svg: SafeString
    keys: str
    """The keys of all cells in order, equally long; empty cells have spaces."""


def draw_cells(
    groups: Iterable[Sequence[Cell]], *, width: int, label: str, key_length: int
) -> Grid:
    """Return a drawing of groups of cells; larger groups are set apart."""
    cells = _arrange(groups)
    pitch = choose_pitch(len(cells), width)
    columns = max(1, width // pitch)
    rows = max(1, -(-len(cells) // columns))
    paths: dict[str, list[str]] = {}
    for row in range(rows):
        row_cells = cells[row * columns : (row + 1) * columns]
        column = 0
        for kind, run in groupby(row_cells, key=lambda cell: cell[0]):
            length = sum(1 for _ in run)
            if kind:
                paths.setdefault(kind, []).append(
                    _draw_run(GLYPHS[kind], column, row, length, pitch)
                )
            column += length
    svg = image(
        *(_draw_path(kind, runs, pitch) for kind, runs in sorted(paths.items())),
        width=columns * pitch,
        height=rows * pitch,
        label=label,
        class_="cells",
        data_pitch=pitch,
        data_columns=columns,
    )
    blank = " " * key_length
    return Grid(svg=svg, keys="".join(key or blank for _, key in cells))


def draw_row(cells: Sequence[Cell], *, pitch: int = 14) -> SafeString:
    """Return one client's cells in a row, to show beside its name."""
    paths: dict[str, list[str]] = {}
    column = 0
    for kind, run in groupby(cells, key=lambda cell: cell[0]):
        length = sum(1 for _ in run)
        paths.setdefault(kind, []).append(
            _draw_run(GLYPHS[kind], column, 0, length, pitch)
        )
        column += length
    return element(
        "svg",
        *(_draw_path(kind, runs, pitch) for kind, runs in paths.items()),
        viewBox=f"0 0 {len(cells) * pitch} {pitch}",
        width=len(cells) * pitch,
        height=pitch,
        class_="cells",
        aria_hidden="true",
        data_pitch=pitch,
        data_columns=len(cells),
    )


def choose_pitch(count: int, width: int, most_height: int = 340) -> int:
    """Return the largest cell size at which all cells fit into most_height."""
    for pitch in PITCHES:
        rows = -(-count // max(1, width // pitch))
        if rows * pitch <= most_height:
            return pitch
    return PITCHES[-1]


def _arrange(groups: Iterable[Sequence[Cell]]) -> list[Cell]:
    """Return all cells in order, with blanks around clients of several cells."""
    cells: list[Cell] = []
    after_several = False
    for group in groups:
        is_several = len(group) > 1
        if cells and (is_several or after_several):
            cells.append((_BLANK, _BLANK))
        cells.extend(group)
        after_several = is_several
    return cells


def _draw_run(glyph: Glyph, column: int, row: int, length: int, pitch: int) -> str:
    """Return the subpaths of adjacent cells of one state; each restarts its dashes."""
    size = _size(pitch)
    start, end = glyph.dashes[0][0] * size, glyph.dashes[-1][1] * size
    x = column * pitch + start
    reach = (length - 1) * pitch + end - start
    parts = []
    for top, bottom in glyph.bars:
        y = row * pitch + (top + bottom) / 2 * size
        parts.append(f"M{number(x)} {number(y)}h{number(reach)}")
    return "".join(parts)


def _draw_path(kind: str, runs: list[str], pitch: int) -> SafeString:
    glyph, size = GLYPHS[kind], _size(pitch)
    pattern: list[float] = []
    for index, (start, end) in enumerate(glyph.dashes):
        following = glyph.dashes[index + 1 :] or ((glyph.dashes[0][0], 0),)
        gap = following[0][0] - end
        is_last = index + 1 == len(glyph.dashes)
        pattern += [(end - start) * size, gap * size + (pitch if is_last else 0)]
    top, bottom = glyph.bars[0]
    return element(
        "path",
        d="".join(runs),
        class_=kind,
        stroke_width=(bottom - top) * size,
        stroke_dasharray=" ".join(f"{part:.2f}" for part in pattern),
    )


def _size(pitch: int) -> int:
    return pitch - (2 if pitch > 8 else 1)
