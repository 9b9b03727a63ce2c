"""Plant a flaw into a copy of this project."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.project import ROOT

_COPIED = ("connections", "sessions_history", "orchestra", "templates")
_COPIED_AS_WELL = ("tests", "manage.py", "pyproject.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """A replacement of one text in a file, and the expected finding."""

    path: str
    right: str
    wrong: str
    faults: str = ""
    """The faults under which a flaw of limits matters."""

    run: str = "promises_hold"
    """The test of test_invariants.py that finds a flaw of limits."""

    shows: str
    """A part of the checker's finding."""


def plant(flaw: Flaw, folder: Path) -> None:
    """
    Copy the project and plant a flaw into the copy.

    Raises:
        ValueError: the text to replace is not there exactly once.
    """
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name)
    for name in _COPIED_AS_WELL:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    path = folder / flaw.path
    text = path.read_text()
    if text.count(flaw.right) != 1:
        raise ValueError(f"not once in {flaw.path}: {flaw.right!r}")
    path.write_text(text.replace(flaw.right, flaw.wrong))
