"""System checks of the channel layer."""

from collections.abc import Mapping, Sequence
from typing import Any

from channels.layers import InMemoryChannelLayer
from django.conf import settings
from django.core import checks
from django.utils.module_loading import import_string

from connections.layers.local import LocalLayer
from connections.models.alias import get_connection
from connections.redis.schemes import is_cluster_url

_PROCESS_LAYERS = (InMemoryChannelLayer, LocalLayer)
"""The channel layers that reach only their own process."""

_POSTGRES_LAYER = "connections.layers.postgres.PostgresLayer"
_REDIS_LAYER = "connections.layers.redis.RedisLayer"

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
        "connections.layers.postgres.PostgresLayer or "
        "connections.layers.redis.RedisLayer."
    )
    return [checks.Warning(message, hint=hint, id="connections.W013")]


def check_layer_options(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E008: a layer in PostgreSQL or a Redis Cluster cannot be used."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    found = []
    for alias, options in layers.items():
        backend, config = options.get("BACKEND"), options.get("CONFIG") or {}
        if backend == _POSTGRES_LAYER:
            problem = _find_postgres_problem(config)
        else:
            problem = _find_cluster_problem(str(backend), config.get("hosts", ()))
        if problem is not None:
            message = f"The channel layer {alias} cannot be used: {problem}"
            hint = "See 'Choose the channel layer' in the page about several nodes."
            found.append(checks.Error(message, hint=hint, id="connections.E008"))
    return found


def _find_cluster_problem(backend: str, hosts: Any) -> str | None:
    """Return why a layer cannot use the Redis Cluster among its hosts, or None."""
    for host in hosts if isinstance(hosts, list | tuple) else (hosts,):
        address = str(host.get("address") if isinstance(host, dict) else host)
        if not is_cluster_url(address):
            continue
        if backend != _REDIS_LAYER:
            return f"{backend} cannot use redis+cluster://; {_REDIS_LAYER} can"
        if isinstance(host, dict):
            return (
                "write redis+cluster:// as a text in hosts, with its options behind ?"
            )
        from connections.redis.clients import make_layer_host

        try:
            make_layer_host(address)
        except ValueError as exc:
            return f"hosts has a redis+cluster:// URL that is malformed: {exc}"
    return None


def _find_postgres_problem(config: Mapping[str, Any]) -> str | None:
    if get_connection().vendor != "postgresql":
        return "PostgresLayer needs PostgreSQL in DATABASES"
    # Only here, where PostgreSQL and so psycopg is configured.
    from connections.layers.postgres import PostgresLayer

    try:
        PostgresLayer(**config)
    except (TypeError, ValueError) as exc:
        return str(exc)
    return None


def check_workers(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W019: the channel layer does not reach from workers to clients."""
    layer = get_layer()
    worker = _find_worker()
    if worker is None or not is_process_layer(layer):
        return []
    message = (
        f"{worker} runs in other processes, and the channel layer {layer} reaches "
        "only clients of its own process: what a worker sends to a group is lost."
    )
    hint = "Use PostgresLayer or RedisLayer of connections.layers in CHANNEL_LAYERS."
    return [checks.Warning(message, hint=hint, id="connections.W019")]


def _find_worker() -> str | None:
    """Return what runs tasks of the project in processes of its own, or None."""
    for name in settings.INSTALLED_APPS:
        if name.partition(".")[0] in _WORKERS:
            return str(name)
    names = (name for name in dir(settings) if name.startswith("CELERY_"))
    return "Celery" if next(names, None) else None


def is_process_layer(path: str) -> bool:
    """Return True if a layer, or a class derived from one, is in one process."""
    try:
        layer = import_string(path)
    except ImportError:
        # Django and Channels name a wrong path by themselves.
        return False
    return isinstance(layer, type) and issubclass(layer, _PROCESS_LAYERS)


def get_layer() -> str:
    """Return the dotted path of the channel layer, or "" without one."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    return str(layers.get("default", {}).get("BACKEND", ""))
