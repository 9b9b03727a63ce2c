"""
Read the configuration from YAML and the environment into one frozen object.

The file is orchestra/websocket.yaml, unless WEBSOCKET_CONFIG names another.
Each variable WEBSOCKET__KEY or WEBSOCKET__SECTION__KEY overrides one key. The
server refuses to start with a configuration that has problems.
"""

import dataclasses
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from django.conf import settings

from connections.config.alert_rules import AlertRule, Rules, check_address
from connections.config.api import ApiConfig
from connections.config.auth_sections import (
    COOKIELESS_BACKENDS,
    DEFAULT_BACKENDS,
    ExpiryConfig,
    JwtConfig,
    TicketsConfig,
)
from connections.config.enforcement import OBSERVE, EnforceConfig
from connections.config.fields import (
    Documented,
    Problem,
    option,
    read_section,
    section,
    walk,
)
from connections.config.kinds import (
    PROXIES,
    Choice,
    DottedPaths,
    Flag,
    Number,
    Size,
    Texts,
    Whole,
)
from connections.config.privacy import PrivacyConfig
from connections.config.sections import (
    BuffersConfig,
    CompressionConfig,
    DashboardConfig,
    DrainConfig,
    ErrorsConfig,
    HandshakeConfig,
    HealthConfig,
    HttpConfig,
    MetricsConfig,
    NodeConfig,
    PresenceConfig,
    RateLimitConfig,
    RecorderConfig,
    RetentionConfig,
    SessionsConfig,
    TelemetryConfig,
)
from connections.exceptions import ConfigError
from connections.net import origins

