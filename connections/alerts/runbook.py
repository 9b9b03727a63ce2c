"""Read the runbook that ships with the package: one section for each alert rule."""

import re
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("runbook.md")


@cache
def read_runbook() -> str:
    """Return the runbook as Markdown."""
    return _FILE.read_text()


@cache
def read_sections() -> dict[str, str]:
    """Return the text of each section by its heading, which is the rule's name."""
    parts = re.split(r"^## (.+)\n", read_runbook(), flags=re.MULTILINE)[1:]
    texts = (text.strip() for text in parts[1::2])
    return dict(zip(parts[::2], texts, strict=True))


def read_commands(rule: str) -> list[str]:
    """Return the commands in the section of a rule, one a line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", read_sections()[rule], re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line]
