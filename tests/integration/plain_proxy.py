"""Run an nginx that passes on plain HTTP alone, as proxies do that break WebSockets."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from connections.testing import free_port
from connections.testing.waiting import scale
from tests.integration.services import find_program

_CONFIGURATION = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  {paths}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 100m;
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
      {extra}
    }}
  }}
}}
"""
_START_SECONDS = 10
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextlib.contextmanager
def run_plain_proxy(
    folder: Path, upstream: int, extra: str = "", *, port: int | None = None
) -> Iterator[int]:
    """Run a proxy before a server, with other directives; yield its port."""
    port, program = port or free_port(), find_program("nginx", "/usr/sbin")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in _TEMPORARY)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            folder=folder, port=port, upstream=upstream, paths=paths, extra=extra
        )
    )
    process = subprocess.Popen([program, "-c", configuration])
    try:
        deadline = time.monotonic() + scale(_START_SECONDS)
        while not _accepts(port):
            assert time.monotonic() < deadline, "nginx does not listen"
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(scale(10))


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
