"""
python -m benchmarks.soak: does anything grow while everything goes on?

Real nodes with PostgreSQL and Redis (one with SQLite where these are not there),
clients that come, talk, stream, read nothing and vanish; nodes are killed and
drained. In between all come to rest, and what the cluster holds is looked at. Says
at the end which figures are flat; the exit code is 1 where one is not, where an
acked message is missing, or where something is left when all have gone.
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
from benchmarks.soak.figures import Judged, Sample, judge, take
from connections.capacity.load.procfs import allow_many_files

_ROUNDS = 10
"""About so many samples; half of them at least, however short it is."""

_ROUND_SECONDS = (1.0, 8.0)
_MAKE_TOKENS = (
    "import json\n"
    "from connections.credentials.tokens import create_access_token\n"
    f"print(json.dumps([create_access_token(f'p{{n}}')[0] for n in range({PAGES})]))"
)


@dataclass(kw_only=True)
class Soak:
    """What came of one run."""

    samples: list[Sample] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)
    """What is no matter of growth: lost acks, leftovers."""

    @property
    def is_flat(self) -> bool:
        """Whether nothing grew, was lost or was left."""
        return not self.wrongs and all(one.is_flat for one in self.judged)


async def soak(cluster: Cluster, *, seconds: float, seed: int) -> Soak:
    """Have everything go on for a while, and look in between."""
    tokens = cluster.steady.manage("shell", "-v0", "-c", _MAKE_TOKENS)
    crowd = Crowd(cluster.nodes, json.loads(tokens), seed=seed)
    chance = random.Random(f"{seed} nodes")
    least, most = _ROUND_SECONDS
    round_seconds = min(max(seconds / _ROUNDS / 2, least), most)
    done = Soak()
    began = time.monotonic()
    while time.monotonic() - began < seconds or len(done.samples) < _ROUNDS / 2:
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.be_lively(round_seconds))
            # The one node of a soak without others only has these before it counts.
            victims = cluster.nodes[1:] or cluster.nodes[: not done.samples]
            if victims:
                act = chance.choice((cluster.kill, cluster.drain))
                await asyncio.sleep(round_seconds * chance.uniform(0, 0.5))
                group.create_task(act(chance.choice(victims)))
        sample = await take(
            cluster,
            standing=crowd.count_standing(),
            at_seconds=time.monotonic() - began,
        )
        done.samples.append(sample)
        _report(sample, seconds)
    done.wrongs += await asyncio.to_thread(_find_lost, cluster, crowd)
    await crowd.leave()
    last = await take(cluster, standing=0, at_seconds=time.monotonic() - began)
    for name in ("consumers", "rows_open"):
        if left := getattr(last, name):
            done.wrongs.append(f"{left} {name} are left though all have gone")
    done.counts = {**crowd.counts, **cluster.befallen}
    done.judged = judge(done.samples)
    return done


def _find_lost(cluster: Cluster, crowd: Crowd) -> list[str]:
    """Return what is wrong with what was acked."""
    found = []
    for page in crowd.pages:
        rows = cluster.store.ask(
            'select key, "offset" from sessions_history_appendkey'
            f" where session_id = '{page.session_id}'"
        )
        if page.acked.items() - dict(rows).items():
            found.append(f"acked, and not in the log of {page.session_id}")
        if missing := crowd.said[page] - page.acked.keys():
            found.append(f"{len(missing)} messages were never acked")
    return found


def _report(sample: Sample, seconds: float) -> None:
    """Say on one line how far it is, and what there was."""
    figures = dataclasses.asdict(sample)
    at_seconds = figures.pop("at_seconds")
    text = ", ".join(f"{name} {value}" for name, value in figures.items())
    print(f"{at_seconds:5.0f} of {seconds:.0f} s: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak as the command line says; return the exit code."""
    options = _make_parser().parse_args(arguments)
    nodes = options.nodes or (2 if has_services() else 1)
    if nodes > 1 and not has_services():
        print("several nodes need redis-server and postgresql", file=sys.stderr)
        return 2
    seed = random.randrange(10_000) if options.seed is None else options.seed
    allow_many_files()
    stores = "PostgreSQL, Redis" if nodes > 1 else "SQLite"
    print(f"seed {seed}, {nodes} x {options.server}, {stores}", flush=True)
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
        for one in done.judged
    ]
    print(make_table(header, rows))
    print(", ".join(f"{count} {what}" for what, count in sorted(done.counts.items())))
    for wrong in done.wrongs:
        print(f"WRONG: {wrong}")
    print("all flat" if done.is_flat else "not flat, or wrong: see above")
    if options.json:
        content = {"seed": seed, "nodes": nodes, "server": options.server}
        write_json(options.json, {**content, **dataclasses.asdict(done)})
    return 0 if done.is_flat else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5, metavar="N")
    parser.add_argument("--nodes", type=int, metavar="N", help="2, or 1 on SQLite")
    parser.add_argument("--server", choices=SERVERS, default="serve")
    parser.add_argument("--seed", type=int, help="of who does what, and when")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything")
    parser.add_argument(
        "--plant",
        choices=PLANTS,
        help="have each WebSocket leave this behind: then it has to fail",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
