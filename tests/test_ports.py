"""Test that a port which a test holds is for its own server alone."""

import socket
import sys

import pytest

from tests.integration.ports import hold_port

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="NOT RUN: ports are held on Linux alone"
)


class Owner:
    """Whatever has a port."""


def test_a_held_port_refuses_others_and_lets_its_server_listen() -> None:
    owner = Owner()
    address = ("127.0.0.1", hold_port(owner))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)
    for _ in range(2):
        with socket.create_server(address), socket.create_connection(address):
            pass


def test_a_port_is_free_when_its_owner_is_gone() -> None:
    owner = Owner()
    address = ("127.0.0.1", hold_port(owner))
    del owner
    with socket.socket() as other:
        other.bind(address)
