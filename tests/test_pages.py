"""Compare the hand-written pages of docs/ with the code."""

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from connections.close_codes import CLOSE_REASONS
from connections.config.loader import describe
from tests.project import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for folder in ("topics", "howto", "evidence", "project")
    for path in (DOCS / folder).glob("*.md")
)
PACKAGES = ("connections", "sessions_history", "orchestra")

_BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"manage\.py (\w+)((?: [a-z]+)?)([^`\n]*)")


def find_imports(page: Path) -> set[tuple[str, str]]:
    """Return the modules and names of this project that examples import."""
    return {
        (node.module, alias.name)
        for _, block in re.findall(_BLOCK, page.read_text())
        for node in ast.walk(ast.parse(textwrap.dedent(block)))
        if isinstance(node, ast.ImportFrom) and node.module is not None
        if node.module.partition(".")[0] in PACKAGES
        for alias in node.names
    }


def test_examples_import_names_that_exist() -> None:
    imports = {one: page.name for page in PAGES for one in find_imports(page)}
    missing = [
        (page, module, name)
        for (module, name), page in imports.items()
        if not hasattr(importlib.import_module(module), name)
    ]
    assert len(imports) > 10
    assert missing == []


def test_commands_on_the_pages_have_the_options_that_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    apps = get_commands()
    written = {one for page in PAGES for one in re.findall(_COMMAND, page.read_text())}
    unknown = []
    for name, subcommand, rest in sorted(written):
        parser = load_command_class(apps[name], name).create_parser("manage.py", name)
        with pytest.raises(SystemExit):
            parser.parse_args([*subcommand.split(), "--help"])
        options = set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out))
        shown = re.findall(r"(?<!\S)--[a-z-]+", rest)
        unknown += [(name, option) for option in shown if option not in options]
    assert len(written) > 20
    assert unknown == []


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}"
)
def test_configuration_keys_on_a_page_exist(page: Path) -> None:
    """A key of a section is written as `section.key` or `section.prefix_*`."""
    keys = {one.path for one in describe()}
    sections = {key.partition(".")[0] for key in keys if "." in key}
    unknown = [
        text
        for text in sorted(set(re.findall(r"`(\w+\.[\w*]+)`", page.read_text())))
        if text.partition(".")[0] in sections
        if not any(re.fullmatch(text.replace("*", r"\w+"), key) for key in keys)
    ]
    assert unknown == []


def test_every_close_reason_is_explained() -> None:
    text = (DOCS / "topics" / "close_codes.md").read_text()
    assert [reason for reason in CLOSE_REASONS if f"`{reason}`" not in text] == []
