"""Test the PostgreSQL layer through outages; two layers stand for two nodes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from connections.layers.broadcast import BROADCAST
from connections.layers.postgres import PostgresLayer
from connections.testing import Proxy, wait_until
from connections.testing.waiting import scale
from tests.connections.layer_database import LayerDatabase
from tests.integration.layer_member import Member, send_until_heard
from tests.integration.pgbouncer import PgBouncer
from tests.integration.services import PostgresProcess

MakeLayer = Callable[..., PostgresLayer]

LISTENERS = "query LIKE '%LISTEN%' OR query = 'SELECT 1'"


@pytest.fixture(scope="module")
def database() -> Iterator[LayerDatabase]:
    """A private PostgreSQL, for these tests to break."""
    server = PostgresProcess()
    try:
        yield LayerDatabase(server.create(), "layers")
    finally:
        server.remove()


@pytest.fixture
async def make_layer(database: LayerDatabase) -> AsyncIterator[MakeLayer]:
    made: list[PostgresLayer] = []

    def make(**options: Any) -> PostgresLayer:
        options = {"timeout_seconds": scale(1), **options}
        made.append(database.make_layer(**options))
        return made[-1]

    yield make
    for layer in made:
        await layer.flush()


@pytest.fixture
def layers(make_layer: MakeLayer) -> list[PostgresLayer]:
    """The layers of two nodes."""
    return [make_layer(), make_layer()]


async def send_numbers(layer: PostgresLayer, *numbers: int) -> None:
    for n in numbers:
        await layer.group_send("g", {"type": "n", "n": n})


async def test_members_on_two_nodes_and_a_restart(
    database: LayerDatabase, layers: list[PostgresLayer]
) -> None:
    """Members get each message once; after the restart they get a gap, and continue."""
    members = [await Member(layers[index % 2]).open("g") for index in range(200)]
    await send_numbers(layers[0], *range(5))
    await wait_until(lambda: all(len(one.numbers) == 5 for one in members))
    database.server.kill()
    await send_numbers(layers[0], 5)
    database.server.start()
    await send_until_heard(layers[1], "g", *members)
    await send_until_heard(layers[0], "g", *members, kind="again")
    await wait_until(lambda: all(one.gaps for one in members))
    await send_numbers(layers[0], 6)
    await wait_until(lambda: all(one.numbers[-1:] == [6] for one in members))
    assert all(one.numbers == [0, 1, 2, 3, 4, 6] for one in members)
    assert all(one.is_alive for one in members)
    assert layers[0].dropped > 0
    for one in members:
        await one.close()


async def test_a_lost_listening_connection_is_a_gap_of_its_node(
    database: LayerDatabase, layers: list[PostgresLayer]
) -> None:
    member = await Member(layers[0]).open("g")
    await send_numbers(layers[1], 0)
    await wait_until(lambda: member.numbers == [0])
    with database.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE pid <> pg_backend_pid() AND ({LISTENERS})".encode()
        )
    await wait_until(lambda: member.gaps == [None])
    await send_numbers(layers[1], 1)
    await wait_until(lambda: member.numbers == [0, 1])
    await member.close()


async def test_a_listener_on_a_silent_link_is_replaced_at_once(
    database: LayerDatabase, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """psycopg does not wait for PostgreSQL to confirm that a statement ended."""
    async with Proxy(database.server.port) as proxy:
        url = database.server.url(database.name)
        through = url.replace(str(database.server.port), str(proxy.port))
        receiving = make_layer(listen_url=through)
        member = await Member(receiving).open("g")
        await send_numbers(make_layer(), 0)
        await wait_until(lambda: member.numbers == [0])
        proxy.silence()
        await wait_until(lambda: member.gaps == [None], 30)
        await send_until_heard(make_layer(), "g", member)
        assert [one for one in caplog.records if one.name == "psycopg"] == []
        await member.close()
        await receiving.flush()


async def test_a_sender_reports_what_it_could_not_send(
    database: LayerDatabase, make_layer: MakeLayer
) -> None:
    """The listeners notice nothing; the sender reports its dropped messages."""
    async with Proxy(database.server.port) as proxy:
        sending = make_layer(port=proxy.port)
        member = await Member(make_layer()).open("g")
        await send_numbers(sending, 0)
        await wait_until(lambda: member.numbers == [0])
        proxy.loses_requests = True
        await send_numbers(sending, 1, 2, 3)
        proxy.loses_requests = False
        proxy.reset()
        await wait_until(lambda: member.gaps == [3])
        assert sending.dropped == 3
        await send_until_heard(sending, "g", member)
        await member.close()
        await sending.flush()


async def test_sending_while_postgresql_is_away_is_quick_and_logged_once(
    database: LayerDatabase,
    make_layer: MakeLayer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = make_layer()
    await layer.group_send("g", {"type": "x"})
    database.server.pause()
    try:
        with caplog.at_level(logging.WARNING):
            # Only the first send waits for PostgreSQL.
            async with asyncio.timeout(scale(20)):
                for _ in range(50):
                    await layer.group_send("g", {"type": "x"})
    finally:
        database.server.resume()
    assert layer.dropped == 50
    downs = [one for one in caplog.records if "is down" in one.getMessage()]
    assert len(downs) == 1


async def test_a_consumer_reaches_its_own_channel_without_postgresql(
    database: LayerDatabase, layers: list[PostgresLayer]
) -> None:
    database.server.kill()
    try:
        member = await Member(layers[0]).open()
        await layers[0].send(member.channel, {"type": "n", "n": 1})
        await wait_until(lambda: member.numbers == [1])
        await member.close()
    finally:
        database.server.start()


async def test_a_channel_of_another_node_is_reached(
    layers: list[PostgresLayer],
) -> None:
    member = await Member(layers[0]).open()
    await layers[1].send(member.channel, {"type": "n", "n": 1})
    await wait_until(lambda: member.numbers == [1])
    await member.close()


async def test_a_full_channel_of_this_process_is_refused(
    make_layer: MakeLayer,
) -> None:
    """A sender elsewhere cannot know, so the reader finds a gap."""
    layer, elsewhere = make_layer(capacity=2), make_layer()
    channel = await layer.new_channel()
    for n in range(3):
        await elsewhere.send(channel, {"type": "n", "n": n})
    await wait_until(lambda: layer.dropped == 1)
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"type": "n", "n": 4})
    assert [(await layer.receive(channel)).get("n") for _ in range(2)] == [0, 1]
    assert await layer.receive_any(channel) == {"type": "channel.gap", "missed": 1}


async def test_equal_messages_that_are_sent_at_once_all_arrive(
    make_layer: MakeLayer,
) -> None:
    """NOTIFY sends equal messages of one transaction once."""
    member = await Member(make_layer(capacity=1000)).open("g")
    sending = make_layer()
    await asyncio.gather(*(send_numbers(sending, 7) for _ in range(600)))
    await wait_until(lambda: len(member.numbers) == 600)
    assert member.gaps == []
    await member.close()


CONTENTS: list[Any] = [
    "x" * 100_000,
    "é\x00\U0001f600'\\",
    b"\x00\xff" * 10_000,
    {"a": [1, None, True, 2.5], "b": {"c": b""}},
    {"0011223344556677": "AAAA", "\x00bytes": "AAAA"},
]


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
async def test_messages_arrive_as_they_were(
    layers: list[PostgresLayer], content: Any
) -> None:
    """Long ones are rows, which all nodes read; in order with short ones."""
    members = [await Member(one).open("g") for one in layers]
    await send_numbers(layers[0], 1)
    await layers[0].group_send("g", {"type": "x", "content": content})
    await send_numbers(layers[0], 2)
    await wait_until(lambda: all(one.numbers == [1, 2] for one in members))
    for member in members:
        assert member.messages[1] == {"type": "x", "content": content}
        await member.close()


async def test_a_message_that_json_cannot_hold_is_refused(
    layers: list[PostgresLayer],
) -> None:
    with pytest.raises(TypeError, match="set"):
        await layers[0].group_send("g", {"type": "x", "content": {1}})


@pytest.mark.parametrize("payload", ["", "0", "99999", "0 asgi__group__g", "0 x [1]"])
async def test_a_foreign_notification_stops_no_member(
    database: LayerDatabase, layers: list[PostgresLayer], payload: str
) -> None:
    member = await Member(layers[0]).open("g")
    with database.connect() as connection:
        connection.execute("SELECT pg_notify('orchestra:layer:asgi', %s)", [payload])
    await send_numbers(layers[1], 1)
    await wait_until(lambda: member.numbers == [1])
    await member.close()


OLD, NEW, FOREIGN = ("old" * 11, "new" * 11, "foreign" * 6)


async def test_keys_encrypt_and_are_rotated(
    database: LayerDatabase, make_layer: MakeLayer
) -> None:
    """A message under another key, or under none, is a gap."""
    receiving = make_layer(symmetric_encryption_keys=[NEW, OLD])
    member = await Member(receiving).open("g")
    long = "secret" * 2000
    for keys in ([OLD], [NEW]):
        sending = make_layer(symmetric_encryption_keys=keys)
        await sending.group_send("g", {"type": "n", "n": 1, "text": long})
    await wait_until(lambda: member.numbers == [1, 1])
    assert member.gaps == []
    with database.connect() as connection:
        rows = connection.execute("SELECT payload FROM connections_bus_message")
        assert not [one for (one,) in rows if "secret" in one]
    for keys in ([FOREIGN], []):
        sending = make_layer(symmetric_encryption_keys=keys)
        await send_numbers(sending, 2)
    await send_numbers(receiving, 3)
    await wait_until(lambda: member.numbers == [1, 1, 3])
    assert member.gaps and set(member.gaps) == {None}
    await member.close()


@pytest.mark.parametrize("keys", [[""], "text", [1]])
def test_wrong_keys_are_refused(database: LayerDatabase, keys: Any) -> None:
    with pytest.raises(ValueError, match="symmetric_encryption_keys"):
        database.make_layer(symmetric_encryption_keys=keys)


async def test_layers_of_other_prefixes_are_apart(make_layer: MakeLayer) -> None:
    one, two = make_layer(), make_layer(prefix="other")
    member = await Member(one).open("g")
    await send_numbers(two, 1)
    await send_numbers(one, 2)
    await wait_until(lambda: member.numbers == [2])
    await member.close()


async def test_a_broadcast_keeps_its_place_among_group_messages(
    layers: list[PostgresLayer],
) -> None:
    member = await Member(layers[0]).open("g")
    await send_numbers(layers[1], 1)
    for content in ({"text": "a"}, {"bytes": b"\x00"}):
        await layers[1].group_send("g", {"type": BROADCAST, "version": 1, **content})
    await send_numbers(layers[1], 2)
    await wait_until(lambda: member.numbers == [1, 2])
    prepared = [one["prepared"].payload for one in member.messages[1:3]]
    assert prepared == [b"a", b"\x00"]
    await member.close()


async def test_sync_code_sends_from_several_threads(
    layers: list[PostgresLayer],
) -> None:
    member = await Member(layers[0]).open("g")

    def send(n: int) -> None:
        async_to_sync(layers[1].group_send)("g", {"type": "n", "n": n})

    await asyncio.gather(*(asyncio.to_thread(send, n) for n in range(8)))
    await wait_until(lambda: sorted(member.numbers) == list(range(8)))
    await member.close()


# Behind a pooler


@pytest.fixture
def bouncer(database: LayerDatabase) -> Iterator[PgBouncer]:
    bouncer = PgBouncer(database.server)
    yield bouncer
    bouncer.remove()


@pytest.fixture
async def polling(
    database: LayerDatabase, make_layer: MakeLayer, bouncer: PgBouncer
) -> PostgresLayer:
    await wait_until(lambda: bouncer.answers(database.name))
    return make_layer(
        port=bouncer.port, listen_url=bouncer.url(database.name), poll_seconds=0.05
    )


async def test_a_process_behind_a_pooler_polls(
    polling: PostgresLayer, make_layer: MakeLayer
) -> None:
    """It gets what all others send, long messages too, in order."""
    other = make_layer()
    members = [await Member(one).open("g") for one in (polling, other)]
    for n in range(20):
        await (polling if n % 2 else other).group_send(
            "g", {"type": "n", "n": n, "text": "x" * (n % 3) * 9000}
        )
    await wait_until(lambda: all(len(one.numbers) == 20 for one in members))
    for member in members:
        assert member.numbers == list(range(20))
        assert member.gaps == []
        await member.close()


async def test_a_poller_that_was_forgotten_reports_a_gap(
    database: LayerDatabase, polling: PostgresLayer
) -> None:
    """As after a crash, which empties the tables, and after a long stall."""
    member = await Member(polling).open("g")
    await send_numbers(polling, 0)
    await wait_until(lambda: member.numbers == [0])
    with database.connect() as connection:
        connection.execute(
            "TRUNCATE connections_layer_message, connections_layer_poller"
            " RESTART IDENTITY"
        )
    await wait_until(lambda: member.gaps == [None])
    await send_numbers(polling, 1)
    await wait_until(lambda: member.numbers == [0, 1])
    await member.close()


async def test_without_pollers_no_message_is_a_row(
    database: LayerDatabase, layers: list[PostgresLayer]
) -> None:
    with database.connect() as connection:
        connection.execute("TRUNCATE connections_layer_message")
        connection.execute("DELETE FROM connections_layer_poller")
        member = await Member(layers[0]).open("g")
        await send_numbers(layers[1], 1)
        await wait_until(lambda: member.numbers == [1])
        row = connection.execute("SELECT count(*) FROM connections_layer_message")
        assert row.fetchone() == (0,)
    await member.close()
