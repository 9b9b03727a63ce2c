"""The corpus: every attack with its allowed answers, records and log texts."""

from functools import partial

from connections.close_codes import get_reason
from connections.testing import PONG, build_frame
from connections.testing.waiting import scale
from tests.abuse import frames, handshakes, messages, peers
from tests.abuse.attack import Attack
from tests.abuse.cases import (
    CLOSES,
    NO_UTF8,
    SIZES,
    UNFINISHED,
    VALID_CODES,
    VIOLATIONS,
    expect,
)
from tests.abuse.heads import HEADS, ORIGINS

LIMITS = {
    "anonymous": "true",
    "allowed_origins": "[https://app.example.com]",
    "max_message_size": "1MiB",
    "node__beat_seconds": 0.1,
    # A client that stands still for so long on a slow machine would be cut off.
    "handshake__timeout_seconds": scale(1),
    "buffers__unfinished_message_seconds": scale(0.5),
    "buffers__receive_stall_seconds": scale(0.5),
    "buffers__send_stall_seconds": scale(0.5),
}
"""Short deadlines for tests; all other settings have their defaults."""

_OUTCOME = 'websocket_connections_total{outcome="%s"'
_END = 'websocket_disconnects_total{reason="%s"}'

_RATE_LIMITED = "4129 rate_limited"
_CLOSED = frozenset(
    (
        "1002 protocol_error",
        "1007 protocol_error",
        *(f"{code} {get_reason(code)}" for code in (*VALID_CODES, 1005)),
    )
)


def _flood(
    name: str, what: str, begin: bytes, piece: bytes, *, reads: bool = True
) -> Attack:
    """Return a flood of small frames; a peer that reads nothing may miss the close."""
    return Attack(
        name=name,
        what=what,
        run=partial(frames.flood_frames, begin=begin, piece=piece, reads=reads),
        answers=frozenset((_RATE_LIMITED, *(() if reads else ("closed", "reset")))),
        recorded=frozenset((_RATE_LIMITED,)),
        counted=(_END % "rate_limited",),
    )


