"""Read sections and blocks of code from README."""

import re

from tests.project import ROOT

README = ROOT / "README.md"


def read_section(title: str) -> str:
    """Return the text below a title, up to the next title of its level."""
    return README.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def read_blocks(title: str, language: str) -> list[str]:
    """Return the blocks of a language in a section."""
    return re.findall(rf"```{language}\n(.*?)```", read_section(title), re.DOTALL)
