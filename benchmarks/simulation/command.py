"""
python -m benchmarks.simulation: simulate a cluster of any size with measured costs.

Nodes, Redis and PostgreSQL are queues whose work takes what `--measure` has found on
real ones; clients return as the back-off of the product's client decides. A number of
clients moves together (--clients-per-cohort), so that a million of them are simulated
in about a minute.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from benchmarks.processes import StartFailed
from benchmarks.report import make_table
from benchmarks.simulation.charts import (
    CHARTS,
    RECORD,
    write_charts,
    write_record,
)
from benchmarks.simulation.check import Compared, check
from benchmarks.simulation.costs import (
    COSTS,
    Costs,
    CostsInvalid,
    read_costs,
)
from benchmarks.simulation.live import POOLS
from benchmarks.simulation.measure import measure
from benchmarks.simulation.model import Assumptions
from benchmarks.simulation.scenarios import SCENARIOS, Result, run

_HEADER = (
    "scenario",
    "pool",
    "connects/s, peak (mean)",
    "rows/s, peak (mean)",
    "CPU of Redis, peak (mean)",
    "cores of PostgreSQL, peak (mean)",
    "busiest node",
    "away p50, p99, longest",
    "cut off; full; alone",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios on the command line, or measure the costs."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    for name in options.scenarios:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    assumed = _read_assumptions(parser, options)
    try:
        if options.measure:
            costs = measure(
                rounds=options.rounds, connects=options.connects, progress=_tell
            )
            costs.write(options.costs)
            print(options.costs)
            return 0
        if options.check:
            compared = check(
                options.pool or POOLS,
                rounds=options.rounds,
                connects=options.connects,
                seed=options.seed,
                progress=_tell,
            )
            return report(compared, options.tolerance, options.json)
        costs = read_costs(options.costs)
    except (CostsInvalid, StartFailed) as exc:
        parser.error(str(exc))
    results = [
        run(
            SCENARIOS[name],
            pool,
            costs.pools[pool],
            assumed,
            seed=options.seed,
            progress=_tell,
        )
        for name in options.scenarios or SCENARIOS
        for pool in options.pool or POOLS
    ]
    print(describe(results))
    content = make_content(results, costs, assumed, options.seed)
    if options.record:
        write_record(content)
        write_charts(RECORD, CHARTS)
    elif options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="scenarios:\n"
        + "\n".join(f"  {one.name:16} {one.about}" for one in SCENARIOS.values()),
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="by default all"
    )
    parser.add_argument(
        "--pool",
        action="append",
        choices=POOLS,
        help="where the slots are (default: each)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument(
        "--costs",
        type=Path,
        default=COSTS,
        metavar="FILE",
        help="the measured costs (default: those of the repository)",
    )
    written = parser.add_mutually_exclusive_group()
    written.add_argument(
        "--record",
        action="store_true",
        help="write the results to docs/evidence/simulation.json, and draw the charts",
    )
    written.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results to FILE"
    )
    assumed = parser.add_argument_group("what is assumed")
    for one in fields(Assumptions):
        kind = int if one.type in (int, "int") else float
        assumed.add_argument(
            f"--{one.name.replace('_', '-')}",
            type=kind,
            default=one.default,
            metavar="N",
            help=f"by default {one.default:,}",
        )
    measured = parser.add_argument_group("measurement")
    command = measured.add_mutually_exclusive_group()
    command.add_argument(
        "--check",
        action="store_true",
        help="compare the model with real runs of 1, 2 and 4 nodes; the exit code is"
        " 1 if anything differs by more than --tolerance",
    )
    measured.add_argument(
        "--tolerance",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="by default 0.2",
    )
    command.add_argument(
        "--measure",
        action="store_true",
        help="measure the costs on real nodes, and write them to the file of --costs",
    )
    measured.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="by default 3"
    )
    measured.add_argument(
        "--connects",
        type=int,
        default=1600,
        metavar="N",
        help="busy connects of each node in a round (default: 1,600)",
    )
    return parser


def _read_assumptions(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> Assumptions:
    names = [one.name for one in fields(Assumptions)]
    assumed = replace(Assumptions(), **{name: getattr(options, name) for name in names})
    for name in names:
        least = 0 if name.endswith(("_seconds", "_share")) else 1
        if getattr(assumed, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more")
    if assumed.life_seconds == 0:
        parser.error("--life-seconds must be more than 0")
    if assumed.connections < assumed.clients_per_cohort:
        parser.error("--connections must be --clients-per-cohort or more")
    return assumed


def report(compared: Sequence[Compared], tolerance: float, place: Path | None) -> int:
    """Print what was compared; return 1 if anything differs by too much."""
    rows = [
        (
            one.what,
            f"{one.measured:,.2f} {one.unit}".strip(),
            f"{one.simulated:,.2f} {one.unit}".strip(),
            f"{one.ratio:.2f}",
            "" if one.agrees(tolerance) else "differs",
        )
        for one in compared
    ]
    print(make_table(("what", "measured", "simulated", "ratio", ""), rows))
    if place:
        found = [asdict(one) | {"ratio": one.ratio} for one in compared]
        place.write_text(json.dumps({"format": 1, "compared": found}, indent=1))
    return int(not all(one.agrees(tolerance) for one in compared))


def describe(results: Sequence[Result]) -> str:
    """Return the results as a table."""
    rows = []
    for result in results:
        found = result.summary
        rows.append(
            (
                result.scenario,
                result.pool,
                f"{found['connects_per_second_peak']:,.0f}"
                f" ({found['connects_per_second_mean']:,.0f})",
                f"{found['rows_per_second_peak']:,.0f}"
                f" ({found['rows_per_second_mean']:,.0f})",
                f"{found['redis_cpu_percent_peak']:.0f} %"
                f" ({found['redis_cpu_percent_mean']:.0f} %)",
                f"{found['postgres_cores_peak']:.2f}"
                f" ({found['postgres_cores_mean']:.2f})",
                f"{found['node_cpu_percent_peak']:.0f} %",
                f"{found['away_seconds_p50']:.1f}, {found['away_seconds_p99']:.1f},"
                f" {found['away_seconds_longest']:.1f} s",
                f"{found['refused']:,.0f}; {found['full']:,.0f}; {found['alone']:,.0f}",
            )
        )
    return make_table(_HEADER, rows)


def make_content(
    results: Sequence[Result], costs: Costs, assumed: Assumptions, seed: int
) -> dict[str, object]:
    """Return what is written as JSON."""
    return {
        "format": 1,
        "measured_on": costs.measured_on,
        "machine": dict(costs.machine),
        "seed": seed,
        "assumptions": asdict(assumed),
        "results": [asdict(result) for result in results],
    }


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
