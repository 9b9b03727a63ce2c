"""The measured server of `manage.py capacity`, and access tokens for its clients."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError
from django.http.request import validate_host

from connections.capacity.load.generator import Load, LoadFailed
from connections.config.loader import WebSocketConfig, get_config
from connections.credentials import AccessTokens
from connections.credentials.backends import load_backend
from connections.credentials.tokens import issue
from connections.models import AccessToken, Connection
from connections.models.alias import atomic

_PREFIX = "capacity:"
_START_SECONDS = 30
_TOKENS = "connections.credentials.AccessTokens"

_RAISED = {
    "MAX_TOTAL_CONNECTIONS": "1000000",
    "RATE_LIMIT__MESSAGES_PER_SECOND": "1000000",
    "RATE_LIMIT__BURST_MESSAGES": "1000000",
    "RATE_LIMIT__SMALL_FRAMES_PER_SECOND": "1000000",
    "RATE_LIMIT__BURST_SMALL_FRAMES": "1000000",
}
"""Limits raised for the measurement; all other options are as configured."""


@contextmanager
def make_tokens(count: int) -> Iterator[list[str]]:
    """Create access tokens of temporary clients; delete them and their records."""
    prefix = f"{_PREFIX}{secrets.token_hex(4)}:"
    rows = [AccessToken(client_id=f"{prefix}{one}") for one in range(count)]
    try:
        with atomic():
            tokens = [issue(row) for row in rows]
    except DatabaseError as exc:
        raise LoadFailed(f"access tokens could not be created: {exc}") from exc
    try:
        yield tokens
    finally:
        AccessToken.objects.filter(client_id__startswith=prefix).delete()
        Connection.objects.filter(client_id__startswith=prefix).delete()


@contextmanager
def start_server(port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """Run manage.py serve with this project's settings on a port."""
    raised = {f"WEBSOCKET__{key}": value for key, value in _RAISED.items()}
    environment = {
        **os.environ,
        **raised,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "DJANGO_SETTINGS_MODULE": settings.SETTINGS_MODULE,
    }
    # The environment names the settings, so that any project can be measured.
    command = [sys.executable, "-m", "django", "serve", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--no-sweeper"],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=Path.cwd(),
        )
        try:
            if not _is_ready(process, port):
                log.seek(0)
                text = log.read().decode(errors="replace")[-2000:]
                raise LoadFailed(f"the server did not start: {text}")
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _is_ready(process: "subprocess.Popen[bytes]", port: int) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(port, max(1, deadline - time.monotonic())):
            return True
        time.sleep(0.1)
    return False


def _answers(port: int, seconds: float) -> bool:
    """
    Return True if a server answers within some seconds, whatever it answers.

    The project need not have the URL, nor allow this Host, and may redirect all
    requests to TLS. No proxy of the environment stands between.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", "/livez")
        connection.getresponse()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True


def choose_host(address: str, port: int) -> str:
    """
    Return the Host of the handshakes: the address, or a host that is allowed.

    In production ALLOWED_HOSTS holds names alone, and another Host is refused.
    """
    allowed = settings.ALLOWED_HOSTS
    if not allowed or validate_host(address, allowed):
        return f"{address}:{port}"
    return str(allowed[0]).removeprefix(".")


def require_tokens(config: WebSocketConfig) -> None:
    """
    Check that handshakes are admitted with the tokens of make_tokens().

    Raises:
        LoadFailed: no credential backend reads them.
        ConfigError: a credential backend cannot be used.
    """
    paths = config.credential_backends
    reads = any(isinstance(load_backend(path), AccessTokens) for path in paths)
    if reads or config.anonymous:
        return
    raise LoadFailed(
        f"credential_backends has no {_TOKENS}, so handshakes with the tokens of the"
        " measurement would be refused with 4001. Add it, for the measurement alone"
        " with the variable WEBSOCKET__CREDENTIAL_BACKENDS="
        f"'[{', '.join([_TOKENS, *paths])}]'"
    )


def measure_drain(load: Load, server: "subprocess.Popen[bytes]") -> float:
    """Return how many seconds the server takes to drain and exit."""
    if server.poll() is not None:
        raise LoadFailed(f"the server has exited with status {server.returncode}")
    started = time.monotonic()
    server.send_signal(signal.SIGTERM)
    deadline = started + get_config().drain.grace_seconds + 30
    while server.poll() is None:
        load.do("rest", seconds=0.2)
        if time.monotonic() > deadline:
            raise LoadFailed("the server did not exit after SIGTERM")
    return time.monotonic() - started
