"""
python -m benchmarks.conformance: run the Autobahn test suite against /ws/echo/.

The suite's fuzzing client runs in an installed CPython 2.7, against a new server
on a free port. The exit code is 1 if a case fails unexpectedly, and 2 if the suite
cannot run.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.conformance.runs import SERVERS, SUBSETS, RunFailed, Server, run
from benchmarks.conformance.suite import (
    SUITE_VERSION,
    Python,
    SuiteMissing,
    find_python,
    install,
)
from benchmarks.conformance.verdicts import (
    Case,
    count_cases,
    make_section_table,
    read_cases,
)
from benchmarks.processes import StartFailed
from benchmarks.report import write_json

_FEW = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite with the given options; return the exit code."""
    options = _make_parser().parse_args(arguments)
    try:
        python = find_python(options.python)
        suite = install(python)
    except SuiteMissing as exc:
        print(f"NOT RUN: {exc}", file=sys.stderr)
        return 2
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            report = (options.report or Path(temporary)).resolve()
            report.mkdir(parents=True, exist_ok=True)
            cases = _run(options, python, suite, report)
    except (RunFailed, StartFailed) as exc:
        print(f"The run against {options.server} failed: {exc}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - began
    print(make_section_table(cases))
    print(f"{len(cases)} cases in {seconds:.0f} s, {options.server}")
    if options.report:
        print(f"each case: {options.report}/index.html")
    if options.json:
        _write(options, cases, seconds)
    return _check(cases, SERVERS[options.server])


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conformance",
        description="Run the Autobahn test suite against /ws/echo/.",
    )
    parser.add_argument(
        "--subset",
        choices=SUBSETS,
        default="all",
        help="fast: sections 1-7 and 10, default limits; ci: also the quick cases of "
        "section 9 and some of compression, with raised limits; compression: sections "
        "12 and 13; all (the default): every case",
    )
    parser.add_argument("--server", choices=SERVERS, default="serve")
    parser.add_argument("--python", metavar="PATH", help="path of a CPython 2.7")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all results to FILE"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FOLDER", help="keep the suite's own report"
    )
    return parser


def _run(
    options: argparse.Namespace, python: Python, suite: Path, report: Path
) -> list[Case]:
    """
    Return the verdicts; failed cases are run again, and the second verdict counts.

    The suite allows a second for most answers, which is too short on a busy
    machine. Real failures fail again.
    """
    subset, known = SUBSETS[options.subset], SERVERS[options.server].known
    run(options.server, subset, python, suite, report)
    cases = read_cases(report, options.server)
    failed = [one.number for one in cases if one.has_failed and one.number not in known]
    if not 0 < len(failed) <= _FEW:
        return cases
    print(f"failed, running again: {', '.join(failed)}", file=sys.stderr, flush=True)
    again = report / "again"
    again.mkdir(exist_ok=True)
    few = dataclasses.replace(subset, cases=failed, excluded=())
    run(options.server, few, python, suite, again)
    second = {one.number: one for one in read_cases(again, options.server)}
    return [second.get(one.number, one) for one in cases]


def _write(options: argparse.Namespace, cases: Sequence[Case], seconds: float) -> None:
    content = {
        "suite": SUITE_VERSION,
        "server": options.server,
        "subset": options.subset,
        "seconds": round(seconds, 1),
        "counts": count_cases(cases),
        "cases": {one.number: [one.behavior, one.close] for one in cases},
    }
    write_json(options.json, content)


def _check(cases: Sequence[Case], server: Server) -> int:
    """Print the failed cases; return the exit code."""
    failed = [case for case in cases if case.has_failed]
    known = [case.number for case in failed if case.number in server.known]
    unknown = [case for case in failed if case.number not in server.known]
    if known:
        print(f"known to fail: {', '.join(known)}: {server.why}")
    for case in unknown:
        print(f"FAILED {case}")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
