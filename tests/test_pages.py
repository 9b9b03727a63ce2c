"""Hold README and the pages of docs/ to the code that they show and name."""

import ast
import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from connections.close_codes import CLOSE_REASONS
from connections.config.loader import describe
from connections.telemetry.names import ATTRIBUTES
from tests.pages import DIAGRAMS, DOCS, README, find_diagrams, find_pages, read_blocks
from tests.project import ROOT

PAGES = find_pages()
OURS = ("connections", "sessions_history", "orchestra")

_MANAGE = re.compile(r"manage\.py ([a-z]\w*)((?: [a-z_]+)?)([^`\n#;&]*)")
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#[\w.-]*)?\)|^\[\w+\]: (\S+)$", re.MULTILINE)
_MACHINE = re.compile(r"/(?:work/|tmp/wt|home/|root/|Users/)")

_RELEASED = r"0\.1\.0$|\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)$"

page_by_page = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)


def test_readme_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100] == []


@page_by_page
def test_python_blocks_compile_and_import_what_they_name(page: Path) -> None:
    missing = [
        name
        for block in read_blocks(page.read_text(), "python")
        for name in find_imports(compile_block(block))
        if not is_importable(*name)
    ]
    assert missing == []


def compile_block(block: str) -> ast.Module:
    """Return the tree of a block, which may use await outside of a function."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(block, "block", "exec", flags)
    assert isinstance(tree, ast.Module)
    compile(tree, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return tree


def find_imports(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Yield the module and name of each import from the library."""
    for node in ast.walk(tree):
        found: list[tuple[str, str | None]] = []
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, alias.name) for alias in node.names]
        yield from (one for one in found if one[0].partition(".")[0] in OURS)


def is_importable(path: str, name: str | None) -> bool:
    module = importlib.import_module(path)
    if name is None or hasattr(module, name):
        return True
    # Another test may have imported a module of the package, or none.
    is_package = hasattr(module, "__path__")
    return is_package and importlib.util.find_spec(f"{path}.{name}") is not None


@page_by_page
def test_commands_and_their_options_exist(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = []
    for name, subcommand, rest in re.findall(_MANAGE, page.read_text()):
        command = load_command_class(get_commands()[name], name)
        parser = command.create_parser("manage.py", name)
        with pytest.raises(SystemExit):
            parser.parse_args([*subcommand.split(), "--help"])
        options = re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out)
        shown = re.findall(r"(?<!\S)--[a-z-]+", rest)
        unknown += [(name, option) for option in shown if option not in options]
    assert unknown == []


@page_by_page
def test_links_within_the_repository_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = {one or other for one, other in re.findall(_LINK, text)} - {""}
    local = [target for target in targets if "://" not in target]
    assert [one for one in local if not (page.parent / one).exists()] == []


@page_by_page
def test_links_have_a_text(page: Path) -> None:
    """Sphinx would fill it in; those who read the source would see nothing."""
    assert re.findall(r"\[\]\(.*?\)", page.read_text()) == []


@page_by_page
def test_no_page_names_a_folder_of_one_machine(page: Path) -> None:
    assert re.findall(_MACHINE, page.read_text()) == []


def test_every_page_is_in_the_index() -> None:
    """Sphinx warns of a page in no toctree; this needs no Sphinx."""
    listed = set()
    for index in DOCS.rglob("index.md"):
        for block in read_blocks(index.read_text(), r"\{toctree\}"):
            lines = [line for line in block.splitlines() if line[:1] not in (":", "")]
            listed |= {(index.parent / f"{line}.md").resolve() for line in lines}
    pages = {page for page in PAGES if DOCS in page.parents}
    assert sorted(pages - listed - {DOCS / "index.md"}) == []


def test_every_diagram_is_drawn_as_it_is_written() -> None:
    """`python -m tests.diagrams` draws them, so that built pages need no network."""
    assert {path.stem for path in DIAGRAMS.iterdir()} == set(find_diagrams())


def test_the_changelog_has_only_versions_with_a_date() -> None:
    """What is not released is in fragments, which towncrier turns into text."""
    versions = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert [one for one in versions if not re.match(_RELEASED, one)] == []


def test_fragments_of_the_changelog_have_a_type() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
    types = {one["directory"] for one in settings["type"]}
    written = {path.name for path in (ROOT / settings["directory"]).iterdir()}
    fragments = sorted(written - set(settings["ignore"]))
    assert [name for name in fragments if name.split(".")[-2] not in types] == []


@page_by_page
def test_configuration_keys_on_a_page_exist(page: Path) -> None:
    """A key of a section is written as `section.key` or `section.prefix_*`."""
    keys = {one.path for one in describe()}
    sections = {key.partition(".")[0] for key in keys if "." in key}
    unknown = [
        text
        for text in sorted(set(re.findall(r"`(\w+\.[\w*]+)`", page.read_text())))
        if text.partition(".")[0] in sections and text not in ATTRIBUTES
        if not any(re.fullmatch(text.replace("*", r"\w+"), key) for key in keys)
    ]
    assert unknown == []


def test_every_close_reason_is_explained() -> None:
    text = (DOCS / "topics" / "close_codes.md").read_text()
    assert [reason for reason in CLOSE_REASONS if f"`{reason}`" not in text] == []
