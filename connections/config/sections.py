"""The sections of `websocket:`, one frozen dataclass each."""

from dataclasses import dataclass

from connections.config.fields import NETWORKS, Flag, Number, Size, Whole, option


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    beat_seconds: float = option(
        Number(0.05, 60), 1, "how often a node writes, applies close requests, beats"
    )
    lease_seconds: float = option(
        Number(1, 600), 15, "a slot not renewed for so long is free again"
    )
    node_timeout_seconds: float = option(
        Number(1, 3600), 15, "a node whose beat stands still for so long is dead"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderConfig:
    max_pending: int = option(
        Whole(100, 10_000_000), 50_000, "rows kept while the database is away"
    )
    max_bytes: int = option(
        Size(100_000), "64MB", "memory for rows kept while the database is away"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitConfig:
    messages_per_second: float = option(
        Number(0.01, 1e6), 50, "messages a connection may send, sustained"
    )
    burst_messages: int = option(
        Whole(1, 10_000_000), 100, "messages a connection may send at once"
    )
    bytes_per_second: int = option(
        Size(1),
        "2MB",
        "bytes a connection may send per second, sustained; each value of a JSON text"
        " over 4 kB counts for 16 more",
    )
    burst_bytes: int = option(Size(1), "4MB", "bytes a connection may send at once")
    tolerance_seconds: float = option(
        Number(0, 3600), 5, "over the rate for so long closes the connection (4129)"
    )
    small_frames_per_second: float = option(
        Number(0.1, 1e6), 100, "pings, pongs and fragments under 64 bytes, sustained"
    )
    burst_small_frames: int = option(
        Whole(1, 10_000_000), 1000, "pings, pongs and such fragments at once"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuffersConfig:
    send_high_water: int = option(
        Size(1024), "1MB", "unsent bytes above which await send() waits"
    )
    max_send_buffer: int = option(
        Size(1024), "4MB", "unsent bytes at which a slow client is cut off (4208)"
    )
    send_stall_seconds: float = option(
        Number(0.1, 3600), 10, "a client that reads nothing for so long is cut off"
    )
    max_receive_queue: int = option(
        Whole(1, 1_000_000), 64, "messages waiting for a consumer before reading pauses"
    )
    max_receive_bytes: int = option(
        Size(1024), "2MB", "bytes waiting for a consumer before reading pauses"
    )
    receive_stall_seconds: float = option(
        Number(0.1, 3600), 5, "reading paused for so long ends the connection (4129)"
    )
    unfinished_message_seconds: float = option(
        Number(0.1, 3600), 60, "for a message that has begun to become whole (1008)"
    )
    max_total_bytes: int = option(
        Size(1024), "256MB", "bytes of all these buffers of a node together"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorsConfig:
    budget: int = option(
        Whole(1, 1_000_000), 20, "errors within the window that close a connection"
    )
    window_seconds: float = option(
        Number(0.1, 86_400), 60, "how long an error counts against the budget"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeConfig:
    timeout_seconds: float = option(
        Number(0.1, 300), 5, "for the whole request head, and again for accepting it"
    )
    per_address_per_second: float = option(
        Number(0.1, 1e6), 200, "handshakes per second from one address (IPv6: one /64)"
    )
    per_address_burst: int = option(
        Whole(1, 10_000_000), 1000, "handshakes at once from one address"
    )
    per_address_pending: int = option(
        Whole(1, 10_000_000), 200, "handshakes in progress from one address"
    )
    max_pending: int = option(
        Whole(1, 10_000_000), 2000, "handshakes in progress; beyond it the oldest goes"
    )
    failures_per_address_per_minute: float = option(
        Number(0.1, 1e6), 20, "wrong credentials per minute from one address (4129)"
    )
    failures_per_address_burst: int = option(
        Whole(1, 10_000_000), 20, "wrong credentials at once from one address"
    )
    max_body_size: int = option(
        Size(1024), "2500kB", "the body of an HTTP request (413)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainConfig:
    grace_seconds: float = option(
        Number(0, 3600), 20, "over how long a stopping node hands its clients over"
    )
    delay_seconds: float = option(
        Number(0, 600), 0, "between /readyz turning 503 and the port closing"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    allowed_addresses: tuple[str, ...] = option(
        NETWORKS,
        ["127.0.0.0/8", "::1/128"],
        "who may read /metrics without METRICS_TOKEN",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsConfig:
    max_open_streams: int = option(
        Whole(1, 100), 4, "answers that may stream into a session at once"
    )
    max_sessions_per_client: int = option(
        Whole(0, 1_000_000),
        1000,
        "one more is refused (1008 sessions_full); 0: no limit",
    )
    stream_timeout_seconds: float = option(
        Number(0.1, 86_400), 300, "a stream that takes longer ends as interrupted"
    )
    position_seconds: float = option(
        Number(0.05, 3600), 5, "how often a node looks for entries that no one told of"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    closed_connections_days: float = option(
        Number(0, 36_500), 30, "how long records of closed connections are kept"
    )
    errors_days: float = option(Number(0, 36_500), 30, "how long error events are kept")
    rollups_days: float = option(
        Number(0, 36_500), 90, "how long the counts of each minute are kept"
    )
    sessions_days: float = option(
        Number(0, 36_500), 90, "how long a session is kept that nobody uses"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardConfig:
    read_only: bool = option(
        Flag(),
        False,
        "the admin shows, and lets nobody end, ban, drain or revoke",
    )
