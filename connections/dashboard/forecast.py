"""Show whom limits would have affected, on a page of the dashboard."""

import threading
from functools import partial
from typing import Any

from django import forms
from django.http import HttpRequest

from connections.config.loader import get_config
from connections.forecast.report import (
    LEAST_DAYS,
    describe,
    find_period,
    make_forecast,
)
from connections.forecast.simulation import ForecastLimits
from connections.units import utc_now

_MOST_ROWS = 100_000
"""A page computes for about four seconds at most; the command reads any number."""

_MOST_DAYS = 30
_SHOWN = 12
_WORDS = {
    "evicted": "evicted for a newer connection of their client",
    "refused_for_client": "refused: their client was at its limit",
    "refused_for_total": "refused: the pool was full",
    "idle": "closed as idle",
}
_computing = threading.Lock()


class TooManyRows(Exception):
    """More rows are recorded than a page reads."""


class ForecastForm(forms.Form):
    """A period, and limits that are held against what it recorded."""

    days = forms.FloatField(min_value=LEAST_DAYS, max_value=_MOST_DAYS)
    max_connections_per_client = forms.IntegerField(
        min_value=1, max_value=1_000_000, label="Per client"
    )
    max_total_connections = forms.IntegerField(
        min_value=1, max_value=10_000_000, label="In total"
    )
    idle_timeout_seconds = forms.FloatField(
        min_value=0, max_value=604_800, label="Idle seconds"
    )
    on_client_limit = forms.ChoiceField(
        choices=[("evict_oldest", "evict the oldest"), ("refuse", "refuse")],
        label="At a client's limit",
    )


def describe_forecast(
    request: HttpRequest, most_rows: int = _MOST_ROWS
) -> dict[str, Any]:
    """Return the form, and the forecast that it asks for or why there is none."""
    config = get_config()
    defaults = {
        "days": 1,
        **{
            name: getattr(config, name)
            for name in ForecastForm.base_fields
            if name != "days"
        },
    }
    form = ForecastForm(defaults | request.GET.dict())
    if not form.is_valid():
        return {"form": form}
    values = dict(form.cleaned_data)
    start, end = find_period(values.pop("days"), utc_now())
    limits = ForecastLimits(**values)
    if not _computing.acquire(blocking=False):
        return {"form": form, "problem": "Another forecast is being made; try again."}
    try:
        forecast = make_forecast(limits, start, end, partial(_bound, most_rows))
    except TooManyRows:
        problem = (
            f"More than {most_rows:,} connections are recorded in this time. Choose"
            " fewer days, or run: manage.py limits forecast"
        )
        return {"form": form, "problem": problem}
    finally:
        _computing.release()
    found = describe(
        forecast, limits, config, start=start, end=end, most_clients=_SHOWN
    )
    return {
        "form": form,
        "found": found,
        "kinds": [
            (_WORDS[kind], count, _rate(count, found["affected_connections"]))
            for kind, count in found["affected"].items()
            if count
        ],
        "clients": _scale(found["top_clients"], "client_id"),
        "hours": _scale(
            sorted(found["by_hour"], key=lambda one: -one["connections"])[:_SHOWN],
            "hour",
        ),
    }


def _bound(most_rows: int, done: int, part: float) -> None:
    if done > most_rows:
        raise TooManyRows


def _scale(rows: list[dict[str, Any]], key: str) -> list[tuple[str, int, float]]:
    """Return the label of each row, its count, and its share of the largest."""
    most = max((one["connections"] for one in rows), default=0)
    return [
        (_show(one[key], key), one["connections"], _rate(one["connections"], most))
        for one in rows
    ]


def _show(label: str, key: str) -> str:
    return f"{label[:10]} {label[11:13]}:00" if key == "hour" else label


def _rate(count: int, total: int) -> float:
    return round(100 * count / total, 1) if total else 0.0
