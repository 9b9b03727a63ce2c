"""Cut README and the pages of docs/ into sections, tables and blocks of code."""

import hashlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tests.project import ROOT

DOCS = ROOT / "docs"
DIAGRAMS = DOCS / "_diagrams"
README = ROOT / "README.md"
QUICKSTART = DOCS / "quickstart.md"
TUTORIAL = DOCS / "tutorial.md"
ADOPT = DOCS / "howto" / "adopt.md"
GUARANTEES = DOCS / "evidence" / "guarantees.md"
EVIDENCE_OF_ATTACKS = DOCS / "evidence" / "attacks.md"
FAULTS = DOCS / "evidence" / "faults.md"
TESTING = DOCS / "howto" / "test_your_project.md"
BROADCAST = DOCS / "howto" / "broadcast.md"
PRESENCE = DOCS / "howto" / "presence.md"
SESSIONS = DOCS / "howto" / "sessions.md"
PRODUCE = DOCS / "howto" / "produce.md"
API = DOCS / "howto" / "api.md"
SECURITY = DOCS / "topics" / "security.md"

_FILE = re.compile(r"(?:# |<!-- )([\w/]+\.(?:py|html))(, at its end)?(?: -->)?\n")
"""The first line of a block that is a file, or the end of one."""


def find_pages() -> list[Path]:
    """Return README, the pages beside it and those of docs/."""
    written = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    return sorted(page for page in written if "_generated" not in page.parts)


def read_section(page: Path, title: str) -> str:
    """Return the text below a title, up to the next title of its level."""
    return page.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def read_blocks(text: str, language: str) -> list[str]:
    """Return the blocks of a language in a page or section."""
    blocks = re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.DOTALL | re.M)
    return [textwrap.dedent(block) for block in blocks]


def read_files(text: str) -> Iterator[tuple[str, str, bool]]:
    """Yield path and text of each file of a page, and whether it is an end of one."""
    for block in read_blocks(text, "(?:python|html)"):
        if named := re.match(_FILE, block):
            yield named[1], block, named[2] is not None


def read_changes(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, old text and new text of each change in the diffs of a page."""
    for block in read_blocks(text, "diff"):
        name, _, lines = block.removeprefix("# ").partition("\n")
        for change in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", lines, re.M):
            old, new = (re.sub("^.", "", text, flags=re.M) for text in change)
            yield name, old, new


def name_diagram(source: str) -> str:
    """Return the name of a diagram's file in DIAGRAMS, which no other source has."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:16]


def find_diagrams() -> dict[str, str]:
    """Return the source of each diagram by the name of its file in DIAGRAMS."""
    found = (read_blocks(page.read_text(), "mermaid") for page in DOCS.rglob("*.md"))
    return {name_diagram(source): source for some in found for source in some}


def read_rows(page: Path, head: str) -> list[str]:
    """Return the rows of the table whose first column has a heading."""
    table = page.read_text().partition(f"\n| {head} |")[2].partition("\n\n")[0]
    return table.splitlines()[2:]
