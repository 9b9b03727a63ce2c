"""Test the verification of JWTs, attacks on them, and the rotation of keys."""

import asyncio
import contextlib
import hashlib
import hmac
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from channels.db import database_sync_to_async
from cryptography.hazmat.primitives import serialization
from django.contrib.auth.models import User
from hypothesis import given
from hypothesis import strategies as st

from connections.checks import check_jwt
from connections.config.auth_sections import JwtConfig
from connections.config.loader import WebSocketConfig, get_config
from connections.credentials.jwt import JwtVerifier
from connections.credentials.jwt_config import find_jwt_problems, make_jwt_verifier
from connections.credentials.jwt_keys import Key, KeyRing, fetch, read_keys
from connections.credentials.verifier import Verifier
from connections.exceptions import ConfigError, Refused
from connections.testing import FakeClock
from tests.connections.background_tasks import finish_tasks
from tests.connections.jwt_provider import (
    AUDIENCE,
    ISSUER,
    SECRET,
    SigningKey,
    encode_part,
    make_claims,
    make_jwks,
)
from tests.connections.switchable_database import SwitchableDatabase
from tests.logged import find_records

ALL = JwtConfig().algorithms
RSA, EC, ED = (SigningKey(name, name) for name in ("RS256", "ES256", "EdDSA"))
HMAC = SigningKey("HS256", "HS256")
FAR_FUTURE = 4_000_000_000


class Provider:
    """Returns keys or fails, and counts its calls."""

    def __init__(self, *keys: Any) -> None:
        self.keys = keys
        self.is_away = False
        self.count = 0

    def load(self) -> tuple[Key, ...]:
        self.count += 1
        if self.is_away:
            raise OSError("away")
        return read_keys(make_jwks(*self.keys), ALL, may_hold_secrets=True)

    def ring(self, clock: FakeClock | None = None) -> KeyRing:
        return KeyRing(
            self.load,
            refresh_seconds=300,
            refetch_seconds=10,
            clock=clock or FakeClock(),
        )


def make_verifier(*keys: Any, **config: Any) -> JwtVerifier:
    config = {"issuer": ISSUER, "audience": AUDIENCE, **config}
    return JwtVerifier(JwtConfig(**config), Provider(*keys).ring())


async def refusal(verifier: JwtVerifier, token: str) -> str:
    with pytest.raises(Refused) as refused:
        await verifier.verify(token)
    return refused.value.close_reason.reason


@pytest.mark.parametrize("key", [RSA, EC, ED, HMAC], ids=lambda key: key.algorithm)
async def test_every_algorithm_gives_client_expiry_and_id(key: SigningKey) -> None:
    verifier = make_verifier(RSA, EC, ED, HMAC)
    claims = await verifier.verify(key.sign(exp=2_000_000_000, plan="gold"))
    credential = verifier.make_credential(claims)
    assert credential.client_id == "jwt:alice"
    assert credential.expires_at == datetime.fromtimestamp(2_000_000_000, UTC)
    assert (credential.jti, credential.claims["plan"]) == ("id-1", "gold")
    assert "gold" not in repr(credential)


# Attacks


async def test_none_is_no_algorithm() -> None:
    """An unsigned token, however `none` is spelled."""
    for name in ("none", "None", "NONE", "nOnE", "", None):
        header = {"typ": "JWT", "alg": name, "kid": "RS256"}
        token = f"{encode_part(header)}.{encode_part(make_claims())}."
        assert await refusal(make_verifier(RSA), token) == "unauthenticated"


async def test_a_public_key_is_no_secret() -> None:
    """Algorithm confusion: HS256 with the public RSA key."""
    public = RSA.private.public_key()
    for encoding, kind in (
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
    ):
        secret = public.public_bytes(encoding, kind)
        for kid in ("RS256", "HS256", None):
            header = {"typ": "JWT", "alg": "HS256", "kid": kid}
            if kid is None:
                del header["kid"]
            signed = f"{encode_part(header)}.{encode_part(make_claims())}"
            mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
            token = f"{signed}.{encode_part(mac)}"
            assert await refusal(make_verifier(RSA), token) == "unauthenticated"
            assert await refusal(make_verifier(RSA, HMAC), token) == "unauthenticated"


async def test_a_key_verifies_its_own_algorithm_alone() -> None:
    """RS512 or PS256 with a key for RS256, and one key under another's name."""
    for algorithm in ("RS384", "RS512", "PS256"):
        token = pyjwt.encode(
            make_claims(), RSA.private, algorithm, headers={"kid": "RS256"}
        )
        assert await refusal(make_verifier(RSA), token) == "unauthenticated"
    token = EC.sign(headers={"kid": "RS256"})
    assert await refusal(make_verifier(RSA, EC), token) == "unauthenticated"


async def test_keys_inside_a_token_are_not_used() -> None:
    """`jwk`, `jku`, `x5u` and a `kid` that is a path or a query."""
    mallory = SigningKey("RS256", "RS256")
    for headers in (
        {"jwk": mallory.jwk},
        {"jku": "http://127.0.0.1:9/jwks"},
        {"x5u": "http://127.0.0.1:9/x5u", "x5c": ["AAAA"]},
        {"kid": "../../../../dev/null"},
        {"kid": "x' UNION SELECT 'secret"},
    ):
        token = mallory.sign(headers=headers)
        assert await refusal(make_verifier(RSA), token) == "unauthenticated"


async def test_an_unknown_critical_header_is_refused() -> None:
    token = RSA.sign(headers={"crit": ["exp"]})
    assert await refusal(make_verifier(RSA), token) == "unauthenticated"


async def test_a_signature_of_another_key_or_none_is_refused() -> None:
    token = SigningKey("ES256", "ES256").sign()
    assert await refusal(make_verifier(EC), token) == "unauthenticated"
    head, payload, signature = EC.sign().split(".")
    zero = encode_part(bytes(64))
    changed = encode_part(make_claims(sub="bob"))
    for token in (
        f"{head}.{payload}.",
        f"{head}.{payload}.{zero}",
        f"{head}.{changed}.{signature}",
    ):
        assert await refusal(make_verifier(EC), token) == "unauthenticated"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://evil.example/"}, "unauthenticated"),
        ({"iss": ISSUER.rstrip("/")}, "unauthenticated"),
        ({"iss": None}, "unauthenticated"),
        ({"aud": "another"}, "unauthenticated"),
        ({"aud": ["another"]}, "unauthenticated"),
        ({"aud": None}, "unauthenticated"),
        ({"exp": None}, "unauthenticated"),
        ({"exp": "soon"}, "unauthenticated"),
        ({"exp": 10**30}, "unauthenticated"),
        ({"exp": float("inf")}, "unauthenticated"),
        ({"sub": None}, "unauthenticated"),
        ({"sub": ""}, "unauthenticated"),
        ({"sub": ["alice"]}, "unauthenticated"),
        ({"sub": "a\x00"}, "unauthenticated"),
        ({"sub": "a\ud800"}, "unauthenticated"),
        ({"nbf": FAR_FUTURE}, "unauthenticated"),
        ({"iat": FAR_FUTURE}, "unauthenticated"),
        ({"exp": int(time.time()) - 60}, "token_expired"),
    ],
)
async def test_claims_are_checked(claims: dict[str, Any], reason: str) -> None:
    assert await refusal(make_verifier(EC), EC.sign(**claims)) == reason


async def test_one_audience_of_several_is_enough() -> None:
    assert await make_verifier(EC).verify(EC.sign(aud=["another", AUDIENCE]))


async def test_a_clock_may_be_off_by_the_leeway() -> None:
    token = EC.sign(exp=int(time.time()) - 5)
    assert await make_verifier(EC, leeway_seconds=60).verify(token)
    strict = make_verifier(EC, leeway_seconds=0)
    assert await refusal(strict, token) == "token_expired"


@given(st.one_of(st.text(), st.from_regex(r"\A[\w-]*\.[\w-]*\.[\w-]*\Z")))
def test_text_that_is_no_token_is_refused(text: str) -> None:
    assert asyncio.run(refusal(make_verifier(EC), text)) == "unauthenticated"


async def test_a_token_over_the_bound_is_not_read() -> None:
    token = EC.sign(padding="x" * 20_000)
    assert await refusal(make_verifier(EC), token) == "unauthenticated"


# Users


@pytest.mark.django_db
def test_a_claim_may_name_the_user() -> None:
    user = User.objects.create_user("alice")
    User.objects.create_user("gone", is_active=False)
    verifier = make_verifier(EC, user_claim="name")
    credential = verifier.make_credential(make_claims(name="alice"))
    assert (credential.user, credential.client_id) == (user, f"user:{user.pk}")
    for name, reason in (
        ("nobody", "unauthenticated"),
        (None, "unauthenticated"),
        (7, "unauthenticated"),
        ("a\x00", "unauthenticated"),
        ("a\ud800", "unauthenticated"),
        ("gone", "deactivated"),
    ):
        with pytest.raises(Refused) as refused:
            verifier.make_credential(make_claims(name=name))
        assert refused.value.close_reason.reason == reason