ATTACKS = (
    # Before the WebSocket.
    Attack(
        name="mute",
        what="300 TCP connections of one address say nothing",
        run=handshakes.say_nothing,
        answers=frozenset(("408", "another client: 101")),
        recorded=frozenset(("1006 network",)),
        counted=(_OUTCOME % "timeout",),
    ),
    Attack(
        name="slowloris",
        what="300 heads of one address come a byte a second",
        run=handshakes.trickle_heads,
        answers=frozenset(("408", "another client: 101")),
        recorded=frozenset(("1006 network",)),
        counted=(_OUTCOME % "timeout",),
    ),
    Attack(
        name="slow_accept",
        what="50 handshakes wait for a consumer that never accepts",
        run=handshakes.wait_for_accept,
        answers=frozenset(("504",)),
        counted=(_OUTCOME % "unanswered",),
    ),
    Attack(
        name="heads",
        what=f"{len(HEADS)} heads: large, many, old, smuggled, rubbish",
        run=partial(handshakes.try_heads, heads=HEADS),
        answers=expect(HEADS),
        recorded=frozenset(("1006 network",)),
        counted=(_OUTCOME % "bad_request", _OUTCOME % "not_found"),
    ),
    Attack(
        name="origins",
        what=f"{len(ORIGINS)} origins, nearly right",
        run=partial(handshakes.try_heads, heads=ORIGINS),
        answers=expect(ORIGINS),
        recorded=frozenset(("1006 network",)),
        counted=(_OUTCOME % "origin",),
        logged=("was refused: foreign host or origin",),
    ),
    Attack(
        name="guessing",
        what="200 tokens and tickets are guessed from one address, forwarded for"
        " another each time",
        run=handshakes.guess_tokens,
        answers=frozenset(("4001 unauthenticated", _RATE_LIMITED)),
        most={"4001 unauthenticated": 40},
        counted=(_OUTCOME % "unauthenticated", _OUTCOME % "rate_limited"),
        logged=("Too many wrong credentials from 127.",),
    ),
    # Frames.
    Attack(
        name="violations",
        what=f"{len(VIOLATIONS)} frames that the RFC forbids",
        run=partial(frames.send_each, cases=VIOLATIONS),
        answers=expect(VIOLATIONS),
        recorded=frozenset(("1002 protocol_error",)),
        counted=(_END % "protocol_error",),
    ),
    Attack(
        name="no_utf8",
        what=f"{len(NO_UTF8)} texts that are not UTF-8, whole and over fragments",
        run=partial(frames.send_each, cases=NO_UTF8),
        answers=expect(NO_UTF8),
        recorded=frozenset(("1007 protocol_error",)),
        counted=(_END % "protocol_error",),
    ),
    Attack(
        name="close_codes",
        what=f"{len(CLOSES)} close frames, right and wrong",
        run=partial(frames.send_each, cases=CLOSES),
        answers=expect(CLOSES),
        recorded=_CLOSED,
        counted=(_END % "protocol_error", _END % "closed"),
    ),
    Attack(
        name="sizes",
        what=f"{len(SIZES)} sizes from 1 MiB + 1 to 2^64 - 1 are announced",
        run=partial(frames.send_each, cases=SIZES),
        answers=expect(SIZES),
        recorded=frozenset(("1009 message_too_big",)),
        counted=(_END % "message_too_big",),
    ),
    Attack(
        name="unfinished",
        what="messages and frames that begin and do not end",
        run=partial(frames.send_each, cases=UNFINISHED),
        answers=expect(UNFINISHED),
        recorded=frozenset(("1008 policy",)),
        counted=(_END % "policy",),
    ),
    Attack(
        name="fragments_held",
        what="100 clients hold 1 MB of an unfinished message each",
        run=partial(frames.hold_unfinished, count=100, size=1_000_000),
        answers=frozenset(("1008 policy", _RATE_LIMITED)),
        recorded=frozenset(("1008 policy", _RATE_LIMITED)),
        counted=(_END % "policy", _END % "rate_limited"),
        held_kib=40_000,
        config={"buffers__max_total_bytes": "20MB"},
    ),
    Attack(
        name="deflate",
        what="compression is offered, and sent though it was not agreed",
        run=frames.inflate,
        answers=frozenset(("1002 protocol_error",)),
        recorded=frozenset(("1002 protocol_error",)),
    ),
    _flood("fragments_0", "fragments of no byte", *frames.pour_fragments(b"")),
    _flood("fragments_1", "fragments of one byte", *frames.pour_fragments(b"y")),
    _flood("pings", "pings whose pongs are read", *frames.pour_pings(b"ping")),
    _flood(
        "pings_unread",
        "pings whose pongs are never read",
        *frames.pour_pings(b"x" * 125),
        reads=False,
    ),
    _flood("pongs", "pongs that nobody asked for", b"", build_frame(PONG)),
    # Messages.
    *(
        Attack(
            name=f"flood_of_{name}",
            what=f"{name} messages without end, to a consumer that takes two a second",
            run=partial(messages.flood_a_slow_consumer, size=size),
            answers=frozenset((_RATE_LIMITED,)),
            recorded=frozenset((_RATE_LIMITED,)),
            counted=(_END % "rate_limited",),
            held_kib=4_000,
        )
        for name, size in (("tiny", 5), ("large", 100_000))
    ),
    Attack(
        name="sated",
        what="100 clients say 1 MB each, read it back and are silent",
        run=messages.sate,
        answers=frozenset(("open",)),
        recorded=frozenset(("1006 network",)),
    ),
    Attack(
        name="broken_json",
        what="1000 messages of one byte, at each of which a handler raises",
        run=messages.break_json,
        answers=frozenset(("4500 internal_error",)),
        recorded=frozenset(("4500 internal_error",)),
        counted=(_END % "internal_error", 'websocket_errors_total{kind="internal"}'),
        logged=("A handler failed",),
    ),
    *(
        Attack(
            name=f"unread_{name}",
            what=f"{count} clients ask for much in {name} messages and read nothing",
            run=partial(messages.read_slowly, count=count, size=size),
            answers=frozenset(("reset",)),
            recorded=frozenset(("4208 slow_consumer",)),
            counted=(_END % "slow_consumer",),
            held_kib=count * 2_000,
        )
        for name, count, size in (
            ("tiny", 1, 100),
            ("small", 11, 10_000),
            ("large", 3, 1_000_000),
        )
    ),
    Attack(
        name="trickle",
        what="a client asks for much and reads 2 kB a second",
        run=partial(messages.read_slowly, count=1, size=10_000, bytes_per_second=2_000),
        answers=frozenset(("reset",)),
        recorded=frozenset(("4208 slow_consumer",)),
        counted=(_END % "slow_consumer",),
    ),
    Attack(
        name="body",
        what="chunks without end are posted, over HTTP",
        run=messages.send_large_bodies,
        answers=frozenset(("413",)),
        held_kib=2_500,
    ),
    # Connections that come and go.
    Attack(
        name="churn",
        what="500 clients come, say a word and close",
        run=peers.come_and_go,
        answers=frozenset(("1000",)),
        recorded=frozenset(("1000 closed",)),
        counted=(_END % "closed",),
    ),
    Attack(
        name="resets",
        what="200 clients come and reset, half of them before they are answered",
        run=peers.leave_without_a_word,
        answers=frozenset(("left",)),
        recorded=frozenset(("1006 network",)),
        counted=(_END % "network",),
    ),
    Attack(
        name="half_close",
        what="20 clients send a message and FIN",
        run=peers.close_half,
        answers=frozenset(("closed",)),
        recorded=frozenset(("1006 network",)),
        counted=(_END % "network",),
    ),
    Attack(
        name="storm",
        what="300 clients connect at once, three times",
        run=peers.storm,
        answers=frozenset(("101",)),
        recorded=frozenset(("1006 network",)),
        held_kib=15_000,
    ),
    Attack(
        name="hoard",
        what="one address opens 300 connections, forwarded for as many",
        run=peers.hoard,
        answers=frozenset(("4005 evicted", "open")),
        most={"open": 5},
        recorded=frozenset(("4005 evicted", "1006 network")),
        counted=(_END % "evicted",),
    ),
    Attack(
        name="vanish",
        what="a process with 5 connections is stopped",
        run=peers.vanish,
        answers=frozenset(("dropped",)),
        recorded=frozenset(("4201 dead",)),
        counted=(_END % "dead",),
        config={"ping_interval_seconds": 1, "ping_timeout_seconds": scale(1)},
    ),
)
