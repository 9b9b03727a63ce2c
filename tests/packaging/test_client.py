"""Run the Python client in an environment with `websockets` alone."""

from pathlib import Path

import pytest

from connections.testing import Servers
from tests.packaging.conftest import Built
from tests.packaging.environments import Environment, run_python

IMPORT = """
import sys
from connections.client import SessionClient
unwanted = {"channels", "django", "twisted", "daphne"} & {*sys.modules}
assert not unwanted, unwanted
print(SessionClient.__name__)
"""


@pytest.fixture
def environment(either: Built, tmp_path: Path) -> Environment:
    made = Environment(tmp_path / "venv", either.wheel)
    made.copy_package("websockets")
    return made


def test_the_client_talks_to_a_server_with_websockets_alone(
    environment: Environment, servers: Servers
) -> None:
    python = environment.python
    assert run_python("-c", IMPORT, python=python) == "SessionClient\n"
    server = servers.start()
    received = run_python(
        *("-m", "connections.client", f"{server.ws_url}/ws/echo/"),
        *("--token", server.create_token()),
        python=python,
        text="hello\n",
    )
    assert "hello" in received
