"""Test script/server in the environment of script/test."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from connections.testing import free_port, read_close, wait_until
from connections.testing.waiting import scale
from tests.integration.echo import assert_alive
from tests.project import ROOT

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv" / "installed-requirements").exists(),
    reason="script/test has not made .venv; script/server would install it now",
)


class Started:
    """A running script/server, started from another folder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "log"
        environment = {
            **os.environ,
            "PORT": str(self.port),
            "ORCHESTRA_VAR": str(folder),
        }
        environment.pop("DEBUG", None)
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [ROOT / "script" / "server"],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=output,
            )

    def log(self) -> str:
        """Return its output."""
        return self._log.read_text()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    started = Started(tmp_path)
    yield started
    if started.process.poll() is None:
        started.process.kill()
    started.process.wait(scale(10))


async def test_its_output_suffices_to_connect(started: Started) -> None:
    """Six connections with the token exceed the limit by one."""
    connecting = re.compile(r"(ws://\S+) --token (\S+)\n")
    await wait_until(
        lambda: connecting.search(started.log()) or started.process.poll() is not None,
        seconds=60,
    )
    found = connecting.search(started.log())
    assert found, started.log()
    headers = {"Authorization": f"Bearer {found[2]}"}
    opened = [await connect(found[1], additional_headers=headers) for _ in range(6)]
    assert (await read_close(opened[0]))[0] == 4005
    for connection in opened[1:]:
        await assert_alive(connection)
        await connection.close()
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(scale(40)) == 0