async def test_a_subject_cannot_pose_as_a_user() -> None:
    verifier = make_verifier(EC)
    claims = await verifier.verify(EC.sign(sub="user:1"))
    assert verifier.make_credential(claims).client_id == "jwt:user:1"


# Keys


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ([], "no key in it"),
        ([SigningKey("RS256", "k", bits=1024)], "shorter than 2048 bits"),
        ([{"kty": "oct", "k": "c2hvcnQ"}], "shorter than 32 bytes"),
        ([RSA.private_jwk], "a private key"),
        ([{**RSA.jwk, "use": "enc"}], "not for signatures"),
        ([{**RSA.jwk, "key_ops": ["encrypt"]}], "not for signatures"),
        ([{**RSA.jwk, "alg": "HS256"}], "not a key for one of"),
        ([{**RSA.jwk, "alg": "none"}], "not a key for one of"),
        ([{**EC.jwk, "crv": "P-384"}], "not a key for one of"),
        ([{**EC.jwk, "x": "AAAA"}], "key 0"),
        (["text"], "no JSON object"),
    ],
)
def test_unusable_keys_are_named(keys: list[Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_keys(make_jwks(*keys), ALL, may_hold_secrets=True)
    both = read_keys(make_jwks(*keys, EC), ALL, may_hold_secrets=True)
    assert [key.kid for key in both] == ["ES256"]


def test_a_secret_from_a_url_is_none() -> None:
    with pytest.raises(ValueError, match="read from a URL"):
        read_keys(make_jwks(HMAC), ALL, may_hold_secrets=False)


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys":7}', b"[" * 100_000])
def test_a_document_that_is_no_jwks_is_a_value_error(document: bytes) -> None:
    with pytest.raises(ValueError, match="keys"):
        read_keys(document, ALL, may_hold_secrets=True)


def test_an_algorithm_that_is_not_configured_has_no_keys() -> None:
    keys = read_keys(make_jwks(RSA, EC), ["ES256"], may_hold_secrets=False)
    assert [key.algorithm for key in keys] == ["ES256"]


async def test_a_token_without_kid_takes_the_only_key() -> None:
    token = pyjwt.encode(make_claims(), EC.private, "ES256")
    assert await make_verifier(EC).verify(token)
    assert await refusal(make_verifier(EC, RSA), token) == "unauthenticated"


async def test_handshakes_share_one_read_of_the_keys() -> None:
    provider = Provider(EC)
    ring = provider.ring()
    assert provider.count == 0
    await asyncio.gather(*(ring.find("ES256") for _ in range(50)))
    for _ in range(50):
        await ring.find("ES256")
    assert provider.count == 1


async def test_a_new_key_is_read_when_a_token_names_it() -> None:
    clock = FakeClock()
    provider = Provider(EC)
    ring = provider.ring(clock)
    await ring.find("ES256")
    provider.keys = (EC, ED)
    clock.advance(10)
    assert (await ring.find("EdDSA")).algorithm == "EdDSA"
    assert provider.count == 2


async def test_a_removed_key_verifies_nothing() -> None:
    clock = FakeClock()
    provider = Provider(EC, ED)
    ring = provider.ring(clock)
    await ring.find("ES256")
    provider.keys = (ED, RSA)
    clock.advance(300)
    ring.refresh()
    await finish_tasks()
    with pytest.raises(Refused):
        await ring.find("ES256")


async def test_invented_kids_cause_no_fetch() -> None:
    """An attacker cannot cause a fetch more often than every 10 s."""
    clock = FakeClock()
    provider = Provider(EC, ED)
    ring = provider.ring(clock)
    for number in range(100):
        with pytest.raises(Refused) as refused:
            await ring.find(f"made-up-{number}")
        assert refused.value.close_reason.reason == "unauthenticated"
        clock.advance(0.19)
    assert provider.count == 2
    assert await ring.find("ES256")


async def test_the_last_keys_stand_while_the_provider_is_away() -> None:
    clock = FakeClock()
    provider = Provider(EC, ED)
    ring = provider.ring(clock)
    await ring.find("ES256")
    provider.is_away = True
    for _ in range(5):
        clock.advance(400)
        ring.refresh()
        await finish_tasks()
    assert await ring.find("ES256")
    with pytest.raises(Refused) as refused:
        await ring.find("new")
    assert refused.value.close_reason.reason == "unavailable"
    provider.is_away = False
    clock.advance(10)
    ring.refresh()
    await finish_tasks()
    with pytest.raises(Refused) as refused:
        await ring.find("new")
    assert refused.value.close_reason.reason == "unauthenticated"


async def test_without_any_keys_a_token_is_unavailable() -> None:
    provider = Provider(EC)
    provider.is_away = True
    with pytest.raises(Refused) as refused:
        await provider.ring().find("ES256")
    assert refused.value.close_reason.reason == "unavailable"


async def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    provider = Provider(EC)
    provider.is_away = True
    ring = provider.ring(clock)
    for provider.is_away in (True, True, True, False, False):
        clock.advance(1000)
        ring.refresh()
        await finish_tasks()
    said = find_records(caplog, "connections.credentials.jwt_keys")
    events = [record.__dict__["event"] for record in said]
    assert events == ["jwt_keys_failed", "jwt_keys_recovered"]


ANSWERS = {
    "nothing": b"",
    "garbage": b"\x16\x03\x01 garbage\r\n\r\n",
    "another protocol": b"ICY 200 OK\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status line": b"HTTP/1.1 200 OK\r\n",
    "a long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 200 + b"\r\n",
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "half a body": b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"keys": [',
    "half a JSON": b'HTTP/1.1 200 OK\r\n\r\n{"keys": [',
    "no JSON": b"HTTP/1.1 200 OK\r\n\r\n<html>\xff",
    "odd keys": b'HTTP/1.1 200 OK\r\n\r\n{"keys": [{"kty": "RSA", "n": 7, "e": {}}]}',
    "a huge body": b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 2_000_000,
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
    "a bad redirect": b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
    "an error": b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
}
"""What a broken provider sends instead of keys."""


class RawServer:
    """Sends bytes to whoever connects, one by one if it is slow, and closes."""

    def __init__(self, answer: bytes = b"", *, is_slow: bool = False) -> None:
        self.answer = answer
        self.is_slow = is_slow
        self.is_reset = False
        self.sent_bytes = 0
        self._ended = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "RawServer":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._ended.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self._socket.getsockname()[1]}/jwks"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while not self._ended.is_set():
                self._answer(self._socket.accept()[0])

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self.is_reset:
                linger = struct.pack("ii", 1, 0)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return
            client.recv(65536)
            pieces = [self.answer]
            if self.is_slow:
                pieces = [bytes((byte,)) for byte in self.answer]
            for piece in pieces:
                client.sendall(piece)
                self.sent_bytes += len(piece)
                if self.is_slow and self._ended.wait(0.02):
                    return


def make_ring(url: str, clock: FakeClock) -> KeyRing:
    def load() -> tuple[Key, ...]:
        return read_keys(fetch(url), ALL, may_hold_secrets=False)

    return KeyRing(load, refresh_seconds=300, refetch_seconds=10, clock=clock)


@pytest.mark.parametrize("name", [*ANSWERS, "a reset", "no TLS"])
async def test_the_keys_are_read_again_after_any_answer(name: str) -> None:
    """Each is a failure of the provider: 4104, the next read comes soon."""
    good = b"HTTP/1.1 200 OK\r\n\r\n" + make_jwks(EC)
    with RawServer(ANSWERS.get(name, b"")) as server:
        clock = FakeClock()
        server.is_reset = name == "a reset"
        ring = make_ring(server.url("https" if name == "no TLS" else "http"), clock)
        with pytest.raises(Refused) as refused:
            await ring.find("ES256")
        assert refused.value.close_reason.code == 4104
        if name == "no TLS":
            return
        server.answer, server.is_reset = good, False
        clock.advance(11)
        ring.refresh()
        await finish_tasks()
        assert (await ring.find("ES256")).kid == "ES256"


@pytest.mark.parametrize(
    "slow", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"]
)
def test_a_provider_that_sends_single_bytes_is_given_up(slow: bytes) -> None:
    """Its thread ends too: the threads that may load keys are few."""
    with RawServer(slow + b"x" * 1000, is_slow=True) as server:
        with pytest.raises(OSError, match=r"."):
            fetch(server.url(), timeout_seconds=0.2)
        assert server.sent_bytes < len(server.answer)


async def test_an_unexpected_failure_is_tried_again_too() -> None:
    clock = FakeClock()
    provider = Provider(EC)
    ring = provider.ring(clock)
    await ring.find("ES256")
    provider.keys = (object(),)
    clock.advance(300)
    ring.refresh()
    with pytest.raises(TypeError):
        await finish_tasks()
    provider.keys = (EC,)
    clock.advance(10)
    ring.refresh()
    await finish_tasks()
    assert provider.count == 3


# The configuration


@pytest.fixture
def jwks_file(tmp_path: Path) -> str:
    path = tmp_path / "jwks.json"
    path.write_bytes(make_jwks(RSA))
    return str(path)


GOOD: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE}


def test_a_good_configuration_has_no_problems(settings: Any, jwks_file: str) -> None:
    settings.JWT_SECRET = None
    assert find_jwt_problems(JwtConfig()) == []
    assert find_jwt_problems(JwtConfig(**GOOD, jwks_file=jwks_file)) == []
    for url in ("https://id.example.com/jwks", "http://127.0.0.1:8000/jwks"):
        assert find_jwt_problems(JwtConfig(**GOOD, jwks_url=url)) == []
    settings.JWT_SECRET = SECRET
    assert find_jwt_problems(JwtConfig(**GOOD)) == []


@pytest.mark.parametrize(
    ("changes", "secret", "where"),
    [
        ({}, None, "websocket.jwt: '0 of them'"),
        ({"jwks_file": "x", "jwks_url": "https://e.com/"}, None, "'2 of them'"),
        ({"jwks_url": "https://e.com/"}, SECRET, "'2 of them'"),
        ({"issuer": "", "jwks_url": "https://e.com/"}, None, "websocket.jwt.issuer"),
        ({"audience": ""}, SECRET, "websocket.jwt.audience"),
        ({}, "short", "settings.JWT_SECRET: '5 bytes'"),
        ({"algorithms": ("ES256",)}, SECRET, "websocket.jwt.algorithms"),
        ({"jwks_file": "/nowhere"}, None, "No such file"),
        ({"jwks_url": "http://id.example.com/"}, None, "websocket.jwt.jwks_url"),
        ({"jwks_url": "file:///etc/passwd"}, None, "websocket.jwt.jwks_url"),
        ({"jwks_url": "https://user:pass@e.com/"}, None, "websocket.jwt.jwks_url"),
        ({"jwks_url": "https:///jwks"}, None, "websocket.jwt.jwks_url"),
    ],
)
def test_a_bad_configuration_is_a_config_error(
    settings: Any, changes: dict[str, Any], secret: str | None, where: str
) -> None:
    settings.JWT_SECRET = secret
    config = JwtConfig(**{**GOOD, **changes})
    assert where in str(find_jwt_problems(config)[0])
    with pytest.raises(ConfigError) as refused:
        make_jwt_verifier(config, FakeClock())
    if secret:
        assert repr(secret) not in str(refused.value)


def test_a_file_without_keys_is_named(settings: Any, tmp_path: Path) -> None:
    settings.JWT_SECRET = None
    path = tmp_path / "jwks.json"
    path.write_bytes(make_jwks(RSA.private_jwk))
    config = JwtConfig(**GOOD, jwks_file=str(path))
    assert "a private key" in str(find_jwt_problems(config)[0])


def test_the_check_reports_the_problems(settings: Any) -> None:
    settings.JWT_SECRET = "short"
    settings.WEBSOCKET = {"jwt": {"issuer": ISSUER}}
    assert not get_config().problems
    assert [problem.id for problem in check_jwt()] == ["connections.E002"] * 2
    settings.JWT_SECRET = None
    settings.WEBSOCKET = {}
    assert check_jwt() == []


# In the verifier


@pytest.fixture
async def verifier(
    settings: Any, jwks_file: str, switchable_database: SwitchableDatabase
) -> AsyncIterator[Any]:
    settings.JWT_SECRET = None

    def make(**config: Any) -> tuple[Verifier, SwitchableDatabase]:
        database = switchable_database
        jwt = JwtConfig(**GOOD, jwks_file=jwks_file, **config)
        whole = WebSocketConfig(jwt=jwt)
        return Verifier(database, FakeClock(), whole), database

    yield make


async def test_a_jwt_needs_no_database_unless_it_names_a_user(
    verifier: Callable[..., Any],
) -> None:
    checking, database = verifier()
    database.is_away = True
    credential = await checking.verify_token(RSA.sign())
    assert credential.client_id == "jwt:alice"


@pytest.mark.django_db(transaction=True)
async def test_the_user_of_a_jwt_is_remembered_for_an_outage(
    verifier: Callable[..., Any],
) -> None:
    await database_sync_to_async(User.objects.create_user)("alice")
    checking, database = verifier(user_claim="sub")
    first, second = RSA.sign(), RSA.sign(jti="id-2")
    assert (await checking.verify_token(first)).user.username == "alice"
    database.is_away = True
    assert (await checking.verify_token(first)).user.username == "alice"
    with pytest.raises(Refused) as refused:
        await checking.verify_token(second)
    assert refused.value.close_reason.reason == "unavailable"
