"""Make a forecast of limits from recorded connections, and describe it."""

import dataclasses
import heapq
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from connections.config.loader import WebSocketConfig, get_config
from connections.forecast.records import (
    LOOKBACK,
    Record,
    RefusedRecord,
    read_records,
    read_refused,
)
from connections.forecast.simulation import (
    KINDS,
    LIMIT_OF,
    MOST_CLIENTS,
    RETRY_SECONDS,
    Forecast,
    ForecastLimits,
    Simulation,
)
from connections.units import as_stored, count_of, format_moment, from_timestamp

LEAST_DAYS, MOST_DAYS = 0.01, 366


def make_forecast(
    limits: ForecastLimits,
    start: datetime,
    end: datetime,
    on_chunk: Callable[[int, float], object] = lambda done, part: None,
) -> Forecast:
    """
    Hold the connections that were open in a period to limits.

    Handshakes that were refused then are held to them as well. Reads the rows in
    chunks; on_chunk is that of read_records(), and counts both.
    """
    simulation = Simulation(
        limits,
        beat_seconds=get_config().node.beat_seconds,
        start=start.timestamp(),
        end=end.timestamp(),
    )
    progress = _Progress(on_chunk)
    period = as_stored(start), as_stored(end)
    rows: tuple[Iterator[Record | RefusedRecord], ...] = (
        read_records(*period, progress.count_records),
        read_refused(*period, progress.count_refused),
    )
    for record in heapq.merge(*rows, key=attrgetter("opened_at")):
        if isinstance(record, RefusedRecord):
            simulation.add_refused(record)
        else:
            simulation.add(record)
    return simulation.finish()


class _Progress:
    """Counts the rows of both tables for one function."""

    def __init__(self, on_chunk: Callable[[int, float], object]) -> None:
        self._on_chunk = on_chunk
        self._records = self._refused = 0
        self._part = 0.0

    def count_records(self, done: int, part: float) -> None:
        self._records, self._part = done, part
        self._on_chunk(self._records + self._refused, part)

    def count_refused(self, done: int) -> None:
        self._refused = done
        self._on_chunk(self._records + self._refused, self._part)


def describe(
    forecast: Forecast,
    limits: ForecastLimits,
    config: WebSocketConfig,
    *,
    start: datetime,
    end: datetime,
    most_clients: int,
) -> dict[str, Any]:
    """Return a forecast as JSON has it."""
    affected = {kind: forecast.affected.get(kind, 0) for kind in KINDS}
    by_limit = dict.fromkeys(LIMIT_OF.values(), 0)
    for kind, count in affected.items():
        by_limit[LIMIT_OF[kind]] += count
    total = sum(affected.values())
    return {
        "from": format_moment(start),
        "to": format_moment(end),
        "limits": dataclasses.asdict(limits),
        "connections": forecast.connections,
        "refused_handshakes": forecast.refused,
        "clients": len(forecast.clients),
        "affected_connections": total,
        "affected_clients": len(forecast.affected_clients),
        "affected": affected,
        "by_limit": by_limit,
        "over_rate": {
            "connections": forecast.over_rate_connections,
            "messages": forecast.over_rate_messages,
        },
        "top_clients": [
            {"client_id": client_id, "connections": int(count), "error": int(error)}
            for client_id, count, error in forecast.ranking.list()[:most_clients]
        ],
        "by_hour": [
            {"hour": format_moment(from_timestamp(hour * 3600)), "connections": count}
            for hour, count in sorted(forecast.by_hour.items())
        ],
        "by_route": dict(forecast.by_route.most_common()),
        "notes": list(_list_notes(forecast, limits, config)),
    }


def find_period(days: float, now: datetime) -> tuple[datetime, datetime]:
    """Return the start and the end of the last days."""
    return now - timedelta(days=days), now


def _list_notes(
    forecast: Forecast, limits: ForecastLimits, config: WebSocketConfig
) -> Iterator[str]:
    """Yield what the forecast does not know, and why."""
    if not forecast.connections and not forecast.refused:
        yield "No connection is recorded in this time."
        return
    if forecast.unknown:
        yield (
            f"{count_of(forecast.unknown, 'connection')} of an older release have"
            " no record of their longest silence and of messages over the rate: no"
            " idle end and no rate is known for them."
        )
    if forecast.ended_by_limits:
        ends = ", ".join(
            f"{count} {reason}" for reason, count in forecast.ended_by_limits.items()
        )
        yield (
            f"Limits in force ended connections in this time ({ends}). Nobody knows"
            " how long these would have lasted: for higher limits the numbers are"
            " lower bounds. Observe a limit to know them."
        )
    if forecast.estimated:
        yield (
            f"{count_of(forecast.estimated, 'refused handshake')} would have been"
            " admitted. How long these connections would have lasted is taken from"
            " those that opened around the same time. Handshakes of a client within"
            f" {RETRY_SECONDS} seconds after an admitted one are taken for retries."
        )
    yield (
        "Rates are known for rate_limit as it was in force: records hold how many"
        " messages were over it, and not the moments of all messages."
    )
    yield (
        f"All clients were held to {limits.max_connections_per_client} connections;"
        " other limits that get_limits() gives are not recorded, except idle timeouts."
    )
    if forecast.clients.is_full or forecast.affected_clients.is_full:
        yield f"Distinct clients were counted up to {MOST_CLIENTS:,}."
    hours = LOOKBACK.total_seconds() / 3600
    yield (
        f"Closed connections that opened more than {hours:g} hours before the start of"
        " this time are left out."
    )
