"""
python -m benchmarks.soak: check that nothing grows under lasting load.

Starts nodes with PostgreSQL and Redis (without these one node with SQLite).
Clients connect, send, stream, stop reading and vanish; nodes are killed and
drained. Between rounds the cluster comes to rest and is sampled. The exit code is
1 if a figure grows, an acked message is missing, or something is left at the end.

With --sessions, clients in Python and in JavaScript converse through kills, cuts and
expiring tokens. The exit code is 1 if the log disagrees with any of their promises.
"""

import argparse
import asyncio
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.report import make_table, write_json
from benchmarks.soak.clients import PAGES, Crowd
from benchmarks.soak.cluster import PLANTS, SERVERS, Cluster, has_services, serving
from benchmarks.soak.conversations import CONFIG, ENVIRONMENT, converse
from benchmarks.soak.figures import Checked, Sample, check, take
from connections.capacity.load.procfs import allow_many_files

_MOST_SHOWN = 20
_ROUNDS = 10
"""About this many samples, and at least half of them."""

_ROUND_SECONDS = (1.0, 8.0)
_MAKE_TOKENS = (
    "import json\n"
    "from connections.credentials.tokens import create_access_token\n"
    f"print(json.dumps([create_access_token(f'p{{n}}')[0] for n in range({PAGES})]))"
)


@dataclass(kw_only=True)
class Soak:
    """The result of one run."""

    samples: list[Sample] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Problems other than growth: lost acks and leftovers."""

    @property
    def is_flat(self) -> bool:
        """Whether nothing grew, and there are no other problems."""
        return not self.problems and all(one.is_flat for one in self.checked)


async def soak(cluster: Cluster, *, seconds: float, seed: int) -> Soak:
    """Run rounds of load, and take a sample after each."""
    tokens = cluster.steady.manage("shell", "-v0", "-c", _MAKE_TOKENS)
    crowd = Crowd(cluster.nodes, json.loads(tokens), seed=seed)
    chance = random.Random(f"{seed} nodes")
    least, most = _ROUND_SECONDS
    round_seconds = min(max(seconds / _ROUNDS / 2, least), most)
    done = Soak()
    began = time.monotonic()
    while time.monotonic() - began < seconds or len(done.samples) < _ROUNDS / 2:
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.generate_load(round_seconds))
            # A single node is disturbed only before the first sample.
            victims = cluster.nodes[1:] or cluster.nodes[: not done.samples]
            if victims:
                disturb = chance.choice((cluster.kill, cluster.drain))
                await asyncio.sleep(round_seconds * chance.uniform(0, 0.5))
                group.create_task(disturb(chance.choice(victims)))
        sample = await take(
            cluster,
            standing=crowd.count_standing(),
            at_seconds=time.monotonic() - began,
        )
        done.samples.append(sample)
        _report(sample, seconds)
    done.problems += await asyncio.to_thread(_find_lost, cluster, crowd)
    await crowd.leave()
    last = await take(cluster, standing=0, at_seconds=time.monotonic() - began)
    for name in ("consumers", "rows_open"):
        if left := getattr(last, name):
            done.problems.append(f"{left} {name} are left after all clients left")
    done.counts = {**crowd.counts, **cluster.disturbances}
    done.checked = check(done.samples)
    return done


def _find_lost(cluster: Cluster, crowd: Crowd) -> list[str]:
    """Return the problems with acked messages."""
    found = []
    for page in crowd.pages:
        rows = cluster.store.ask(
            'select key, "offset" from sessions_history_appendkey'
            f" where session_id = '{page.session_id}'"
        )
        if page.acked.items() - dict(rows).items():
            found.append(f"acked messages are missing in the log of {page.session_id}")
        if missing := crowd.sent[page] - page.acked.keys():
            found.append(f"{len(missing)} messages were never acked")
    return found


def _report(sample: Sample, seconds: float) -> None:
    """Print the progress and a sample on one line."""
    figures = dataclasses.asdict(sample)
    at_seconds = figures.pop("at_seconds")
    text = ", ".join(f"{name} {value}" for name, value in figures.items())
    print(f"{at_seconds:5.0f} of {seconds:.0f} s: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak with the given options; return the exit code."""
    options = _make_parser().parse_args(arguments)
    nodes = options.nodes or (2 if has_services() else 1)
    if nodes > 1 and not has_services():
        print("several nodes need redis-server and postgresql", file=sys.stderr)
        return 2
    seed = random.randrange(10_000) if options.seed is None else options.seed
    allow_many_files()
    stores = "PostgreSQL, Redis" if nodes > 1 else "SQLite"
    print(f"seed {seed}, {nodes} x {options.server}, {stores}", flush=True)
    if options.sessions:
        return _run_sessions(options, nodes, seed)
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        serving(
            Path(folder), nodes=nodes, server=options.server, plant=options.plant
        ) as cluster,
    ):
        done = asyncio.run(soak(cluster, seconds=60 * options.minutes, seed=seed))
    header = ("what", "after the warm-up", "at the end", "growth", "allowed", "")
    rows = [
        (
            one.name,
            f"{one.first:,.0f}",
            f"{one.last:,.0f}",
            f"{one.growth:,.1f}",
            f"{one.allowed:,.0f}",
            "flat" if one.is_flat else "NOT FLAT",
        )
        for one in done.checked
    ]
    print(make_table(header, rows))
    print(", ".join(f"{count} {what}" for what, count in sorted(done.counts.items())))
    for problem in done.problems:
        print(f"PROBLEM: {problem}")
    print("all flat" if done.is_flat else "not flat, or with problems: see above")
    if options.json:
        content = {"seed": seed, "nodes": nodes, "server": options.server}
        write_json(options.json, {**content, **dataclasses.asdict(done)})
    return 0 if done.is_flat else 1


def _run_sessions(options: argparse.Namespace, nodes: int, seed: int) -> int:
    """Let clients of both kinds converse; return the exit code."""
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        serving(
            Path(folder),
            nodes=nodes,
            server=options.server,
            config=CONFIG,
            environment=ENVIRONMENT,
        ) as cluster,
    ):
        seconds = 60 * options.minutes
        records = asyncio.run(
            converse(cluster, seconds=seconds, clients=options.clients, seed=seed)
        )
    rows = [(what, f"{count:,}") for what, count in sorted(records.counts.items())]
    print(make_table(("what", "count"), rows))
    for problem in records.problems[:_MOST_SHOWN]:
        print(f"PROBLEM: {problem}")
    print("the log disagrees" if records.problems else "the log agrees")
    if options.json:
        content = {"seed": seed, "nodes": nodes, "clients": options.clients}
        content |= {"counts": records.counts, "problems": records.problems}
        write_json(options.json, content)
    return 1 if records.problems else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=5, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--nodes", type=int, metavar="N", help="default: 2, or 1 with SQLite"
    )
    parser.add_argument("--server", choices=SERVERS, default="serve")
    parser.add_argument("--seed", type=int, help="seed of all random choices")
    parser.add_argument(
        "--sessions", action="store_true", help="check the promises of sessions"
    )
    parser.add_argument(
        "--clients",
        type=int,
        default=200,
        metavar="N",
        help="with --sessions, half of each kind; default: %(default)s",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all results to FILE"
    )
    parser.add_argument(
        "--plant",
        choices=PLANTS,
        help="let each WebSocket leak this, so that the soak must fail",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
