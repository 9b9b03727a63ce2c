"""
The registry of close codes, reasons, and advice for clients.

RFC 6455, section 7.4 leaves 4000 to 4999 to applications. The hundred advises
the client: 40xx do not return, 41xx return later or with something changed,
42xx return at once, 43xx return when the user acts.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Reconnect(StrEnum):
    """The advice to a client after a close."""

    NEVER = "never"
    NOW = "now"
    LATER = "later"
    BACKOFF = "backoff"
    NEW_TOKEN = "new_token"
    ON_ACTION = "on_action"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReason:
    """A close code with its reason and the advice to the client."""

    code: int
    reason: str
    reconnect: Reconnect
    resume: bool = False
    after_ms: tuple[int, int] | None = None
    """The least and most milliseconds before a client returns."""

    def bye(
        self, ref: str | None = None, after_ms: int | None = None
    ) -> dict[str, Any]:
        """Return the message that precedes the close frame on JSON consumers."""
        if after_ms is None and self.after_ms is not None:
            # Full jitter spreads the return of clients that left together.
            after_ms = random.randint(*self.after_ms)
        return {
            "type": "bye",
            "code": self.code,
            "reason": self.reason,
            "reconnect": self.reconnect.value,
            "after_ms": after_ms,
            "resume": self.resume,
            "ref": ref,
        }


_LATER = (5_000, 15_000)
_NOW_SPREAD = (0, 1_000)
_SPANS = {Reconnect.LATER: _LATER, Reconnect.NOW: _NOW_SPREAD}

CLOSED = CloseReason(code=1000, reason="closed", reconnect=Reconnect.NEVER)
UNAUTHENTICATED = CloseReason(
    code=4001, reason="unauthenticated", reconnect=Reconnect.NEVER
)
PROTOCOL_ERROR = CloseReason(
    code=4002, reason="protocol_error", reconnect=Reconnect.NEVER
)
FORBIDDEN = CloseReason(code=4003, reason="forbidden", reconnect=Reconnect.NEVER)
BANNED = CloseReason(code=4003, reason="banned", reconnect=Reconnect.NEVER)
NOT_FOUND = CloseReason(code=4004, reason="not_found", reconnect=Reconnect.NEVER)
EVICTED = CloseReason(code=4005, reason="evicted", reconnect=Reconnect.NEVER)
REPLACED = CloseReason(code=4005, reason="replaced", reconnect=Reconnect.NEVER)
LOGGED_OUT = CloseReason(code=4009, reason="logged_out", reconnect=Reconnect.NEVER)
REVOKED = CloseReason(code=4009, reason="revoked", reconnect=Reconnect.NEVER)
DEACTIVATED = CloseReason(code=4009, reason="deactivated", reconnect=Reconnect.NEVER)
KICKED = CloseReason(code=4009, reason="kicked", reconnect=Reconnect.NEVER)
MESSAGE_TOO_BIG = CloseReason(
    code=4013, reason="message_too_big", reconnect=Reconnect.NOW
)
POLICY = CloseReason(code=1008, reason="policy", reconnect=Reconnect.NEVER)
SESSIONS_FULL = CloseReason(
    code=1008, reason="sessions_full", reconnect=Reconnect.NEVER
)
TOKEN_EXPIRED = CloseReason(
    code=4100, reason="token_expired", reconnect=Reconnect.NEW_TOKEN
)
POOL_FULL = CloseReason(
    code=4103, reason="pool_full", reconnect=Reconnect.LATER, after_ms=_LATER
)
CLIENT_FULL = CloseReason(
    code=4103, reason="client_full", reconnect=Reconnect.LATER, after_ms=_LATER
)
UNAVAILABLE = CloseReason(
    code=4104, reason="unavailable", reconnect=Reconnect.LATER, after_ms=_LATER
)
RATE_LIMITED = CloseReason(
    code=4129, reason="rate_limited", reconnect=Reconnect.LATER, after_ms=_LATER
)
DRAINING = CloseReason(
    code=4200,
    reason="draining",
    reconnect=Reconnect.NOW,
    resume=True,
    after_ms=_NOW_SPREAD,
)
DEAD = CloseReason(
    code=4201,
    reason="dead",
    reconnect=Reconnect.NOW,
    resume=True,
    after_ms=_NOW_SPREAD,
)
ASKED_TO_RECONNECT = CloseReason(
    code=4202,
    reason="asked_to_reconnect",
    reconnect=Reconnect.NOW,
    resume=True,
    after_ms=_NOW_SPREAD,
)
SLOW_CONSUMER = CloseReason(
    code=4208,
    reason="slow_consumer",
    reconnect=Reconnect.NOW,
    resume=True,
    after_ms=_NOW_SPREAD,
)
IDLE = CloseReason(code=4300, reason="idle", reconnect=Reconnect.ON_ACTION)
INTERNAL_ERROR = CloseReason(
    code=4500, reason="internal_error", reconnect=Reconnect.BACKOFF
)
NETWORK = CloseReason(
    code=1006, reason="network", reconnect=Reconnect.BACKOFF, resume=True
)
LOST = CloseReason(code=1006, reason="lost", reconnect=Reconnect.BACKOFF, resume=True)
"""Recorded and never sent: the node was gone when the connection ended."""

CLOSE_REASONS: dict[str, CloseReason] = {
    close_reason.reason: close_reason
    for close_reason in (
        CLOSED,
        UNAUTHENTICATED,
        PROTOCOL_ERROR,
        FORBIDDEN,
        BANNED,
        NOT_FOUND,
        EVICTED,
        REPLACED,
        LOGGED_OUT,
        REVOKED,
        DEACTIVATED,
        KICKED,
        MESSAGE_TOO_BIG,
        POLICY,
        SESSIONS_FULL,
        TOKEN_EXPIRED,
        POOL_FULL,
        CLIENT_FULL,
        UNAVAILABLE,
        RATE_LIMITED,
        DRAINING,
        DEAD,
        ASKED_TO_RECONNECT,
        SLOW_CONSUMER,
        IDLE,
        INTERNAL_ERROR,
        NETWORK,
        LOST,
    )
}
"""The close reasons by their word, which is stored, logged and counted."""

APPLICATION = "application"
"""The recorded reason if a consumer closes with its own code."""

PEER = "peer"
"""The recorded reason if a client closes with its own code."""

# 1011 is missing: an error of the client is no error of the node.
_PEER_REASONS = {
    1000: CLOSED.reason,
    1001: CLOSED.reason,
    1005: CLOSED.reason,
    1002: PROTOCOL_ERROR.reason,
    1003: PROTOCOL_ERROR.reason,
    1006: NETWORK.reason,
    1007: PROTOCOL_ERROR.reason,
    1008: POLICY.reason,
    1009: MESSAGE_TOO_BIG.reason,
}


def get_reason(code: int | None) -> str:
    """Return the recorded reason for the code of a client, or for no code."""
    return _PEER_REASONS.get(code or 1005, PEER)


def get_codes(reason: str) -> list[int]:
    """Return all codes that are recorded with a reason, the registry's code first."""
    own = [CLOSE_REASONS[reason].code] if reason in CLOSE_REASONS else []
    of_peers = [code for code, one in _PEER_REASONS.items() if one == reason]
    return list(dict.fromkeys([*own, *of_peers]))


