"""Test that a process without OpenTelemetry and Sentry imports neither."""

import subprocess
import sys

from tests.project import ROOT

_SOURCE = """
import os, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("opentelemetry", "sentry_sdk"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
os.environ["DJANGO_SETTINGS_MODULE"] = "orchestra.settings"
import asyncio
import django
django.setup()
import sessions_history.consumers, sessions_history.writer
from connections.telemetry.carrier import get_traceparent
from connections.testing.communicators import make_node
from tests.connections.conversations import Echo, open_connection

async def converse():
    communicator = await open_connection(Echo, make_node())
    await communicator.send_to(text_data="x")
    assert await communicator.receive_from() == "x"
    assert get_traceparent() == ""
    await communicator.disconnect()

asyncio.run(converse())
print("done")
"""


def test_a_connection_is_served_where_neither_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SOURCE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr
