"""
python -m benchmarks: compare servers on this machine.

Each contender runs in its own process, one after another. Each round repeats all
of them, so that other load of the machine affects all alike. Ratios are taken
within a round; the table shows their medians and extremes.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.charts import CHARTS, RECORD, write_charts
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.measures import CONTENDERS_OF, MEASURES, QUICK_CONTENDERS
from benchmarks.processes import StartFailed
from benchmarks.report import make_table, write_json
from benchmarks.site import Site, make_site
from benchmarks.sizes import QUICK, WHOLE, Size, Values
from benchmarks.tables import make_tables
from benchmarks.targets import check
from connections.capacity.load.generator import LoadFailed
from connections.capacity.load.procfs import allow_many_files

Rounds = dict[str, dict[str, list[Values]]]
"""The values of each round, by measure and contender."""

_ROUNDS = {
    "echo": 5,
    "connects": 5,
    "crowd": 1,
    "broadcast": 5,
    "workers": 5,
    "nodes": 5,
    "stores": 3,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measures on the command line; return the exit code."""
    options = _make_parser().parse_args(arguments)
    size = QUICK if options.quick else WHOLE
    measures = _select(options.only, tuple(MEASURES), "measure")
    names = _select(options.contenders, tuple(CONTENDERS), "contender")
    if options.quick and not options.contenders:
        names = list(QUICK_CONTENDERS)
    allow_many_files()
    missing = _find_missing(names, measures)
    for name, reason in missing.items():
        print(f"{name} is skipped: {reason}")
    found: Rounds = {}
    with make_site() as folder:
        site = Site(Path(folder))
        site.prepare()
        for measure in measures:
            rounds = options.rounds or (1 if options.quick else _ROUNDS[measure])
            chosen = [
                CONTENDERS[name]
                for name in CONTENDERS_OF[measure]
                if name in names and name not in missing
            ]
            found[measure] = _run(measure, chosen, site, size, rounds)
            for table in make_tables(found[measure]):
                print(f"\n{measure}\n{table}", flush=True)
    checked = check(found)
    if checked:
        print("\ntargets")
        print(make_table(("what", "at least", "measured"), checked))
    place = RECORD if options.record else options.json
    if place:
        targets = [
            dict(zip(("what", "target", "measured"), r, strict=True)) for r in checked
        ]
        content = {
            "is_quick": options.quick,
            "rounds": found,
            "targets": targets,
            "missing": missing,
        }
        write_json(place, content)
    if options.record:
        write_charts(RECORD, CHARTS)
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare this project with other servers on this machine.",
        epilog="Sessions and Redis have commands of their own: see benchmarks/.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="run a smoke test of two minutes"
    )
    parser.add_argument(
        "--only",
        metavar="MEASURE",
        action="append",
        help=f"measures to run, of {', '.join(MEASURES)} (default: all)",
    )
    parser.add_argument(
        "--contenders",
        metavar="NAME",
        action="append",
        help=f"servers to run, of {', '.join(CONTENDERS)} (default: all)",
    )
    parser.add_argument("--rounds", type=int, help="repetitions of each measure")
    written = parser.add_mutually_exclusive_group()
    written.add_argument(
        "--record",
        action="store_true",
        help="write all results to docs/evidence/benchmarks.json, and draw its charts",
    )
    written.add_argument(
        "--json", type=Path, metavar="FILE", help="write all results to FILE"
    )
    return parser


def _select(
    requested: list[str] | None, known: tuple[str, ...], kind: str
) -> list[str]:
    """Return the requested names; all by default."""
    chosen = [name for part in requested or () for name in part.split(",")]
    for name in chosen:
        if name not in known:
            raise SystemExit(f"no {kind} {name!r}; there are {', '.join(known)}")
    return chosen or list(known)


def _find_missing(names: Sequence[str], measures: Sequence[str]) -> dict[str, str]:
    """Return the contenders that cannot run here, with the reasons."""
    wanted = {name for measure in measures for name in CONTENDERS_OF[measure]}
    reasons = {name: CONTENDERS[name].missing() for name in names if name in wanted}
    return {name: reason for name, reason in reasons.items() if reason}


def _run(
    measure: str, contenders: Sequence[Contender], site: Site, size: Size, rounds: int
) -> dict[str, list[Values]]:
    found: dict[str, list[Values]] = defaultdict(list)
    for number in range(rounds):
        for contender in contenders:
            started = time.monotonic()
            try:
                values = MEASURES[measure](contender, site, size)
            except (LoadFailed, StartFailed) as exc:
                raise SystemExit(f"{measure}, {contender.name}: {exc}") from exc
            found[contender.name].append(values)
            print(
                f"{measure} {number + 1}/{rounds} {contender.name}: "
                f"{time.monotonic() - started:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return dict(found)


if __name__ == "__main__":
    sys.exit(main())
