"""Test bans and wrong credentials on live processes."""

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from connections.testing import LiveServer, Servers, read_close, wait_until
from tests.integration.echo import QUICK, assert_alive, open_echo

BANNED = (4003, "banned")


def open_from(address: str, server: LiveServer, token: str) -> connect:
    return open_echo(server, token, local_addr=(address, 0))


async def is_welcome(opening: connect) -> bool:
    """Return True if a connection is served, and False if it is closed."""
    try:
        async with opening as connection:
            await assert_alive(connection)
    except ConnectionClosed:
        return False
    return True


async def test_an_operator_bans_and_lifts(servers: Servers) -> None:
    """Another process bans; the node learns of it with its beat."""
    server = servers.start(config=QUICK)
    alice, bob = server.create_token("alice"), server.create_token("bob")
    of_alice = await open_from("127.0.0.2", server, alice)
    of_bob = await open_from("127.0.0.3", server, bob)
    server.call("ban", "--client", "alice", "--reason", "spam", "--for", "600")
    assert await read_close(of_alice) == BANNED
    assert await read_close(await open_from("127.0.0.4", server, alice)) == BANNED
    server.call("ban", "--address", "::ffff:127.0.0.3")
    assert await read_close(of_bob) == BANNED
    assert await read_close(await open_from("127.0.0.3", server, bob)) == BANNED
    assert await is_welcome(open_from("127.0.0.5", server, bob))
    server.call("unban", "--client", "alice")
    server.call("unban", "--address", "127.0.0.3")

    await wait_until(lambda: is_welcome(open_from("127.0.0.3", server, alice)))
    assert await is_welcome(open_from("127.0.0.3", server, bob))


async def test_a_ban_stands_from_the_first_handshake_on(servers: Servers) -> None:
    """A new node reads the bans before it admits connections."""
    server = servers.make(config={"node__beat_seconds": 5})
    server.call("ban", "--address", "127.0.0.0/30")
    token = server.create_token("alice")
    server.start()
    assert await read_close(await open_from("127.0.0.2", server, token)) == BANNED
    assert await is_welcome(open_from("127.0.0.4", server, token))


@pytest.mark.parametrize("host", ["::", "::1"])
async def test_addresses_of_both_families(servers: Servers, host: str) -> None:
    """A dual-stack socket reports IPv4 clients as ::ffff:127.0.0.2."""
    server = servers.make(config=QUICK, arguments=("--host", host))
    token = server.create_token("alice")
    server.call("ban", "--address", "127.0.0.0/30" if host == "::" else "::1/64")
    server.start(is_ready=False)
    address = "127.0.0.2" if host == "::" else "::1"
    url = f"ws://{'127.0.0.1' if host == '::' else '[::1]'}:{server.port}/ws/echo/"
    headers = {"Authorization": f"Bearer {token}"}

    async def is_up() -> ClientConnection | None:
        try:
            return await connect(
                url, additional_headers=headers, local_addr=(address, 0)
            )
        except OSError:
            return None

    assert await read_close(await wait_until(is_up, seconds=30)) == BANNED


async def test_guessing_is_limited_by_address(servers: Servers) -> None:
    """After the burst, wrong credentials get 4129, and a right one is admitted."""
    config = {
        **QUICK,
        "handshake__failures_per_address_burst": 5,
        # No second guess becomes free while the test runs.
        "handshake__failures_per_address_per_minute": 0.1,
    }
    server = servers.start(config=config)
    token = server.create_token("alice")
    codes = []
    for number in range(5):
        guess = await open_from("127.0.0.2", server, f"guess{number}")
        codes.append(await read_close(guess))
    assert codes == [(4001, "unauthenticated")] * 5
    limited = (4129, "rate_limited")
    assert await read_close(await open_from("127.0.0.2", server, "guess")) == limited
    assert await is_welcome(open_from("127.0.0.2", server, token))
    assert await is_welcome(open_from("127.0.0.3", server, token))
    assert server.log().count("Too many wrong credentials from 127.0.0.2") == 1
