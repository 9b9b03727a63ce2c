"""
Encrypt what nodes send each other over Redis.

The channel layer and the hints about sessions hold the contents of messages. Slots
of the pool and announcements hold ids alone, and stay as they are.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

from django.conf import settings

from connections.config.fields import Problem

SETTING = "REDIS_ENCRYPTION_KEYS"
LEAST_CHARACTERS = 32
"""A shorter key could be guessed from what Redis shows."""

_ALLOWED = (
    f"a list of texts of at least {LEAST_CHARACTERS} characters; the first encrypts, "
    "each decrypts"
)


class Cipher(Protocol):
    """Encrypts with the newest key, and decrypts with every key."""

    def encrypt(self, payload: bytes) -> bytes:
        """Return an encrypted payload."""

    def decrypt(self, payload: bytes) -> bytes:
        """
        Return a payload.

        Raises:
            ValueError: no key has encrypted it.
        """


def get_encryption_keys() -> tuple[str, ...]:
    """Return settings.REDIS_ENCRYPTION_KEYS, the newest first; empty: plain text."""
    return tuple(getattr(settings, SETTING, None) or ())


def find_keys_problem() -> Problem | None:
    """Return why the keys cannot be used, or None; never with a key."""
    keys: Any = getattr(settings, SETTING, None)
    if not keys:
        return None
    if not isinstance(keys, list | tuple):
        return Problem(SETTING, type(keys).__name__, _ALLOWED)
    for position, key in enumerate(keys):
        if not isinstance(key, str) or len(key) < LEAST_CHARACTERS:
            length = f"{len(key)} characters" if isinstance(key, str) else type(key)
            return Problem(f"{SETTING}[{position}]", length, _ALLOWED)
    if _find_fernet() is None:
        return Problem(SETTING, "no cryptography", "pip install cryptography")
    return None


def make_cipher(keys: Sequence[str]) -> Cipher | None:
    """Return the cipher for keys, the newest first; None without any."""
    return _FernetCipher(keys) if keys else None


class _FernetCipher:
    """Fernet with derived keys, as channels-redis derives those of the layer."""

    def __init__(self, keys: Sequence[str]) -> None:
        fernet = _find_fernet()
        self._invalid = fernet.InvalidToken
        self._fernet = fernet.MultiFernet(
            [fernet.Fernet(_derive(key.encode())) for key in keys]
        )

    def encrypt(self, payload: bytes) -> bytes:
        encrypted: bytes = self._fernet.encrypt(payload)
        return encrypted

    def decrypt(self, payload: bytes) -> bytes:
        try:
            decrypted: bytes = self._fernet.decrypt(payload)
        except self._invalid as exc:
            raise ValueError("not encrypted with one of the keys") from exc
        return decrypted


def _derive(key: bytes) -> bytes:
    return base64.urlsafe_b64encode(hashlib.sha256(key).digest())


def _find_fernet() -> Any:
    """Return the module of Fernet, or None if cryptography is not installed."""
    try:
        from cryptography import fernet
    except ImportError:
        return None
    return fernet
