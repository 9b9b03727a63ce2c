"""A private PgBouncer in transaction mode."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

from connections.testing.waiting import scale
from tests.integration.ports import hold_port
from tests.integration.services import PostgresProcess, find_program


class PgBouncer:
    """One PgBouncer in transaction mode; it refuses to run as root."""

    def __init__(self, postgres: PostgresProcess, *settings: str) -> None:
        program = find_program("pgbouncer", "/usr/sbin")
        self.port = hold_port(self)
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        file = self._folder / "pgbouncer.ini"
        lines = [
            "[databases]",
            f"* = host=127.0.0.1 port={postgres.port}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = any",
            "pool_mode = transaction",
            "default_pool_size = 5",
            *settings,
        ]
        # With "any" everybody is the user of the database's own line.
        lines[1] += " user=orchestra"
        file.write_text("\n".join(lines))
        user = "nobody" if os.geteuid() == 0 else None
        if user:
            account = pwd.getpwnam(user)
            for path in (self._folder, file):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._process = subprocess.Popen(
            [program, file],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=user,
            extra_groups=[] if user else None,
        )

    def url(self, database: str) -> str:
        return f"postgres://orchestra@127.0.0.1:{self.port}/{database}"

    def answers(self, database: str) -> bool:
        try:
            psycopg.connect(self.url(database), connect_timeout=round(scale(2))).close()
        except psycopg.OperationalError:
            return False
        return True

    def remove(self) -> None:
        self._process.kill()
        self._process.wait(scale(10))
        shutil.rmtree(self._folder, ignore_errors=True)
