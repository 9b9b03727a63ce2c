"""Verdicts of the conformance suite for each case, and whether they pass."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import make_table

_GOOD = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})


@dataclass(frozen=True, slots=True)
class Case:
    """One case: its number, and the verdicts on behaviour and close."""

    number: str
    behavior: str
    close: str

    @property
    def section(self) -> str:
        """The first part of the number."""
        return self.number.partition(".")[0]

    @property
    def has_failed(self) -> bool:
        """Return True if the server violated the protocol, or lacks a part of it."""
        return not (self.behavior in _GOOD and self.close in _GOOD)

    def __str__(self) -> str:
        return f"{self.number}: {self.behavior}, close {self.close}"


def read_cases(folder: Path, agent: str) -> list[Case]:
    """Return the cases in the suite's report, in numerical order."""
    path = folder / "index.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text())[agent]
    cases = [
        Case(number, one["behavior"], one["behaviorClose"])
        for number, one in found.items()
    ]
    return sorted(
        cases, key=lambda case: [int(part) for part in case.number.split(".")]
    )


def count_cases(cases: Sequence[Case]) -> Counter[str]:
    """Return the number of cases by verdict; a wrong close counts as FAILED."""
    return Counter("FAILED" if one.has_failed else one.behavior for one in cases)


def make_section_table(cases: Sequence[Case]) -> str:
    """Return a table of verdicts by section."""
    outcomes = [*sorted(_GOOD, reverse=True), "FAILED"]
    rows = []
    for section in dict.fromkeys(case.section for case in cases):
        counts = count_cases([case for case in cases if case.section == section])
        rows.append([section, *(counts[outcome] for outcome in outcomes)])
    total = count_cases(cases)
    rows.append(["all", *(total[outcome] for outcome in outcomes)])
    return make_table(("section", *outcomes), rows)
