"""Test how work of a test finds its thread."""

import subprocess
import sys

import pytest

from connections.testing.waiting import scale
from tests.project import ROOT

FORK = """
import asyncio, os, threading
import django
from asgiref.sync import sync_to_async
from connections.testing.waiting import scale

django.setup()
find = sync_to_async(threading.get_ident)
asyncio.run(find())
child = os.fork()
if child == 0:
    asyncio.run(asyncio.wait_for(find(), scale(20)))
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.slow
def test_a_forked_process_has_a_thread_for_synchronous_code() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=scale(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
