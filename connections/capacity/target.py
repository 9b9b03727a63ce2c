"""The measured server of `manage.py capacity`, and access tokens for its clients."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError

from connections.capacity.load.generator import Load, LoadFailed
from connections.config.loader import get_config
from connections.credentials.tokens import issue
from connections.models import AccessToken, Connection
from connections.models.alias import atomic

_PREFIX = "capacity:"
_START_SECONDS = 30

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
        with suppress(OSError, urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=2).close()
            return True
        time.sleep(0.1)
    return False


def measure_drain(load: Load, server: "subprocess.Popen[bytes]") -> float:
    """Return how many seconds the server takes to drain and exit."""
    started = time.monotonic()
    server.send_signal(signal.SIGTERM)
    deadline = started + get_config().drain.grace_seconds + 30
    while server.poll() is None:
        load.do("rest", seconds=0.2)
        if time.monotonic() > deadline:
            raise LoadFailed("the server did not exit after SIGTERM")
    return time.monotonic() - started
