"""Messages of the channel layer as JSON, which PostgreSQL carries as text."""

import base64
import json
import os
from collections.abc import Sequence
from typing import Any

from connections.asgi import Message
from connections.redis.encryption import make_cipher

_MARK_BYTES = 8
"""The length of the mark, which precedes the JSON and is the key of each bytes."""


class JsonCodec:
    """
    Turns messages into JSON in bytes and back, encrypted where there are keys.

    Tuples become lists and keys become texts. Bytes stay bytes.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        """
        Take the keys, the newest first.

        Raises:
            ValueError: a key is no text or empty, or `cryptography` is not installed.
        """
        if isinstance(keys, str | bytes):
            raise ValueError("symmetric_encryption_keys is a list of keys")
        if not all(isinstance(key, str) and key for key in keys):
            raise ValueError("symmetric_encryption_keys has an empty key")
        try:
            self._cipher = make_cipher(keys)
        except AttributeError as exc:
            raise ValueError("encryption needs: pip install cryptography") from exc

    def serialize(self, message: Message) -> bytes:
        """
        Return a message as bytes.

        Raises:
            TypeError: JSON cannot hold a value.
            ValueError: the message refers to itself.
        """
        # No message can hold the mark, which is made after it.
        mark = os.urandom(_MARK_BYTES).hex()
        has_bytes = False

        def encode(value: Any) -> dict[str, str]:
            nonlocal has_bytes
            if not isinstance(value, bytes | bytearray | memoryview):
                raise TypeError(f"a message cannot hold a {type(value).__name__}")
            has_bytes = True
            return {mark: base64.b64encode(value).decode()}

        text = json.dumps(message, default=encode, separators=(",", ":"))
        payload = f"{mark}{text}".encode() if has_bytes else text.encode()
        return payload if self._cipher is None else self._cipher.encrypt(payload)

    def deserialize(self, payload: bytes) -> Message:
        """
        Return the message that the bytes stand for.

        Raises:
            ValueError: they are no JSON, or no key has encrypted them.
            RecursionError: the JSON is nested too deep.
        """
        if self._cipher is not None:
            payload = self._cipher.decrypt(payload)
        if payload.startswith(b"{"):
            message: Message = json.loads(payload)
            return message
        mark = payload[: 2 * _MARK_BYTES].decode()

        def decode(found: dict[str, Any]) -> Any:
            return base64.b64decode(found[mark]) if mark in found else found

        message = json.loads(payload[2 * _MARK_BYTES :], object_hook=decode)
        return message
