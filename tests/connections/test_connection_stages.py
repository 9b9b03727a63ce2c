"""Test that the diagram of the life cycle shows the moves of the code."""

import re
from pathlib import Path

from connections.connection.stage import MOVES

PAGE = Path(__file__).parents[2] / "docs" / "topics" / "architecture.md"
MOVE = re.compile(r"^ +([a-z]+) --> ([a-z]+): .+$", re.MULTILINE)


def test_the_diagram_shows_the_moves_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    diagram = text.partition("stateDiagram-v2")[2].partition("```")[0]
    assert sorted(MOVE.findall(diagram)) == sorted(
        (stage.value, next_stage.value)
        for stage, next_stages in MOVES.items()
        for next_stage in next_stages
    )
