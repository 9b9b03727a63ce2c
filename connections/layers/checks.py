"""System checks of the channel layer."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks

PROCESS_LAYERS = ("InMemoryChannelLayer", "LocalLayer")
"""The channel layers that reach only their own process."""

_CELERY_APPS = ("django_celery_beat", "django_celery_results")
_WORKERS = (*_CELERY_APPS, "django_dramatiq", "django_q", "django_rq", "huey")


def check_channel_layer(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W013: no channel layer is configured; groups need one."""
    if get_layer():
        return []
    message = (
        "No channel layer is configured: connections whose consumer uses groups "
        "close with 4500."
    )
    hint = (
        'Set CHANNEL_LAYERS = {"default": {"BACKEND": '
        '"connections.layers.local.LocalLayer"}}; for several nodes use '
        "connections.layers.redis.RedisLayer."
    )
    return [checks.Warning(message, hint=hint, id="connections.W013")]


def check_workers(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W019: the channel layer does not reach from workers to clients."""
    layer = get_layer()
    worker = _find_worker()
    if worker is None or not layer.endswith(PROCESS_LAYERS):
        return []
    message = (
        f"{worker} runs in other processes, and the channel layer {layer} reaches "
        "only clients of its own process: what a worker sends to a group is lost."
    )
    hint = "Use connections.layers.redis.RedisLayer in CHANNEL_LAYERS."
    return [checks.Warning(message, hint=hint, id="connections.W019")]


def _find_worker() -> str | None:
    """Return what runs tasks of the project in processes of its own, or None."""
    for name in settings.INSTALLED_APPS:
        if name.partition(".")[0] in _WORKERS:
            return str(name)
    names = (name for name in dir(settings) if name.startswith("CELERY_"))
    return "Celery" if next(names, None) else None


def get_layer() -> str:
    """Return the dotted path of the channel layer, or "" without one."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    return str(layers.get("default", {}).get("BACKEND", ""))
