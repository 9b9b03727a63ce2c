"""
python -m benchmarks.size: time what staff use, on tables of a million rows.

Fills a temporary SQLite file or a private PostgreSQL with connections, errors,
sessions, entries and seven days of ten nodes, without ANALYZE, and times every list,
search, filter, page and command of benchmarks/size/cases.py.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django

from benchmarks.report import make_table, write_json

MOST_MS = 300
_REPETITIONS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases on the command line; return 1 if one is too slow."""
    options = _make_parser().parse_args(arguments)
    with _open_database(options.database):
        figures = _measure(options)
    rows = [
        (one["case"], one["first_ms"], one["median_ms"], one["queries"])
        for one in figures
    ]
    print(make_table(("case", "first ms", "median ms", "queries"), rows))
    slow = [one["case"] for one in figures if one["median_ms"] > MOST_MS]
    print(f"\n{len(figures)} cases, {len(slow)} over {MOST_MS} ms", *slow, sep="\n")
    if options.json:
        content = {"database": options.database, "rows": options.rows}
        write_json(options.json, {**content, "cases": figures})
    return 1 if slow else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.size",
        description="Time what staff use, on tables of many rows.",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        help="connections, and as many entries (default: %(default)s)",
    )
    parser.add_argument(
        "--database", choices=("sqlite", "postgresql"), default="sqlite"
    )
    parser.add_argument("--only", default="", help="cases with this text in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures here")
    return parser


@contextmanager
def _open_database(name: str) -> Iterator[None]:
    """Let the settings of this process name an empty, temporary database."""
    with tempfile.TemporaryDirectory(prefix="size-") as folder:
        # The settings create folders and a key there.
        os.environ |= {"ORCHESTRA_VAR": folder, "LOG_LEVEL": "WARNING"}
        os.environ["DJANGO_SETTINGS_MODULE"] = "orchestra.settings"
        os.environ.pop("DEBUG", None)
        if name == "sqlite":
            os.environ["DATABASE_URL"] = f"sqlite:///{folder}/db.sqlite3"
            yield
            return
        from tests.integration.services import PostgresProcess

        server = PostgresProcess()
        try:
            os.environ["DATABASE_URL"] = server.create().create_database("size")
            yield
        finally:
            server.remove()


def _measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    sys.argv[0] = "manage.py"  # No statement is cut; see orchestra/settings.py.
    sys.argv[1:] = ["size"]
    django.setup()

    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from benchmarks.size.cases import list_cases
    from benchmarks.size.rows import Sizes, fill

    call_command("migrate", verbosity=0)
    sizes = Sizes(rows=options.rows)
    started = time.monotonic()
    fill(connection, sizes)
    print(f"filled in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("staff"))
    figures = []
    for case in list_cases(sizes):
        if options.only not in case.name:
            continue
        taken = []
        for _ in range(_REPETITIONS):
            started = time.monotonic()
            with CaptureQueriesContext(connection) as captured:
                case.run(client)
            taken.append(round(1000 * (time.monotonic() - started)))
        slowest = max(captured, key=lambda one: float(one["time"]), default=None)
        figure = {
            "case": case.name,
            "first_ms": taken[0],
            "median_ms": round(statistics.median(taken)),
            "queries": len(captured),
        }
        if slowest and float(slowest["time"]) * 1000 > MOST_MS / 3:
            figure["slowest"] = slowest
            print(case.name, taken, slowest, file=sys.stderr, flush=True)
        figures.append(figure)
    return figures


if __name__ == "__main__":
    sys.exit(main())
