"""Run a private nginx with the site of deploy/."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from connections.testing import free_port
from connections.testing.waiting import scale
from tests.integration.services import find_program
from tests.project import ROOT

SITE = ROOT / "deploy" / "nginx" / "orchestra.conf"
_START_SECONDS = 10


class Nginx:
    """A private nginx with the site of deploy/."""

    def __init__(
        self, folder: Path, certificate: tuple[Path, Path], upstream: tuple[int, int]
    ) -> None:
        self.port, self.plain_port = free_port(), free_port()
        self.log = folder / "access.log"
        self._program = find_program("nginx", "/usr/sbin")
        self._configuration = folder / "nginx.conf"
        self._process: subprocess.Popen[bytes] | None = None
        changes = {
            "listen 443 ssl http2;": f"listen 127.0.0.1:{self.port} ssl http2;",
            "listen [::]:443 ssl http2;": "",
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen [::]:80;": "",
            "127.0.0.1:8001": f"127.0.0.1:{upstream[0]}",
            "127.0.0.1:8002": f"127.0.0.1:{upstream[1]}",
            "/etc/ssl/orchestra/fullchain.pem": str(certificate[0]),
            "/etc/ssl/orchestra/privkey.pem": str(certificate[1]),
            "/var/log/nginx/orchestra.log": str(self.log),
        }
        site = SITE.read_text()
        for old, new in changes.items():
            assert site.count(old) == 1, old
            site = site.replace(old, new)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self._configuration.write_text(
            f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
            f"events {{}}\nhttp {{\n{temporary}{site}}}\n"
        )

    def check(self) -> None:
        """Check the configuration by nginx itself."""
        command = (self._program, "-t", "-c", self._configuration)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=scale(30)
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start nginx, and wait until it listens."""
        self._process = subprocess.Popen([self._program, "-c", self._configuration])
        deadline = time.monotonic() + scale(_START_SECONDS)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop nginx and its workers."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(scale(10))


@contextlib.contextmanager
def open_to_workers(folder: Path) -> Iterator[Path]:
    """Let nginx's workers, who are another user, enter a folder; remove it on exit."""
    folder.mkdir()
    owner = folder.owner()
    for parent in (folder, *folder.parents):
        if parent.owner() == owner and parent.is_relative_to("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 and the host of the site, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
        " -addext subjectAltName=IP:127.0.0.1,DNS:chat.example.com"
        f" -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return certificate, key
