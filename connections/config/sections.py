"""The sections of `websocket:`, one frozen dataclass each."""

from dataclasses import dataclass

from connections.config.fields import option
from connections.config.kinds import (
    NETWORKS,
    Choice,
    Flag,
    Number,
    Size,
    UrlPath,
    Whole,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    beat_seconds: float = option(
        Number(0.05, 60),
        1,
        "seconds between beats: a node renews its leases and applies close requests",
    )
    lease_seconds: float = option(
        Number(1, 600), 15, "seconds without renewal after which a slot is free"
    )
    database_timeout_seconds: float = option(
        Number(0.5, 3600),
        15,
        "seconds without an answer to a statement after which the connection to"
        " PostgreSQL is cut; longer than its statement_timeout",
    )
    node_timeout_seconds: float = option(
        Number(1, 3600), 15, "seconds without a beat after which a node counts as dead"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderConfig:
    max_pending: int = option(
        Whole(100, 10_000_000),
        50_000,
        "rows kept in memory while the database is unavailable",
    )
    max_bytes: int = option(
        Size(100_000), "64MB", "memory for rows kept while the database is unavailable"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceConfig:
    lease_seconds: float = option(
        Number(0.3, 600),
        15,
        "seconds without a beat after which a node no longer makes its clients present,"
        " three beats at least",
    )
    linger_seconds: float = option(
        Number(0, 3600),
        15,
        "seconds for which a client stays present after its last connection, so that"
        " a reload is no leave",
    )
    max_members_per_room: int = option(
        Whole(1, 10_000_000),
        10_000,
        "clients shown in one room; one more connects, but is not shown",
    )
    max_rooms_per_connection: int = option(
        Whole(1, 1000), 20, "rooms that one connection is present in"
    )
    max_data_bytes: int = option(
        Size(2, 65_536), "1kB", "public data of a client in a room, as JSON"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitConfig:
    messages_per_second: float = option(
        Number(0.01, 1e6), 50, "messages per second from one connection, sustained"
    )
    burst_messages: int = option(
        Whole(1, 10_000_000), 100, "messages from one connection in a burst"
    )
    bytes_per_second: int = option(
        Size(1),
        "2MB",
        "bytes per second from one connection, sustained; in JSON texts over 4 kB each"
        " value adds 16 bytes",
    )
    burst_bytes: int = option(Size(1), "4MB", "bytes from one connection in a burst")
    tolerance_seconds: float = option(
        Number(0, 3600),
        5,
        "seconds over the rate after which a connection is closed (4129)",
    )
    small_frames_per_second: float = option(
        Number(0.1, 1e6),
        100,
        "pings, pongs and fragments under 64 bytes per second, sustained",
    )
    burst_small_frames: int = option(
        Whole(1, 10_000_000),
        1000,
        "pings, pongs and fragments under 64 bytes in a burst",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuffersConfig:
    send_high_water: int = option(
        Size(1024), "1MB", "unsent bytes of a connection above which send() waits"
    )
    max_send_buffer: int = option(
        Size(1024),
        "4MB",
        "unsent bytes at which a slow client's connection is aborted (4208)",
    )
    send_stall_seconds: float = option(
        Number(0.1, 3600),
        10,
        "seconds without reading after which a connection is aborted (4208)",
    )
    max_receive_queue: int = option(
        Whole(1, 1_000_000),
        64,
        "unhandled messages of a connection at which reading pauses",
    )
    max_receive_bytes: int = option(
        Size(1024), "2MB", "unhandled bytes of a connection at which reading pauses"
    )
    receive_stall_seconds: float = option(
        Number(0.1, 3600),
        5,
        "seconds of paused reading after which a connection is closed (4129)",
    )
    unfinished_message_seconds: float = option(
        Number(0.1, 3600),
        60,
        "seconds within which a begun message must be complete (1008)",
    )
    max_total_bytes: int = option(
        Size(1024), "256MB", "bytes in all send and receive buffers of one node"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionConfig:
    enabled: bool = option(
        Flag(),
        False,
        "compress messages with permessage-deflate for clients that offer it;"
        " get_limits() decides by route",
    )
    min_size: int = option(
        Size(1), "1kB", "size of a message below which it is sent as it is"
    )
    level: int = option(
        Whole(1, 9), 1, "effort of the compressor: 1 is the fastest, 9 the smallest"
    )
    server_no_context_takeover: bool = option(
        Flag(),
        True,
        "compress each message alone; false compresses small messages better, and"
        " holds 32 kB for each connection",
    )
    max_ratio: float = option(
        Number(1, 1100),
        100,
        "inflated by compressed bytes at which a message of more than 4 kB is refused"
        " (1009)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorsConfig:
    budget: int = option(
        Whole(1, 1_000_000),
        20,
        "errors within window_seconds at which a connection is closed",
    )
    window_seconds: float = option(
        Number(0.1, 86_400), 60, "seconds for which an error counts against the budget"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeConfig:
    timeout_seconds: float = option(
        Number(0.1, 300),
        5,
        "seconds for the request head, and again for accepting the connection",
    )
    per_address_per_second: float = option(
        Number(0.1, 1e6),
        200,
        "handshakes per second from one address (IPv6: one /64), sustained",
    )
    per_address_burst: int = option(
        Whole(1, 10_000_000), 1000, "handshakes from one address in a burst"
    )
    per_address_pending: int = option(
        Whole(1, 10_000_000), 200, "unfinished handshakes from one address"
    )
    max_pending: int = option(
        Whole(1, 10_000_000),
        2000,
        "unfinished handshakes of one node; one more drops the oldest",
    )
    failures_per_address_per_minute: float = option(
        Number(0.1, 1e6),
        20,
        "wrong tokens and tickets per minute from one address; more are verified slowly"
        " (4129)",
    )
    failures_per_address_burst: int = option(
        Whole(1, 10_000_000), 20, "wrong tokens and tickets from one address in a burst"
    )
    max_body_size: int = option(
        Size(1024), "2500kB", "largest body of an HTTP request (413)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    max_requests: int = option(
        Whole(1, 1_000_000),
        200,
        "HTTP requests that one node serves at once; one more is answered 503",
    )
    max_requests_per_address: int = option(
        Whole(1, 1_000_000),
        100,
        "HTTP requests served at once from one address (IPv6: one /64); one more is"
        " answered 429",
    )
    max_total_body_bytes: int = option(
        Size(65_536, 1024**5),
        "4GB",
        "bytes of all HTTP bodies in files of one node; over it the largest is"
        " answered 429",
    )
    min_bytes_per_second: int = option(
        Whole(1, 1_000_000_000),
        100,
        "bytes per second that an HTTP body must move at least, over stall_seconds",
    )
    stall_seconds: float = option(
        Number(0.1, 3600),
        60,
        "seconds over which the rate of an HTTP body is measured; a slower upload is"
        " answered 408, a client that reads its response more slowly is cut off",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainConfig:
    grace_seconds: float = option(
        Number(0, 3600), 20, "seconds over which a draining node closes its connections"
    )
    delay_seconds: float = option(
        Number(0, 600), 0, "seconds from /readyz answering 503 to closing the port"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    allowed_addresses: tuple[str, ...] = option(
        NETWORKS,
        ["127.0.0.0/8", "::1/128"],
        "addresses that may read /metrics, and the reasons on /readyz, without"
        " the METRICS_TOKEN of Django's settings",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    traces: bool = option(
        Flag(),
        True,
        "make OpenTelemetry spans where the process has set a TracerProvider",
    )
    trust_clients: bool = option(
        Flag(),
        False,
        "continue the trace that a client's traceparent names; false: link to it",
    )
    clients: str = option(
        Choice(("id", "pseudonym", "none")),
        "id",
        "how spans and Sentry name a client; a pseudonym needs SECRET_KEY to compute",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    path: str = option(
        UrlPath(),
        "",
        "path under which /livez and /readyz are answered, besides the URLs that"
        " include connections.urls",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsConfig:
    max_open_streams: int = option(
        Whole(1, 100), 4, "streams open at once in one session"
    )
    max_open_streams_per_client: int = option(
        Whole(1, 1_000_000),
        32,
        "answers under way at once for one client; each node counts its own, and where"
        " workers answer the database those in its sessions",
    )
    max_open_streams_per_node: int = option(
        Whole(1, 1_000_000),
        500,
        "answers under way at once on one node, or in one worker",
    )
    max_sessions_per_client: int = option(
        Whole(0, 1_000_000),
        1000,
        "sessions per client; sessions.when_full says what happens then; 0: no limit",
    )
    max_entries_per_client: int = option(
        Whole(0, 1_000_000_000),
        100_000,
        "entries that a client stores in all its sessions; a message beyond them is"
        " refused as storage_full; 0: no limit",
    )
    max_bytes_per_client: int = option(
        Size(0, 2**50),
        "1GB",
        "bytes that a client stores in all its sessions; a message beyond them is"
        " refused as storage_full; 0: no limit",
    )
    max_sessions_per_connection: int = option(
        Whole(1, 10_000),
        20,
        "sessions that one connection attaches at once; one more is refused as"
        " too_many_sessions",
    )
    when_full: str = option(
        Choice(("refuse", "delete_unused")),
        "refuse",
        "what happens at max_sessions_per_client: refuse a new session, or delete the"
        " one unused for longest; an empty one makes room in both cases",
    )
    answered_by: str = option(
        Choice(("nodes", "workers")),
        "nodes",
        "who runs SESSIONS_RESPONDER: the node that got the message, or the processes"
        " of answer_messages",
    )
    stream_timeout_seconds: float = option(
        Number(0.1, 86_400),
        300,
        "seconds after which an unfinished stream is interrupted",
    )
    invitation_seconds: float = option(
        Number(60, 31_536_000),
        86_400,
        "seconds for which the link of an invitation to a session is valid",
    )
    approval_timeout_seconds: float = option(
        Number(1, 604_800),
        3600,
        "seconds for which a tool call waits for a person; then it counts as denied",
    )
    position_seconds: float = option(
        Number(0.05, 3600),
        5,
        "seconds between polls for entries whose notification was lost",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    closed_connections_days: float = option(
        Number(0, 36_500),
        30,
        "days for which records of closed connections are kept; those of ended nodes"
        " at least two hours, commands to nodes at least a day",
    )
    errors_days: float = option(
        Number(0, 36_500), 30, "days for which error events are kept"
    )
    rollups_days: float = option(
        Number(0, 36_500),
        90,
        "days for which per-minute rollups and resolved alerts are kept; at least two"
        " hours",
    )
    sessions_days: float = option(
        Number(0.01, 36_500),
        90,
        "days for which an unused session is kept; 0, which would be none, is refused",
    )
    audit_days: float = option(
        Number(0, 36_500), 365, "days for which entries of the audit stream are kept"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardConfig:
    read_only: bool = option(
        Flag(),
        False,
        "the admin and the operators' API show everything, but offer no action such as"
        " end, ban or drain",
    )
