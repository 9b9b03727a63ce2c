"""The undocumented names of daphne, Twisted and websockets: one test for each."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.tcp import Connection
from twisted.web.http import HTTPChannel

from connections.dependencies import ForeignName, require_names
from connections.exceptions import IncompatibleDependency
from connections.server import compat


@pytest.fixture
def transport() -> Any:
    """Return a plain TCP transport of Twisted's and the socket of its peer."""
    ours, peer = socket.socketpair()
    made = Connection(ours, None, reactor)
    made.connected = True
    yield SimpleNamespace(twisted=made, peer=peer)
    made.stopReading()
    made.stopWriting()
    ours.close()
    peer.close()


@pytest.mark.parametrize("name", compat.REQUIRED_NAMES, ids=lambda name: name.path)
def test_an_installed_package_has_the_name(name: ForeignName) -> None:
    assert name.exists(), (
        f"{name.package} no longer has {name.path}: adapt connections/server/compat.py,"
        " or bound the version in pyproject.toml"
    )


def test_a_missing_name_is_an_error_that_names_package_version_and_name() -> None:
    missing = ForeignName("Twisted", "twisted.web.http:HTTPChannel._gone")
    with pytest.raises(IncompatibleDependency) as raised:
        require_names([*compat.REQUIRED_NAMES, missing])
    assert raised.value.package == "Twisted"
    assert raised.value.missing == ("twisted.web.http:HTTPChannel._gone",)
    assert f"Twisted {raised.value.version} cannot be used" in str(raised.value)


def test_nothing_is_served_without_a_name(tmp_path: Path) -> None:
    """manage.py serve says what is missing; without the check bytes would be lost."""
    program = (
        "from twisted.web import http\n"
        "del http.HTTPChannel.requestDone\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(['manage.py', 'serve', '--port', '0'])\n"
    )
    database = f"sqlite:///{tmp_path}/db.sqlite3"
    settings = {
        "DATABASE_URL": database,
        "DJANGO_SETTINGS_MODULE": "orchestra.settings",
    }
    environment = {**os.environ, **settings, "DEBUG": "true"}
    migrate = [sys.executable, "manage.py", "migrate", "-v", "0"]
    subprocess.run(migrate, env=environment, check=True)
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "nothing is served: Twisted " in ended.stderr
    assert "HTTPChannel.requestDone" in ended.stderr


@pytest.mark.parametrize(
    "path", ["twisted.gone:Name", "twisted.web.http:Gone.name", "twisted.web.http:gone"]
)
def test_a_name_is_missing_wherever_its_path_breaks(path: str) -> None:
    assert not ForeignName("Twisted", path).exists()


def test_unsent_bytes_are_counted_in_all_buffers_of_twisted(transport: Any) -> None:
    twisted = transport.twisted
    assert compat.count_unsent_bytes(twisted) == 0
    twisted.write(b"abc")
    assert compat.count_unsent_bytes(twisted) == 3, (
        "Twisted keeps unsent bytes elsewhere: send_high_water would never be reached"
    )


def test_a_detached_socket_brings_every_unsent_byte(transport: Any) -> None:
    twisted = transport.twisted
    transport.peer.setblocking(False)
    twisted.write(b"a" * 1_000_000)
    twisted.doWrite()
    twisted.write(b"the end")
    sock, unsent = compat.detach_socket(twisted)
    received = 0
    with sock:
        assert unsent.endswith(b"the end")
        while received < 1_000_000 - len(unsent) + 7:
            received += len(transport.peer.recv(65_536))
    assert received + len(unsent) == 1_000_007, "bytes were lost in the hand-over"
    assert twisted.socket.fileno() == -1


def test_twisted_calls_ours_for_a_request_that_cannot_be_parsed() -> None:
    class Channel(compat.PublicHttpChannel):
        refused = 0

        def refuse_bad_request(self) -> None:
            self.refused += 1

    channel = Channel()
    assert not channel.is_handling_request
    channel.headerReceived(b"no colon")
    assert channel.refused == 1, (
        "Twisted answers a bad request without "
        "HTTPChannel._respondToBadRequestAndDisconnect"
    )
    assert isinstance(channel, HTTPChannel)


def test_a_request_knows_that_its_response_has_started() -> None:
    server = SimpleNamespace(
        protocol_connected=lambda _: None, server_name="", connections={}
    )
    channel = SimpleNamespace(
        factory=SimpleNamespace(server=server),
        site=None,
        transport=None,
        getPeer=lambda: None,
        getHost=lambda: None,
    )
    request = compat.DaphneRequest(channel)
    assert not compat.has_response_started(request)
    request.client_addr = None
    request.handle_reply({"type": "http.response.start", "status": 200})
    assert compat.has_response_started(request), (
        "daphne no longer notes http.response.start in WebRequest._response_started"
    )


def test_the_reactor_runs_on_an_event_loop_of_asyncio() -> None:
    assert compat.get_event_loop().time() > 0


def test_the_command_line_makes_the_server_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from daphne.cli import CommandLineInterface

    monkeypatch.setattr(CommandLineInterface, "server_class", None)
    monkeypatch.setattr(sys, "path", [*sys.path])  # daphne adds "."

    class Server:
        abort_start = False

        def __init__(self, **options: Any) -> None:
            self.options = options

        def run(self) -> None:
            served.append(self.options)

    served: list[dict[str, Any]] = []
    compat.set_server_class(Server)
    CommandLineInterface().run(["tests.connections.test_server_compat:application"])
    assert served and served[0]["endpoints"]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Stand for an ASGI application that daphne imports by name."""


def test_websockets_masks_in_c() -> None:
    """Without it frames.py masks in Python, about ten times as slowly."""
    apply_mask = compat.find_mask_function()
    assert apply_mask is not None, "websockets.speedups has no apply_mask any more"
    assert apply_mask(b"abcde", b"\x01\x02\x03\x04") == b"``" + b"``" + b"d"
