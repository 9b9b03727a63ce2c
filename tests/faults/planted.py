"""
Plant flaws, one at a time, into a copy of this project for the checker to find.

    python -m tests.faults.planted
    python -m tests.faults.planted late-evicts-nobody --seconds 30 --seed 3

A checker that cannot fail proves nothing: each flaw has to make the run of
test_invariants.py fail, in words that fit.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.project import ROOT

_COPIED = ("connections", "sessions_history", "orchestra", "templates")
_COPIED_AS_WELL = ("tests", "manage.py", "pyproject.toml")
_RETAKE = "connections/pool/scripts/retake.lua"
_PRELUDE = "connections/pool/scripts/prelude.lua"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """A replacement of one text in a file, and the expected finding."""

    path: str
    right: str
    wrong: str
    faults: str
    """The faults under which the flaw matters."""

    shows: str
    """A part of the checker's finding."""


FLAWS = {
    "keep-has-room-for-all": Flaw(
        path=_RETAKE,
        right="elseif count < slot.limit and count_slots() < max_total",
        wrong="elseif count_slots() < max_total",
        faults="outlived",
        shows="over its limit",
    ),
    "keep-has-room-for-nobody": Flaw(
        path=_RETAKE,
        right="elseif count < slot.limit and count_slots() < max_total",
        wrong="elseif count < 0",
        faults="outlived",
        shows="ended for only",
    ),
    "late-evicts-nobody": Flaw(
        path=_RETAKE,
        right="  evict_oldest(slot.client, excess)\n",
        wrong="",
        faults="islanded",
        shows="over its limit",
    ),
    "a-recovering-pool-keeps-nobody": Flaw(
        path=_RETAKE,
        right="== RECOVERING then\n    take_unconditionally(slot)\n",
        wrong="== RECOVERING then\n    refuse(slot, 'lost')\n",
        faults="redis_flushed,redis_restarted",
        shows="ended for only",
    ),
    "a-recovered-pool-settles-nothing": Flaw(
        path=_PRELUDE,
        right="    evict_oldest(client, excess)\n    left =",
        wrong="    left =",
        faults="redis_restarted",
        shows="over its limit",
    ),
    "a-woken-node-keeps-what-it-lost": Flaw(
        path="connections/node/node.py",
        right="is_whole & self.end_connections(renewal.lost, close_codes.POOL_FULL)",
        wrong="is_whole",
        faults="outlived",
        shows="over its limit",
    ),
}


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


def find(flaw: Flaw, *, seconds: float, seed: int) -> tuple[bool, str]:
    """Run the checker on a flawed copy; return whether it finds it, and its output."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        plant(flaw, Path(folder))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "--no-cov", "-s"),
                *("-p", "no:cacheprovider", "tests/faults/test_invariants.py"),
                *("-k", "promises_hold", "--invariant-faults", flaw.faults),
                *("--invariant-seconds", str(seconds), "--invariant-seed", str(seed)),
            ],
            cwd=folder,
            # In CI failed tests run again; this run has to fail.
            env={**os.environ, "CI": "", "ORCHESTRA_VAR": str(Path(folder) / "var")},
            capture_output=True,
            text=True,
            check=False,
        )
    output = done.stdout + done.stderr
    return done.returncode == 1 and flaw.shows in done.stdout, output


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant the named flaws; return the number that the checker missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.planted",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="FLAW", help=", ".join(FLAWS))
    parser.add_argument("--seconds", type=float, default=20, help="of each run")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in FLAWS:
            parser.error(f"no flaw {name!r}; there are {', '.join(FLAWS)}")
    missed = 0
    for name in options.names or FLAWS:
        is_found, output = find(FLAWS[name], seconds=options.seconds, seed=options.seed)
        missed += not is_found
        print(f"{name}: {'found' if is_found else 'NOT FOUND'}", flush=True)
        if not is_found:
            print(output)
    return missed


if __name__ == "__main__":
    sys.exit(main())
