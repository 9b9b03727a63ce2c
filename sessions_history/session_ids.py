"""
Make session ids that every node recognises before the session is inserted.

An id consists of the minute of its making, random bytes and a signature over both and
the client, so that a client can use no id of its own making.
"""

import hmac
import os
import re
import time

from django.conf import settings
from django.utils.crypto import salted_hmac

from connections.units import Clock

SESSION_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,100}")
KNOWN_SECONDS = 86_400
"""How long after its making an id without a session is accepted."""

_SALT = "sessions_history.session_ids"
_MINUTE_BYTES = 3
_RANDOM_BYTES = 5
_SIGNATURE_BYTES = 8
_SKEW_MINUTES = 60
"""How far the clock of another node may be ahead."""


def make_session_id(client_id: str, clock: Clock = time.time) -> str:
    """Return a new id for a session of a client."""
    minute = int(clock() // 60) % 256**_MINUTE_BYTES
    content = minute.to_bytes(_MINUTE_BYTES) + os.urandom(_RANDOM_BYTES)
    signature = _sign(content, client_id, settings.SECRET_KEY)
    return bytes(content + signature).hex()


def find_named(client_id: str, name: str) -> str:
    """
    Return the id of the session of a client that has a name of its choice.

    An id stands for itself, and so does what is no name.
    """
    if SESSION_ID.fullmatch(name) or not _NAME.fullmatch(name):
        return name
    value = f"{name} {client_id}"
    made = salted_hmac(f"{_SALT}.names", value, algorithm="sha256")
    return str(made.hexdigest()[:32])


def is_recent_id(session_id: str, client_id: str, clock: Clock = time.time) -> bool:
    """Return True if a node made this id for this client within the last day."""
    try:
        made = bytes.fromhex(session_id)
    except ValueError:
        return False
    content, signature = made[:-_SIGNATURE_BYTES], made[-_SIGNATURE_BYTES:]
    minute = int.from_bytes(content[:_MINUTE_BYTES])
    age = (int(clock() // 60) - minute + _SKEW_MINUTES) % 256**_MINUTE_BYTES
    if age > KNOWN_SECONDS // 60 + _SKEW_MINUTES:
        return False
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return any(
        hmac.compare_digest(signature, _sign(content, client_id, key)) for key in keys
    )


def _sign(content: bytes, client_id: str, key: str | bytes) -> bytes:
    value = content + client_id.encode()
    made = salted_hmac(_SALT, value, secret=key, algorithm="sha256")
    digest: bytes = made.digest()
    return digest[:_SIGNATURE_BYTES]
