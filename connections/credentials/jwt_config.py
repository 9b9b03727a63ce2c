"""Check the configuration of JWTs, and make the verifier."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from django.conf import settings

from connections.config.auth_sections import JwtConfig
from connections.config.fields import Problem
from connections.exceptions import ConfigError
from connections.units import Clock

if TYPE_CHECKING:
    from connections.credentials.jwt import JwtVerifier
    from connections.credentials.jwt_keys import Key

_PATH = "websocket.jwt"
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def is_configured(config: JwtConfig) -> bool:
    """Return True if JWTs are configured."""
    return config != JwtConfig() or bool(_get_secret())


def find_jwt_problems(config: JwtConfig) -> list[Problem]:
    """Return the problems of the configuration of JWTs, each with its key."""
    if not is_configured(config):
        return []
    problems = [
        Problem(f"{_PATH}.{name}", "", "needed: the claim that tokens must have")
        for name in ("issuer", "audience")
        if not getattr(config, name)
    ]
    sources = [config.jwks_file, config.jwks_url, _get_secret()]
    if sum(map(bool, sources)) != 1:
        allowed = "one of jwks_file, jwks_url, or JWT_SECRET of Django's settings"
        problems.append(Problem(_PATH, f"{sum(map(bool, sources))} of them", allowed))
        return problems
    try:
        from connections.credentials import jwt_keys
    except ImportError as exc:
        allowed = "pip install 'pyjwt[crypto]'"
        return [*problems, Problem(_PATH, str(exc), allowed)]
    secret = _get_secret().encode()
    if secret and len(secret) < jwt_keys.LEAST_SECRET_BYTES:
        allowed = f"at least {jwt_keys.LEAST_SECRET_BYTES} random bytes"
        problems.append(Problem("settings.JWT_SECRET", f"{len(secret)} bytes", allowed))
    if secret and "HS256" not in config.algorithms:
        allowed = "HS256 among them, because settings.JWT_SECRET is set"
        problems.append(Problem(f"{_PATH}.algorithms", config.algorithms, allowed))
    if config.jwks_file:
        try:
            _load_file(config)
        except (OSError, ValueError) as exc:
            allowed = f"a JWKS with a key that can be used ({exc})"
            problems.append(Problem(f"{_PATH}.jwks_file", config.jwks_file, allowed))
    if config.jwks_url and not _is_safe(config.jwks_url):
        allowed = "an https:// URL without a user (http:// on this machine)"
        problems.append(Problem(f"{_PATH}.jwks_url", config.jwks_url, allowed))
    return problems


def require_valid_jwt(config: JwtConfig) -> None:
    """
    Check the configuration of JWTs.

    Raises:
        ConfigError: it has problems; all are named.
    """
    problems = find_jwt_problems(config)
    if problems:
        raise ConfigError("the configuration of JWTs", problems)


def make_jwt_verifier(
    config: JwtConfig, clock: Clock = time.monotonic
) -> JwtVerifier | None:
    """
    Return the verifier of JWTs, or None if JWTs are not configured.

    Raises:
        ConfigError: their configuration has problems.
    """
    if not is_configured(config):
        return None
    require_valid_jwt(config)
    from connections.credentials.jwt import JwtVerifier
    from connections.credentials.jwt_keys import KeyRing

    def load() -> tuple[Key, ...]:
        return _load(config)

    ring = KeyRing(
        load,
        refresh_seconds=config.refresh_seconds,
        refetch_seconds=config.refetch_seconds,
        clock=clock,
    )
    return JwtVerifier(config, ring)


def _load(config: JwtConfig) -> tuple[Key, ...]:
    from connections.credentials.jwt_keys import fetch, make_secret_key, read_keys

    if config.jwks_file:
        return _load_file(config)
    if config.jwks_url:
        document = fetch(config.jwks_url)
        return read_keys(document, config.algorithms, may_hold_secrets=False)
    return (make_secret_key(_get_secret()),)


def _load_file(config: JwtConfig) -> tuple[Key, ...]:
    from connections.credentials.jwt_keys import read_keys

    document = Path(config.jwks_file).read_bytes()
    return read_keys(document, config.algorithms, may_hold_secrets=True)


def _get_secret() -> str:
    return getattr(settings, "JWT_SECRET", None) or ""


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    is_local = parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS
    return bool((parts.scheme == "https" and parts.hostname) or is_local) and (
        "@" not in parts.netloc
    )
