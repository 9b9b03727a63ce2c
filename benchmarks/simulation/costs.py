"""Measured costs of operations: what a connect, a close, a second at rest take."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 3
COSTS = Path(__file__).with_name("costs.json")
BUSY_AT_ONCE = 50
"""Handshakes under way at once on a node when its busy connects were measured."""


class CostsInvalid(Exception):
    """A file of costs cannot be used; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """CPU that one operation takes, in µs."""

    node_us: float
    redis_us: float
    postgres_us: float

    def scale(self, factor: float) -> "Use":
        """Return this use, that many times."""
        return Use(
            node_us=self.node_us * factor,
            redis_us=self.redis_us * factor,
            postgres_us=self.postgres_us * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCosts:
    """The costs of nodes with one kind of pool."""

    calm_connect: Use
    """A connect while no other is under way, the row that it records included."""

    busy_connect: Use
    """The same while BUSY_AT_ONCE are under way, which share lookups and writes."""

    close: Use
    """The end of a connection, its row included."""

    full_connect: Use
    """A connect that is closed with pool_full."""

    refusal_node_us: float
    """CPU of a node for a handshake that it refuses before the application."""

    redis_second_us: float
    """CPU of a Redis in a second without nodes; 0 without Redis."""

    cluster_second: Use
    """What a second takes once, whatever the number of nodes: what the lead does."""

    node_second: Use
    """What a second of a node without connections adds: beats, polls."""

    connection_second: Use
    """A second of an idle connection: renewals, pings, passes of each beat."""

    row_postgres_us: float
    """CPU of PostgreSQL for a row, in batches as a beat writes them."""

    def get_connect(self, at_once: float) -> Use:
        """Return the cost of a connect while so many are under way on its node."""
        at_once = min(max(at_once, 1.0), BUSY_AT_ONCE)
        # What a batch shares is divided by its size.
        calm = (1 / at_once - 1 / BUSY_AT_ONCE) / (1 - 1 / BUSY_AT_ONCE)
        one, many = self.calm_connect, self.busy_connect
        return Use(
            node_us=many.node_us + calm * (one.node_us - many.node_us),
            redis_us=many.redis_us + calm * (one.redis_us - many.redis_us),
            postgres_us=many.postgres_us + calm * (one.postgres_us - many.postgres_us),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The costs of each kind of pool, and how they were measured."""

    measured_on: str
    machine: Mapping[str, Any]
    rounds: int
    yardstick_us: float
    """CPU of a fixed loop of Python, for comparing the speed of machines."""

    pools: Mapping[str, PoolCosts]

    def write(self, place: Path) -> None:
        """Write the costs as JSON."""
        place.write_text(
            json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"
        )


def read_costs(place: Path) -> Costs:
    """
    Return the costs in a file.

    Raises:
        CostsInvalid: it is missing, no JSON, of another format, or incomplete.
    """
    try:
        found = json.loads(place.read_text())
    except (OSError, ValueError) as exc:
        raise CostsInvalid(f"{place}: {exc}") from exc
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise CostsInvalid(f"{place}: the format is not {FORMAT}; run --measure")
    try:
        pools = {name: _read_pool(one) for name, one in found.pop("pools").items()}
        return Costs(pools=pools, **found)
    except (AttributeError, KeyError, TypeError) as exc:
        raise CostsInvalid(f"{place} is incomplete: {exc!r}; run --measure") from exc


def _read_pool(found: Mapping[str, Any]) -> PoolCosts:
    read: dict[str, Any] = {
        name: Use(**one) if isinstance(one, dict) else float(one)
        for name, one in found.items()
    }
    return PoolCosts(**read)