_STANDARD = {
    1002: PROTOCOL_ERROR,
    1003: PROTOCOL_ERROR,
    1007: PROTOCOL_ERROR,
    1009: MESSAGE_TOO_BIG,
}
"""The close codes of servers below ASGI, and their close reasons."""

HUNDREDS = {
    40: Reconnect.NEVER,
    41: Reconnect.LATER,
    42: Reconnect.NOW,
    43: Reconnect.ON_ACTION,
}
"""The advice of a code that the client does not know."""

BY_CODE: dict[int, CloseReason] = {
    **{
        close_reason.code: close_reason
        for close_reason in reversed(CLOSE_REASONS.values())
    },
    **_STANDARD,
}
"""The close reason of each code; the first of several in the registry."""


def get_close_reason(code: int) -> CloseReason:
    """Return the close reason for a code, known or unknown to the client."""
    if code in BY_CODE:
        return BY_CODE[code]
    reconnect = HUNDREDS.get(code // 100, Reconnect.BACKOFF)
    return CloseReason(
        code=code,
        reason=APPLICATION if code >= 3000 else NETWORK.reason,
        reconnect=reconnect,
        resume=reconnect in (Reconnect.NOW, Reconnect.BACKOFF),
        after_ms=_SPANS.get(reconnect),
    )


def may_send(code: int) -> bool:
    """
    Return True if an application may send a code in a close frame.

    RFC 6455, section 7.4 and the IANA registry: 1004, 1005, 1006 and 1015 are
    never sent; 1016 to 2999 are not assigned.
    """
    return code in _SENDABLE or 3000 <= code <= 4999


_SENDABLE = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))
