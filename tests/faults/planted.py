"""
Plant flaws, one at a time, into a copy of this project for the checker to find.

    python -m tests.faults.planted
    python -m tests.faults.planted late-evicts-nobody --seconds 30 --seed 3

A checker that cannot fail proves nothing: each flaw has to make a run fail, in words
that fit. test_invariants.py finds those of limits, tests/simulation those of sessions.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.faults.flaws import Flaw, plant
from tests.faults.planted_sessions import FLAWS as SESSIONS

_RETAKE = "connections/pool/scripts/retake.lua"
_PRELUDE = "connections/pool/scripts/prelude.lua"
_POSTGRES = "connections/pool/scripts/postgres_1.sql"


LIMITS = {
    "keep-has-room-for-all": Flaw(
        path=_RETAKE,
        right="elseif count >= slot.limit then",
        wrong="elseif false then",
        faults="outlived",
        shows="over its limit",
    ),
    "keep-has-room-for-nobody": Flaw(
        path=_RETAKE,
        right="elseif count >= slot.limit then",
        wrong="elseif true then",
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
        path="connections/node/slots.py",
        right="is_whole & await self._end_all(renewal.lost, close_codes.POOL_FULL)",
        wrong="is_whole",
        faults="outlived",
        shows="over its limit",
    ),
    "postgresql-keeps-all-that-woke": Flaw(
        path=_POSTGRES,
        right="excess := own_slots + 1 - p_limits[place];",
        wrong="excess := 0;",
        faults="outlived",
        run="postgresql_alone",
        shows="over its limit",
    ),
    "postgresql-evicts-nobody-late": Flaw(
        path=_POSTGRES,
        right="CONTINUE WHEN recovers OR excess <= 0;",
        wrong="CONTINUE;",
        faults="islanded",
        run="postgresql_alone",
        shows="over its limit",
    ),
}


FLAWS = {**LIMITS, **SESSIONS}


def find(
    flaw: Flaw, *, seconds: float = 20, examples: int = 400, seed: int
) -> tuple[bool, str]:
    """
    Run the checker on a flawed copy; return whether it finds it, and its output.

    A run of limits lasts some seconds, one of sessions has so many examples.
    """
    arguments = [
        *("tests/simulation", "-m", "slow", "--timeout", "0"),
        *("--simulation-examples", str(examples), "--simulation-seed", str(seed)),
    ]
    if flaw.faults:
        arguments = [
            *("tests/faults/test_invariants.py", "-k", flaw.run),
            *("--invariant-faults", flaw.faults, "--invariant-seed", str(seed)),
            *("--invariant-seconds", str(seconds)),
        ]
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        plant(flaw, Path(folder))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "--no-cov", "-s"),
                *("-p", "no:cacheprovider", *arguments),
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
    parser.add_argument(
        "--seconds", type=float, default=20, help="of each run of limits"
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=400,
        help="the most of a run of sessions, which ends with the first that fails",
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in FLAWS:
            parser.error(f"no flaw {name!r}; there are {', '.join(FLAWS)}")
    missed = 0
    for name in options.names or FLAWS:
        is_found, output = find(
            FLAWS[name],
            seconds=options.seconds,
            examples=options.examples,
            seed=options.seed,
        )
        missed += not is_found
        print(f"{name}: {'found' if is_found else 'NOT FOUND'}", flush=True)
        if not is_found:
            print(output)
    return missed


if __name__ == "__main__":
    sys.exit(main())