ENVIRONMENT_PREFIX = "WEBSOCKET__"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketConfig:
    """The section `websocket:`; every key has a default."""

    max_connections_per_client: int = option(
        Whole(1, 1_000_000), 5, "open connections per client"
    )
    max_total_connections: int = option(
        Whole(1, 10_000_000), 1000, "open connections of all nodes together"
    )
    idle_timeout_seconds: float = option(
        Number(0, 604_800),
        300,
        "seconds without application data after which a connection is closed; 0: never",
    )
    ping_interval_seconds: float = option(
        Number(0.1, 3600), 30, "seconds between WebSocket pings"
    )
    max_message_size: int = option(
        Size(1, 1024**3), "1MB", "largest message from a client"
    )
    max_session_history: int = option(
        Whole(1, 100_000), 100, "newest entries kept per session"
    )
    ping_timeout_seconds: float = option(
        Number(0.1, 3600), 20, "seconds without a pong after which a connection is dead"
    )
    on_client_limit: str = option(
        Choice(("evict_oldest", "refuse")),
        "evict_oldest",
        "at max_connections_per_client: close the oldest, or refuse the newcomer",
    )
    pool: str = option(
        Choice(("auto", "memory", "postgres", "redis")),
        "auto",
        "where the slots are; auto: Redis with REDIS_URL (a cluster with"
        " redis+cluster://), else PostgreSQL if it is the database, else memory",
    )
    on_pool_outage: str = option(
        Choice(("local", "refuse", "allow")),
        "local",
        "new connections while the pool is out of reach: limited per node, refused, or"
        " all admitted",
    )
    evict_grace_seconds: float = option(
        Number(0, 300),
        2,
        "seconds for an evicted connection to close before it is aborted",
    )
    allow_unshared_limits: bool = option(
        Flag(),
        False,
        "let nodes serve beside each other that do not share a pool",
    )
    node: NodeConfig = section(NodeConfig)
    recorder: RecorderConfig = section(RecorderConfig)
    presence: PresenceConfig = section(PresenceConfig)
    credential_backends: tuple[str, ...] = option(
        DottedPaths("credential backends"),
        DEFAULT_BACKENDS,
        "classes that find the client of a handshake, tried in this order",
    )
    anonymous: bool = option(
        Flag(),
        False,
        "admit clients without credentials; limits then count per address",
    )
    allowed_origins: tuple[str, ...] = option(
        Texts(
            "origins such as https://example.com, https://*.example.com, "
            "capacitor://localhost or moz-extension://*",
            origins.parse_pattern,
        ),
        [],
        "origins whose pages, apps and extensions may connect, besides the server's "
        "own host; null only with a token or ticket",
    )
    trusted_proxies: tuple[str, ...] = option(
        PROXIES,
        [],
        "proxies whose X-Forwarded-For, -Proto and -Host are trusted; unix: those that "
        "connect over a Unix socket",
    )
    echo_endpoint: bool = option(
        Flag(),
        False,
        "the reference application alone: serve /ws/echo/; there true with DEBUG",
    )
    reauthorise_seconds: float = option(
        Number(0.1, 3600),
        30,
        "seconds between checks that a connection is still authorised",
    )
    stale_authorisation_seconds: float = option(
        Number(0, 86_400),
        300,
        "seconds for which the last check holds while the database is unavailable",
    )
    enforce: EnforceConfig = section(EnforceConfig)
    rate_limit: RateLimitConfig = section(RateLimitConfig)
    buffers: BuffersConfig = section(BuffersConfig)
    compression: CompressionConfig = section(CompressionConfig)
    errors: ErrorsConfig = section(ErrorsConfig)
    handshake: HandshakeConfig = section(HandshakeConfig)
    http: HttpConfig = section(HttpConfig)
    jwt: JwtConfig = section(JwtConfig)
    tickets: TicketsConfig = section(TicketsConfig)
    expiry: ExpiryConfig = section(ExpiryConfig)
    drain: DrainConfig = section(DrainConfig)
    metrics: MetricsConfig = section(MetricsConfig)
    telemetry: TelemetryConfig = section(TelemetryConfig)
    health: HealthConfig = section(HealthConfig)
    alerts: tuple[AlertRule, ...] = option(
        Rules(), [], "changes to the alert rules (manage.py alerts --rules)"
    )
    alert_recipients: tuple[str, ...] = option(
        Texts("e-mail addresses", check_address),
        [],
        "recipients of alert e-mails; empty: ADMINS",
    )
    sessions: SessionsConfig = section(SessionsConfig)
    retention: RetentionConfig = section(RetentionConfig)
    privacy: PrivacyConfig = section(PrivacyConfig)
    dashboard: DashboardConfig = section(DashboardConfig)
    api: ApiConfig = section(ApiConfig)

    source: str = ""
    """Source of the values: a file's path, "settings.WEBSOCKET" or ""."""

    problems: tuple[Problem, ...] = field(default=(), compare=False)
    """Wrong values; each of their options has its default."""

    @property
    def drain_seconds(self) -> float:
        """How long the handshakes and the drain of a node may take."""
        drain = self.drain
        waits_seconds = drain.delay_seconds + self.handshake.timeout_seconds
        return waits_seconds + drain.grace_seconds

    def require_valid(self) -> None:
        """
        Raise an error if the configuration has problems.

        Raises:
            ConfigError: there are problems; the error names all of them.
        """
        if self.problems:
            raise ConfigError(self.source, self.problems)


def load(
    path: Path,
    environ: Mapping[str, str],
    *,
    defaults: Mapping[str, object] | None = None,
) -> WebSocketConfig:
    """
    Read the configuration from a YAML file and the environment.

    Wrong content raises nothing: read `problems`, or call require_valid().
    `defaults` apply to keys that neither the file nor the environment gives.
    """
    path = Path(environ.get("WEBSOCKET_CONFIG") or path)
    problems: list[Problem] = []
    raw: object = {}
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except FileNotFoundError:
        problems.append(Problem(str(path), "no such file", "a readable YAML file"))
    except (OSError, ValueError, yaml.YAMLError) as exc:
        text = " ".join(str(exc).split())
        problems.append(Problem(str(path), text, "a readable YAML file"))
    else:
        if isinstance(document, Mapping) and set(document) == {"websocket"}:
            raw = document["websocket"]
        else:
            allowed = "one section `websocket:` at the top"
            problems.append(Problem(str(path), _name_sections(document), allowed))
    return _build(raw, environ, str(path), problems, defaults)


def _name_sections(document: object) -> str:
    """Return the names of a file's top-level sections, without their values."""
    if not isinstance(document, Mapping) or "websocket" not in document:
        return "no section websocket:"
    others = ", ".join(str(name) for name in document if name != "websocket")
    return f"other sections: {others[:200]}"


