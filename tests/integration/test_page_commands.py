"""Test that every module and script that a page names answers --help."""

import asyncio
import re
import sys

from connections.testing.waiting import scale
from tests.pages import find_pages
from tests.project import ROOT

_COMMAND = re.compile(
    r"python (-m (?:benchmarks|connections|tests)[\w.]*\w|deploy/[\w/]+\.py)"
)


async def ask_for_help(command: str) -> tuple[str, bool]:
    """Return a command, and whether it answered --help correctly."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command.split(), "--help"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return command, process.returncode == 0 and output.startswith(b"usage: ")


async def test_every_command_of_a_page_has_help() -> None:
    text = " ".join(page.read_text() for page in find_pages())
    commands = sorted(set(re.findall(_COMMAND, text)))
    assert "-m benchmarks.sessions" in commands
    async with asyncio.timeout(scale(120)):
        answers = [await ask_for_help(command) for command in commands]
    assert [command for command, has_helped in answers if not has_helped] == []
