"""System checks: report invalid and unsafe configuration before a start."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.core import checks

from connections.background import find_sentry
from connections.config.loader import get_config
from connections.connection.checks import check_routes, check_tables
from connections.credentials.backends import find_backend_problems
from connections.credentials.jwt_config import find_jwt_problems
from connections.layers.checks import (
    check_channel_layer,
    check_layer_options,
    check_workers,
    get_layer,
    is_process_layer,
)
from connections.net.addresses import UNIX, parse_network
from connections.net.origins import parse_pattern
from connections.pool import (
    choose_pool,
    find_choice_problem,
    find_redis_problems,
    get_redis_url,
    read_policy,
)
from connections.server.checks import check_other_server, check_runserver
from connections.server.file_limit import count_needed_files, get_most_files
from connections.storage.checks import (
    check_database,
    check_database_files,
    check_router,
    check_session_engine,
)
from connections.urls import urlpatterns
from connections.views.overlaps import find_overlaps, name_view

_PROXY_TIMEOUT_SECONDS = 60
"""Default of nginx's proxy_read_timeout, after which it closes silent connections."""

_SUPERVISOR_SECONDS = 30
"""Default time of Kubernetes until it kills a process; systemd 90, Docker 10."""


def check_configuration(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E001: one message for each wrong value of the configuration."""
    config = get_config()
    return [
        checks.Error(
            str(problem),
            hint=f"Correct it in {config.source}, or in a WEBSOCKET__ variable.",
            obj="WEBSOCKET",
            id="connections.E001",
        )
        for problem in config.problems
    ]


def check_jwt(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E002: the configuration of JWTs is invalid."""
    return [
        checks.Error(
            str(problem),
            hint="See jwt in the reference of the configuration; JWT_SECRET is a "
            "Django setting, which settings.py may read from a variable.",
            obj="WEBSOCKET",
            id="connections.E002",
        )
        for problem in find_jwt_problems(get_config().jwt)
    ]


def check_credential_backends(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E007: a credential backend cannot be used."""
    return [
        checks.Error(
            str(problem),
            hint="See 'A login of your own' in the page about authentication.",
            obj="WEBSOCKET",
            id="connections.E007",
        )
        for problem in find_backend_problems(get_config().credential_backends)
    ]


def check_redis_url(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E003: REDIS_URL or REDIS_ENCRYPTION_KEYS is invalid."""
    return [
        checks.Error(
            str(problem),
            hint="Correct it in Django's settings; a single process needs none.",
            obj="settings",
            id="connections.E003",
        )
        for problem in find_redis_problems(get_redis_url())
    ]


def check_pool(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E007: the key `pool` names one that cannot be used."""
    problem = find_choice_problem(get_config(), get_redis_url())
    if problem is None:
        return []
    return [
        checks.Error(
            str(problem),
            hint="Remove the key, or give the pool what it needs.",
            obj="WEBSOCKET",
            id="connections.E007",
        )
    ]


def check_chosen_pool(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.I001, for `check --deploy`: the pool that nodes will have."""
    pool = choose_pool(get_config(), get_redis_url())
    shared = "one node alone serves" if pool == "memory" else "nodes share it"
    return [
        checks.Info(
            f"The pool is {pool}: {shared}.",
            hint="The key `pool` of the configuration chooses another.",
            obj="WEBSOCKET",
            id="connections.I001",
        )
    ]


def check_urls(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W017, W018: two URL patterns match a path of connections.urls."""
    found: list[checks.CheckMessage] = []
    for path, answering, hidden, is_ours in find_overlaps(urlpatterns):
        first, second = name_view(answering), name_view(hidden)
        if is_ours:
            one = checks.Warning(
                f"{path} is answered by {first}; {second} is behind it and is never "
                "called. A host that scraped /metrics gets 403 unless "
                "metrics.allowed_addresses holds its address, or it sends the "
                "METRICS_TOKEN of Django's settings.",
                hint="Include connections.urls after it or at another prefix: the "
                "/metrics of django-prometheus has the same series.",
                id="connections.W017",
            )
            found.append(one)
        elif not first.startswith("django_prometheus."):
            one = checks.Warning(
                f"{path} is answered by {first}; {second} is behind it and is never "
                "called.",
                hint="Include connections.urls before it, or at another prefix.",
                id="connections.W018",
            )
            found.append(one)
    return found


def check_proxies(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W015: the settings describe a proxy that is not trusted."""
    names = ("SECURE_PROXY_SSL_HEADER", "USE_X_FORWARDED_HOST", "USE_X_FORWARDED_PORT")
    described = [name for name in names if getattr(settings, name)]
    if not described or get_config().trusted_proxies:
        return []
    message = (
        f"{described[0]} describes a proxy, but trusted_proxies is empty: the "
        "addresses of its clients are unknown. http.max_requests_per_address does not "
        "hold for them, and the other limits per address count them as one."
    )
    hint = (
        "List the addresses of your proxies in trusted_proxies; unix stands for those "
        "that connect over a Unix socket."
    )
    return [checks.Warning(message, hint=hint, obj="WEBSOCKET", id="connections.W015")]


def check_sentry(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W028: the Sentry SDK is older than what connections needs."""
    if "sentry_sdk" not in sys.modules or find_sentry() is not None:
        return []
    return [
        checks.Warning(
            "This sentry-sdk is too old: connections reports no failure to Sentry.",
            hint='Install "sentry-sdk>=2.20".',
            obj="settings",
            id="connections.W028",
        )
    ]


def check_redis_policy(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W016, for `check --deploy`: Redis may remove keys of the pool."""
    redis_url = get_redis_url()
    if not redis_url or find_redis_problems(redis_url):
        return []
    policy = async_to_sync(read_policy)(redis_url)
    if policy is None or policy == "noeviction":
        return []
    return [
        checks.Warning(
            f"The maxmemory-policy of Redis is {policy}: with its memory full it "
            "removes keys of the pool, and the limits do not hold until it recovers.",
            hint="Set maxmemory-policy noeviction; give a cache a Redis of its own.",
            obj="settings",
            id="connections.W016",
        )
    ]


def check_deployment(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W001 to W012, W023, for `check --deploy`: unsafe in production."""
    return [*_check_settings(), *_check_limits(), *_check_trust(), *_check_modes()]


def _check_settings() -> Iterator[checks.CheckMessage]:
    if not (settings.SECURE_SSL_REDIRECT or settings.SECURE_PROXY_SSL_HEADER):
        yield _warn(
            1,
            "No setting enforces TLS: tokens, tickets and session cookies may be sent "
            "unencrypted.",
            "Set SECURE_SSL_REDIRECT, and list the proxy that terminates TLS in "
            "trusted_proxies or use `serve --tls-cert --tls-key`.",
        )
    layer = get_layer()
    pool = choose_pool(get_config(), get_redis_url())
    if pool != "memory" and is_process_layer(layer):
        yield _warn(
            2,
            f"The channel layer {layer} reaches only clients of its own node, but the "
            f"pool is {pool}, so there may be several nodes.",
            "Use PostgresLayer or RedisLayer of connections.layers in CHANNEL_LAYERS; "
            "or set `pool: memory` if one node alone will serve.",
        )
    if "*" in settings.ALLOWED_HOSTS:
        yield _warn(
            3,
            "ALLOWED_HOSTS holds '*': pages of any domain that points to this server "
            "may open a WebSocket with their visitors' cookies.",
            "List the hosts that you serve.",
        )


def _check_limits() -> Iterator[checks.CheckMessage]:
    config = get_config()
    if config.ping_interval_seconds >= _PROXY_TIMEOUT_SECONDS:
        yield _warn(
            4,
            f"ping_interval_seconds is {config.ping_interval_seconds:g}; proxies "
            f"close connections that are silent for {_PROXY_TIMEOUT_SECONDS} s.",
            "Set it to at most half the timeout of every proxy in between.",
        )
    most_files, needed = get_most_files(), count_needed_files(config)
    if most_files is not None and most_files < needed:
        yield _warn(
            5,
            f"The process may open {most_files} files; max_total_connections, "
            f"handshake.max_pending and http.max_requests need about {needed}.",
            "Raise the hard limit (LimitNOFILE=, ulimit -Hn).",
        )
    if config.idle_timeout_seconds == 0:
        yield _warn(
            6,
            "idle_timeout_seconds is 0: abandoned connections never free their slots.",
            "Set it above the longest silence of an active client.",
        )
    stop_seconds = config.drain.delay_seconds + config.drain.grace_seconds + 2
    if stop_seconds > _SUPERVISOR_SECONDS:
        yield _warn(
            7,
            f"A drain may take {stop_seconds:g} s; a supervisor may kill the process "
            f"after {_SUPERVISOR_SECONDS} s.",
            "Raise TimeoutStopSec=, terminationGracePeriodSeconds or "
            "stop_grace_period, or lower drain.grace_seconds.",
        )


def _check_trust() -> Iterator[checks.CheckMessage]:
    config = get_config()
    if config.anonymous:
        yield _warn(
            8,
            "anonymous is true: anyone may connect, and limits count per address only.",
            "Require credentials, or serve only harmless routes.",
        )
    proxies = [parse_network(text) for text in config.trusted_proxies if text != UNIX]
    if any(network.prefixlen == 0 for network in proxies):
        yield _warn(
            9,
            "trusted_proxies holds every address: any client can forge its address "
            "and evade the limits per address.",
            "List only your proxies.",
        )
    pages = [parse_pattern(text) for text in config.allowed_origins]
    in_clear = [
        str(page)
        for page in pages
        if page.scheme == "http" and not f".{page.host}".endswith(".localhost")
    ]
    if in_clear:
        yield _warn(
            10,
            f"allowed_origins holds pages without TLS: {', '.join(in_clear)}. An "
            "attacker on the network can alter them and connect as their visitors.",
            "Use https:// origins.",
        )
    networks = [parse_network(text) for text in config.metrics.allowed_addresses]
    if any(network.prefixlen == 0 for network in networks):
        yield _warn(
            12,
            "metrics.allowed_addresses holds every address: anyone may read how many "
            "clients and errors there are.",
            "List the addresses of Prometheus, or let Prometheus send the "
            "METRICS_TOKEN of Django's settings.",
        )
    if config.echo_endpoint:
        yield _warn(
            11,
            "echo_endpoint is true: /ws/echo/ is meant for measurements only.",
            "Set it to true in development only.",
        )


def _check_modes() -> Iterator[checks.CheckMessage]:
    if observed := get_config().enforce.describe():
        yield _warn(
            23,
            f"Limits are observed and not enforced: {observed}.",
            "Read `manage.py limits forecast` and websocket_would_have_total, then "
            "remove the keys from enforce.",
        )


def _warn(number: int, message: str, hint: str) -> checks.CheckMessage:
    identifier = f"connections.W{number:03}"
    return checks.Warning(message, hint=hint, obj="WEBSOCKET", id=identifier)


def register() -> None:
    """Register the system checks; the app config calls it once."""
    checks.register(check_configuration)
    checks.register(check_jwt)
    checks.register(check_credential_backends)
    checks.register(check_redis_url)
    checks.register(check_pool)
    checks.register(check_chosen_pool, deploy=True)
    checks.register(check_database)
    checks.register(check_router)
    checks.register(check_session_engine)
    checks.register(check_urls)
    checks.register(check_database_files)
    checks.register(check_channel_layer)
    checks.register(check_layer_options)
    checks.register(check_workers)
    checks.register(check_runserver)
    checks.register(check_other_server, deploy=True)
    checks.register(check_proxies)
    checks.register(check_sentry)
    checks.register(check_routes)
    checks.register(check_tables, deploy=True)
    checks.register(check_redis_policy, deploy=True)
    checks.register(check_deployment, checks.Tags.security, deploy=True)