def get_config() -> WebSocketConfig:
    """
    Return the configuration in force.

    settings.WEBSOCKET is a result of load() or a dict with the section's keys.
    Without it, the file that WEBSOCKET_CONFIG names is read; without that
    file, all defaults apply.
    """
    configured = getattr(settings, "WEBSOCKET", None)
    if isinstance(configured, WebSocketConfig):
        return configured
    global _last_read
    if _last_read is None or _last_read[0] is not configured:
        if configured is None and os.environ.get("WEBSOCKET_CONFIG"):
            read = load(Path(), os.environ)
        else:
            read = _build(configured, os.environ, "settings.WEBSOCKET", [], None)
        _last_read = (configured, read)
    return _last_read[1]


_last_read: tuple[object, WebSocketConfig] | None = None


def describe() -> list[Documented]:
    """Return every key with its default, for the table of options."""
    return list(walk(WebSocketConfig))


def read_value(config: WebSocketConfig, path: str) -> Any:
    """Return the value of a key, such as node.beat_seconds, for JSON."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    if not isinstance(value, tuple):
        return value
    return [
        dataclasses.asdict(one)
        if dataclasses.is_dataclass(one) and not isinstance(one, type)
        else one
        for one in value
    ]


def _build(
    raw: object,
    environ: Mapping[str, str],
    source: str,
    problems: list[Problem],
    defaults: Mapping[str, object] | None,
) -> WebSocketConfig:
    if isinstance(raw, Mapping) or raw is None:
        raw = _with_overrides({**(defaults or {}), **(raw or {})}, environ, problems)
    read = read_section(WebSocketConfig, raw, "websocket", problems)
    problems.extend(_find_contradictions(read))
    values = {name: getattr(read, name) for name in read.__slots__}
    return WebSocketConfig(**(values | {"source": source, "problems": tuple(problems)}))


def _with_overrides(
    raw: dict[str, Any], environ: Mapping[str, str], problems: list[Problem]
) -> dict[str, Any]:
    """Return raw with the values that WEBSOCKET__* variables override."""
    for name, text in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        *sections, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        target = raw
        for part in sections:
            nested = target.get(part)
            target[part] = dict(nested) if isinstance(nested, Mapping) else {}
            target = target[part]
        try:
            target[key] = yaml.load(text, yaml.SafeLoader)
        except (ValueError, yaml.YAMLError):
            problems.append(Problem(name, text, "a value as in YAML"))
    return raw


def _find_contradictions(config: WebSocketConfig) -> list[Problem]:
    """Return problems between keys whose values are each valid alone."""
    found = []

    def require(held: bool, path: str, value: object, allowed: str) -> None:
        if not held:
            found.append(Problem(f"websocket.{path}", value, allowed))

    node, buffers, rate = config.node, config.buffers, config.rate_limit
    require(
        config.max_connections_per_client <= config.max_total_connections,
        "max_connections_per_client",
        config.max_connections_per_client,
        "at most max_total_connections",
    )
    require(
        node.lease_seconds >= 3 * node.beat_seconds,
        "node.lease_seconds",
        node.lease_seconds,
        "at least three times node.beat_seconds",
    )
    require(
        node.node_timeout_seconds >= 3 * node.beat_seconds,
        "node.node_timeout_seconds",
        node.node_timeout_seconds,
        "at least three times node.beat_seconds",
    )
    require(
        buffers.send_high_water <= buffers.max_send_buffer,
        "buffers.send_high_water",
        buffers.send_high_water,
        "at most buffers.max_send_buffer",
    )
    require(
        rate.burst_bytes >= config.max_message_size,
        "rate_limit.burst_bytes",
        rate.burst_bytes,
        "at least max_message_size, or the largest message could never pass",
    )
    cookies = set(config.credential_backends) - COOKIELESS_BACKENDS
    for one in config.enforce.routes:
        require(
            ("origin", OBSERVE) not in one.modes or not cookies,
            f"enforce.routes.{one.route}.origin",
            OBSERVE,
            "enforce; the route may accept cookies, which the pages of other sites"
            f" would send along: {', '.join(sorted(cookies))} in credential_backends",
        )
    return found


class _UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that raises an error for duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # The parent class reports it.
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
