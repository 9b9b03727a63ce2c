"""Parts are assembled as in the browser, whose tests read the same cases."""

import json
from pathlib import Path
from typing import Any

import pytest

from connections.parts import add_texts, merge

CASES = json.loads((Path(__file__).parents[1] / "js" / "parts.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_parts_are_those_of_the_browser(case: dict[str, Any]) -> None:
    merged = merge(case["changes"])
    assert add_texts(merged, case["text"]) == case["parts"]
    assert merge(merged) == merged
    one_by_one: list[dict[str, Any]] = []
    for change in case["changes"]:
        one_by_one = merge([*one_by_one, change])
    assert one_by_one == merged
