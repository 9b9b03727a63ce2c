"""
Test tools for projects: real servers, misbehaving clients, controlled time.

    # conftest.py
    pytest_plugins = ["connections.testing.plugin"]
"""

from connections.capacity.load.procfs import free_port
from connections.testing.assertions import (
    LOST,
    Closing,
    assert_closed,
    assert_evicted,
    assert_open,
    read_close,
)
from connections.testing.clock import FakeClock
from connections.testing.peers import AttentiveClient, DeadPeer, Flooder, SlowClient
from connections.testing.processes import LiveServer, StartFailed
from connections.testing.proxy import Proxy
from connections.testing.raw_client import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    RESET,
    TEXT,
    Frame,
    RawClient,
    build_frame,
    build_request,
)
from connections.testing.servers import Servers
from connections.testing.waiting import wait_until

__all__ = [
    "BINARY",
    "CLOSE",
    "LOST",
    "PING",
    "PONG",
    "RESET",
    "TEXT",
    "AttentiveClient",
    "Closing",
    "DeadPeer",
    "FakeClock",
    "Flooder",
    "Frame",
    "LiveServer",
    "Proxy",
    "RawClient",
    "Servers",
    "SlowClient",
    "StartFailed",
    "assert_closed",
    "assert_evicted",
    "assert_open",
    "build_frame",
    "build_request",
    "free_port",
    "read_close",
    "wait_until",
]
