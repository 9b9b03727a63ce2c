"""Test the keys that encrypt what nodes send each other over Redis."""

from typing import Any

import pytest

from connections.checks import check_redis_url
from connections.exceptions import ConfigError
from connections.layers.redis import RedisLayer
from connections.redis.encryption import get_encryption_keys, make_cipher
from connections.routing import protect

OLD, NEW = "old" * 11, "new" * 11


def test_the_first_key_encrypts_and_each_decrypts() -> None:
    before, after = make_cipher([OLD]), make_cipher([NEW, OLD])
    assert before is not None and after is not None
    assert after.decrypt(before.encrypt(b"text")) == b"text"
    with pytest.raises(ValueError, match="one of the keys"):
        before.decrypt(after.encrypt(b"text"))
    with pytest.raises(ValueError, match="one of the keys"):
        before.decrypt(b"plain")
    assert b"text" not in before.encrypt(b"text")


def test_without_keys_nothing_is_encrypted(settings: Any) -> None:
    settings.REDIS_ENCRYPTION_KEYS = None
    assert get_encryption_keys() == ()
    assert make_cipher(()) is None
    layer = RedisLayer()
    assert layer.deserialize(layer.serialize({"type": "x"})) == {"type": "x"}


def test_the_layer_takes_the_keys_of_the_settings_unless_it_has_its_own(
    settings: Any,
) -> None:
    settings.REDIS_ENCRYPTION_KEYS = [OLD]
    of_settings, own = RedisLayer(), RedisLayer(symmetric_encryption_keys=[NEW, OLD])
    plain = RedisLayer(symmetric_encryption_keys=())
    payload = of_settings.serialize({"type": "x"})
    assert own.deserialize(payload) == {"type": "x"}
    assert b"type" not in payload
    assert b"type" in plain.serialize({"type": "x"})


@pytest.mark.parametrize("keys", ["text", [""], [OLD, ""]])
def test_the_layer_refuses_keys_that_are_none(keys: Any) -> None:
    with pytest.raises(ValueError, match="symmetric_encryption_keys"):
        RedisLayer(symmetric_encryption_keys=keys)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (OLD, "REDIS_ENCRYPTION_KEYS: 'str' is not allowed; a list of texts"),
        ([OLD, "short"], r"REDIS_ENCRYPTION_KEYS\[1\]: '5 characters' is not allowed"),
        ([7], r"REDIS_ENCRYPTION_KEYS\[0\]"),
    ],
)
def test_bad_keys_are_named_without_showing_them(
    settings: Any, keys: Any, problem: str
) -> None:
    settings.REDIS_ENCRYPTION_KEYS = keys
    (found,) = check_redis_url()
    assert found.id == "connections.E003"
    with pytest.raises(ConfigError, match=problem) as refused:
        protect(http=None, websocket=[])
    assert OLD not in str(refused.value)
    assert "short" not in str(refused.value)
