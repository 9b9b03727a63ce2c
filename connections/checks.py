"""System checks: report invalid and unsafe configuration before a start."""

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.core import checks

from connections.config.loader import get_config
from connections.credentials.jwt_config import find_jwt_problems
from connections.pool import find_url_problem, get_redis_url
from connections.server.file_limit import count_needed_files, get_most_files

_PROXY_TIMEOUT_SECONDS = 60
"""After this silence nginx closes a connection (proxy_read_timeout, by default)."""

_SUPERVISOR_SECONDS = 30
"""What Kubernetes leaves a process for its stop, by default; systemd 90, Docker 10."""


def check_configuration(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E001: the configuration has a wrong value, one message each."""
    config = get_config()
    return [
        checks.Error(
            str(problem),
            hint=f"It stands in {config.source}, or in a WEBSOCKET__ variable.",
            obj="WEBSOCKET",
            id="connections.E001",
        )
        for problem in config.problems
    ]


def check_jwt(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E002: JWTs are configured, and cannot be taken so."""
    return [
        checks.Error(
            str(problem),
            hint="See README, Who may connect.",
            obj="WEBSOCKET",
            id="connections.E002",
        )
        for problem in find_jwt_problems(get_config().jwt)
    ]


def check_redis_url(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.E003: REDIS_URL cannot be used."""
    problem = find_url_problem(get_redis_url())
    if problem is None:
        return []
    return [
        checks.Error(
            str(problem),
            hint="Leave it out where one process serves.",
            obj="settings",
            id="connections.E003",
        )
    ]


def check_channel_layer(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W013: consumers have no channel layer, which groups need."""
    if _get_layer():
        return []
    message = (
        "No channel layer is configured: a consumer that has groups, or sends to "
        "one, ends with 4500."
    )
    hint = (
        'Set CHANNEL_LAYERS = {"default": {"BACKEND": '
        '"connections.layers.local.LocalLayer"}}; with several nodes '
        "connections.layers.redis.RedisLayer."
    )
    return [checks.Warning(message, hint=hint, id="connections.W013")]


def check_deployment(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """connections.W001 to W012, for `check --deploy`: what is unsafe in the open."""
    return [*_check_settings(), *_check_limits(), *_check_trust()]


def _check_settings() -> Iterator[checks.CheckMessage]:
    if not (settings.SECURE_SSL_REDIRECT or settings.SECURE_PROXY_SSL_HEADER):
        yield _warn(
            1,
            "Nothing says that clients come over TLS: tokens, tickets and session "
            "cookies may travel in clear.",
            "Set SECURE_PROXY_SSL_HEADER behind a proxy that ends TLS, or "
            "SECURE_SSL_REDIRECT with `serve --tls-cert --tls-key`.",
        )
    layer = _get_layer()
    has_several_nodes = bool(getattr(settings, "REDIS_URL", None))
    if has_several_nodes and layer.endswith(("InMemoryChannelLayer", "LocalLayer")):
        yield _warn(
            2,
            f"The channel layer {layer} reaches the clients of its own node only, "
            "and REDIS_URL says that there are several.",
            "Use connections.layers.redis.RedisLayer in CHANNEL_LAYERS.",
        )
    if "*" in settings.ALLOWED_HOSTS:
        yield _warn(
            3,
            "ALLOWED_HOSTS holds '*': any name that is made to point here may open "
            "a WebSocket with its visitors' cookies.",
            "Name the hosts that you serve.",
        )


def _get_layer() -> str:
    """Return the path of the channel layer, empty where none is configured."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    return str(layers.get("default", {}).get("BACKEND", ""))


def _check_limits() -> Iterator[checks.CheckMessage]:
    config = get_config()
    if config.ping_interval_seconds >= _PROXY_TIMEOUT_SECONDS:
        yield _warn(
            4,
            f"ping_interval_seconds is {config.ping_interval_seconds:g}: a proxy "
            f"closes what is silent for {_PROXY_TIMEOUT_SECONDS} s before that.",
            "Ping at least twice within the timeout of every proxy in between.",
        )
    most_files, needed = get_most_files(), count_needed_files(config)
    if most_files is not None and most_files < needed:
        yield _warn(
            5,
            f"The process may open {most_files} files, max_total_connections takes "
            f"about {needed}.",
            "Raise the hard limit (LimitNOFILE=, ulimit -Hn).",
        )
    if config.idle_timeout_seconds == 0:
        yield _warn(
            6,
            "idle_timeout_seconds is 0: an abandoned page keeps its place for ever.",
            "Set it above the longest silence of a client at work.",
        )
    stop_seconds = config.drain.delay_seconds + config.drain.grace_seconds + 2
    if stop_seconds > _SUPERVISOR_SECONDS:
        yield _warn(
            7,
            f"A drain may take {stop_seconds:g} s; a supervisor may kill the process "
            f"after {_SUPERVISOR_SECONDS}.",
            "Raise TimeoutStopSec=, terminationGracePeriodSeconds or "
            "stop_grace_period, or lower drain.grace_seconds.",
        )


def _check_trust() -> Iterator[checks.CheckMessage]:
    config = get_config()
    if config.anonymous:
        yield _warn(
            8,
            "anonymous is true: whoever knows the address may connect, counted by "
            "address alone.",
            "Ask for credentials, or keep the routes harmless.",
        )
    proxies = [
        ipaddress.ip_network(text, strict=False) for text in config.trusted_proxies
    ]
    if any(network.prefixlen == 0 for network in proxies):
        yield _warn(
            9,
            "trusted_proxies holds every address: any client may say where it is "
            "from, and so has no limit per address.",
            "Name your proxies.",
        )
    in_clear = [text for text in config.allowed_origins if text.startswith("http:")]
    if in_clear:
        yield _warn(
            10,
            f"allowed_origins holds pages without TLS: {', '.join(in_clear)}. Whoever "
            "is on the way can change such a page, and connect as its visitor.",
            "Use https:// origins.",
        )
    networks = [
        ipaddress.ip_network(text, strict=False)
        for text in config.metrics.allowed_addresses
    ]
    if any(network.prefixlen == 0 for network in networks):
        yield _warn(
            12,
            "metrics.allowed_addresses holds every address: anyone may read how many "
            "clients there are and what fails.",
            "Name the addresses of Prometheus, or have it send METRICS_TOKEN.",
        )
    if config.echo_endpoint:
        yield _warn(
            11,
            "echo_endpoint is on: it serves measurements, not clients.",
            "Leave it off outside of development.",
        )


def _warn(number: int, message: str, hint: str) -> checks.CheckMessage:
    identifier = f"connections.W{number:03}"
    return checks.Warning(message, hint=hint, obj="WEBSOCKET", id=identifier)


def register() -> None:
    """Register the checks of this app; called once, when it is ready."""
    checks.register(check_configuration)
    checks.register(check_jwt)
    checks.register(check_redis_url)
    checks.register(check_channel_layer)
    checks.register(check_deployment, checks.Tags.security, deploy=True)
