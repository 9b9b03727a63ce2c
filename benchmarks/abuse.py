"""
python -m benchmarks.abuse: run the attacks of tests/abuse/ on stock daphne and on ours.

Both serve the same consumers. Each attack gets its own server with the default
configuration, except that clients need no credentials, one foreign origin is
allowed, and messages may be as large as on daphne. A canary in a third process
measures the effect on other clients.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import django

from benchmarks.report import make_table, write_json
from benchmarks.site import make_site
from tests.abuse.attack import Attack
from tests.abuse.corpus import ATTACKS
from tests.abuse.report import describe, summarise_answers
from tests.abuse.watch import Arena, Report
from tests.project import ProjectServers, make_server

_CONTENDERS = ("bare", "limited")
_CONFIG = {
    "anonymous": "true",
    "allowed_origins": "[https://app.example.com]",
    "max_message_size": "1MiB",
}
_OFFERED_BYTES = 50_000_000
"""Bytes per attacker; stock daphne keeps all of them in memory."""

_HEADER = (
    *("attack", "bare: answers", "ours: answers"),
    *("canary p99 ms: bare", "ours", "RSS grew MB: bare", "ours"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack both servers; print a table and optionally write JSON."""
    options = _make_parser().parse_args(arguments)
    known = {attack.name: attack for attack in ATTACKS}
    unknown = set(options.only or ()) - set(known)
    if unknown:
        raise SystemExit(f"no attack {min(unknown)!r}; there are {', '.join(known)}")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestra.settings")
    django.setup()
    found: dict[str, dict[str, Report]] = {}
    with make_site() as name:
        folder = Path(name)
        make_server(folder).manage("migrate", "--verbosity", "0")
        servers = ProjectServers(folder, folder / "db.sqlite3")
        try:
            for attack in [known[name] for name in options.only or known]:
                found[attack.name] = {
                    contender: asyncio.run(
                        _attack(attack, contender, servers, options.patience)
                    )
                    for contender in _CONTENDERS
                }
                print(_make_row(attack, found[attack.name]), flush=True)
        finally:
            servers.stop_all()
    rows = [_make_row(known[name], reports) for name, reports in found.items()]
    print(make_table(_HEADER, rows))
    if options.json:
        figures = {
            name: {contender: describe(one) for contender, one in reports.items()}
            for name, reports in found.items()
        }
        write_json(options.json, {"attacks": figures})
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.abuse",
        description="Attack stock Channels on daphne, and this project.",
    )
    parser.add_argument(
        "--only", metavar="ATTACK", action="append", help="attack to run"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=12,
        help="seconds after which an attacker that is not closed counts as still open",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all results to FILE"
    )
    return parser


async def _attack(
    attack: Attack, contender: str, servers: ProjectServers, patience_seconds: float
) -> Report:
    server = servers.start(
        command="daphne",
        application=f"tests.abuse.served.{contender}:application",
        arguments=("--access-log", "/dev/null"),
        config=_CONFIG,
    )
    arena = Arena(
        server, patience_seconds=patience_seconds, offered_bytes=_OFFERED_BYTES
    )
    try:
        return await arena.suffer(attack)
    finally:
        arena.close()
        server.stop()


def _make_row(attack: Attack, reports: Mapping[str, Report]) -> tuple[str, ...]:
    each = [reports[contender] for contender in _CONTENDERS]
    return (
        attack.name,
        *map(summarise_answers, each),
        *(_format_round_trip(one) for one in each),
        *(f"{one.grown_kib / 1024:.1f}" for one in each),
    )


def _format_round_trip(report: Report) -> str:
    lost = ", lost" if report.sighting.failures else ""
    return f"{report.find_round_trip_ms(0.99):.0f}{lost}"


if __name__ == "__main__":
    sys.exit(main())
