"""How many workers `serve --workers` starts, in which folder, by which command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from connections.management.commands.serve import Command
from connections.workers.cores import count_cores
from tests.project import ROOT


def test_there_is_a_worker_for_each_core_up_to_the_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(96)))
    parser = Command().create_parser("manage.py", "serve")
    assert parser.parse_args(["--workers", "auto"]).workers == min(64, count_cores())


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("max 100000\n", 8),
        ("1600000 100000\n", 8),
        (None, 8),
    ],
)
def test_the_cores_of_a_container_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    if limit is not None:
        (tmp_path / "cpu.max").write_text(limit)
    assert count_cores(tmp_path / "cpu.max") == cores


FIND = """
import os, sys
os.chdir("/")  # As settings may.
from connections.workers.launch import find_command, find_start_folder
folder = find_start_folder()
print(folder, *find_command(folder))
"""


@pytest.mark.parametrize("script", ["find.py", "./find.py", "{first}/find.py"])
@pytest.mark.parametrize("pwd", ["{current}", "/", "{first}/none", "", "."])
def test_the_folder_of_the_start_has_the_name_of_a_link(
    tmp_path: Path, script: str, pwd: str
) -> None:
    first, current = tmp_path / "one", tmp_path / "current"
    first.mkdir()
    current.symlink_to(first)
    (first / "find.py").write_text(FIND)
    (first / "python").symlink_to(sys.executable)
    folders = {"first": first, "current": current}
    given, named = script.format(**folders), pwd.format(**folders)
    answer = subprocess.run(
        ["./python", given],
        cwd=first,
        env={"PWD": named, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    folder, program, *arguments = answer.stdout.split()
    assert arguments == [given]
    if os.path.isabs(given):  # Nothing tells where it was started.
        assert (folder, os.path.isabs(program)) == ("/", True)
    else:
        expected = named if named == str(current) else str(first)
        assert (folder, program) == (expected, "./python")
