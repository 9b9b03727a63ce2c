"""Test the counts of the top clients, addresses and routes."""

import asyncio
import json
import random
from collections import Counter
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from connections.consumers import LimitedConsumer
from connections.dashboard.snapshot import take_snapshot
from connections.hub.hub import Hub
from connections.management.top import ask_nodes, describe, rank_all, tabulate
from connections.metrics.space_saving import SpaceSaving
from connections.models import NodePicture
from connections.node.live_state import encode
from connections.node.node import Node as RunningNode
from connections.node.top import (
    CAPACITY,
    MOST_MINUTES,
    TopCounter,
    decode_report,
    encode_report,
    rank,
)
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_config
from tests.connections.dashboard_pages import EVIL, URL, make_staff
from tests.connections.live_connections import make_connection
from tests.connections.live_states import make_state, store_states
from tests.connections.rows import make_node_row

KEYS = st.sampled_from("abcdefghij")


@given(st.lists(st.tuples(KEYS, st.integers(1, 9)), max_size=60), st.integers(1, 6))
def test_a_count_lies_within_its_error(
    stream: list[tuple[str, int]], capacity: int
) -> None:
    """Also of a key that is absent, and whether keys come alone or together."""
    sketch = SpaceSaving(capacity)
    truth = Counter[str]()
    for index, (key, amount) in enumerate(stream):
        if index % 3:
            sketch.add(key, amount)
            truth[key] += amount
        else:
            together = {key: amount, "z": 1, "y": 2}
            sketch.add_all(together)
            truth.update(together)
    rows = {key: (count, error) for key, count, error in sketch.list()}
    assert len(rows) <= capacity and sketch.total == truth.total()
    for key, count in truth.items():
        if key in rows:
            assert rows[key][0] - rows[key][1] <= count <= rows[key][0]
        else:
            assert count <= sketch.floor


class Wall:
    """A clock of minutes."""

    def __init__(self) -> None:
        self.minute = 100

    def __call__(self) -> float:
        return self.minute * 60.0


def send(hub: Hub, connection_id: str, messages: int, size: int = 10) -> None:
    """Count messages of a connection."""
    one = hub.get(connection_id)
    assert one is not None
    one.messages_in += messages
    one.bytes_in += messages * size


async def test_a_pass_counts_what_is_new_by_client_address_and_route() -> None:
    hub, wall = Hub(), Wall()
    top = TopCounter(hub, wall)
    for name, address in (("a", "192.0.2.1"), ("b", "192.0.2.1"), ("c", "192.0.2.9")):
        one = make_connection(name, client_id=name, address=address, route="ws/")
        hub.join(one)
    send(hub, "a", 5)
    send(hub, "c", 90)
    await top.count()
    send(hub, "a", 5)
    await top.count()
    report = top.describe()

    def get(kind: str, measure: str, minutes: int = 5) -> list[tuple[str, float]]:
        found = rank([report], kind, measure, minutes=minutes, limit=9, wall=wall)
        return [(row.key, row.count) for row in found.rows]

    assert get("client", "messages") == [("c", 90), ("a", 10)]
    assert get("address", "bytes") == [("192.0.2.9", 900), ("192.0.2.1", 100)]
    assert get("address", "connections") == [("192.0.2.1", 2), ("192.0.2.9", 1)]
    assert get("route", "opened") == [("ws/", 3)]
    wall.minute += 1
    top.record_refused("", "192.0.2.7", "ws/")
    top.record_refused_address("192.0.2.7")
    report = top.describe()
    assert get("address", "refused") == [("192.0.2.7", 2)]
    assert get("route", "refused", 1) == [("ws/", 1)]
    assert get("client", "messages", 1) == [] != get("client", "messages", 2)
    wall.minute += MOST_MINUTES + 1
    assert get("client", "messages", MOST_MINUTES) == []


async def test_an_ended_connection_is_counted_once() -> None:
    """It may open and end between two passes."""
    hub, wall = Hub(), Wall()
    top = TopCounter(hub, wall)
    one = make_connection("a", client_id="alice", route="ws/")
    hub.join(one)
    send(hub, "a", 7)
    hub.leave(one)
    top.record_closed(one)
    await top.count()
    report = top.describe()
    for measure, count in (("messages", 7), ("opened", 1), ("connections", 0)):
        found = rank([report], "client", measure, minutes=1, limit=9, wall=wall)
        assert sum(row.count for row in found.rows) == count


async def test_memory_is_bounded_and_the_heavy_ones_are_found() -> None:
    """Of 5,000 clients, a few that send much more than others."""
    hub, wall = Hub(), Wall()
    top = TopCounter(hub, wall)
    for index in range(5_000):
        hub.join(make_connection(f"{index}", client_id=f"c{index}", route="ws/"))
    chance = random.Random(7)
    for _ in range(3):
        for index in range(5_000):
            send(hub, f"{index}", 400 if index % 1000 == 0 else chance.randrange(9))
        await top.count()
        await asyncio.sleep(0)
    report = top.describe()
    found = rank([report], "client", "messages", minutes=1, limit=5, wall=wall)
    assert {row.key for row in found.rows} == {f"c{index}000" for index in "1234"} | {
        "c0"
    }
    assert all(row.count - row.error <= 1200 <= row.count for row in found.rows)
    sketches = report["minutes"][-1]["sketches"].values()
    assert max(len(rows) for _, _, rows in sketches) <= CAPACITY
    assert len(encode_report(report)) < 20_000


def test_reports_of_several_nodes_are_added() -> None:
    def report(rows: list[tuple[str, int, int]], floor: int) -> dict[str, object]:
        total = sum(row[1] for row in rows)
        minute = {"minute": 100, "sketches": {"client errors": [total, floor, rows]}}
        return {"version": 1, "open": {}, "minutes": [minute]}

    found = rank(
        [report([("a", 10, 0), ("b", 4, 0)], 0), report([("a", 5, 1)], 2)],
        "client",
        "errors",
        minutes=1,
        limit=1,
        wall=Wall(),
    )
    (row,) = found.rows
    assert (row.key, row.count, row.error) == ("a", 15, 1)
    # b may have had two more on the other node.
    assert (found.total, found.floor) == (19, 6)


def test_a_report_of_another_version_is_ignored() -> None:
    assert decode_report(None) is None
    assert decode_report(encode_report({"version": 0})) is None


def answer(node_id: str, *clients: str) -> None:
    """Store the sample of a node, as it answers the request of the command."""
    hub = Hub()
    top = TopCounter(hub)
    for index, client in enumerate(clients):
        hub.join(make_connection(f"{node_id}{index}", client_id=client, route="ws/"))
    asyncio.run(top.count())
    NodePicture.objects.filter(node_id=node_id).put(
        encode([make_state()]), encode_report(top.describe())
    )


@pytest.mark.django_db
def test_nodes_are_asked_and_the_silent_named() -> None:
    make_node_row("n1")
    make_node_row("n2", host="far")
    make_node_row("gone", state="stopped")
    clock = FakeClock()

    def sleep(seconds: float) -> None:
        clock.advance(seconds)
        answer("n1", "alice", "alice", "bob")

    answers = ask_nodes(clock=clock, sleep=sleep)
    assert answers.node_ids == ["n1"] and answers.silent == ["far:1 (n2)"]
    tops = rank_all(answers, "connections", 5, 1)
    lines = list(tabulate(answers, tops, "connections"))
    assert lines[:2] == ["client by connections", "  2  alice"]
    assert lines[-2:] == ["1 of 2 nodes answered", "no answer from far:1 (n2)"]
    options = {"by": "connections", "minutes": 5}
    found = describe(answers, tops, options)["top"]["client"]
    assert found["rows"] == [{"client": "alice", "at_least": 2, "at_most": 2}]
    assert (found["total"], found["others_at_most"]) == (3, 1)


@pytest.mark.django_db
def test_the_command_prints_json_and_refuses_bad_options() -> None:
    output = StringIO()
    call_command("connections", "top", "--json", "--by=bytes", stdout=output)
    found = json.loads(output.getvalue())
    assert (found["by"], found["minutes"], found["nodes"]) == ("bytes", 5, [])
    for option in ("--minutes=0", "--minutes=16", "--limit=0", "--by=x"):
        with pytest.raises(CommandError):
            call_command("connections", "top", option)


@pytest.mark.usefixtures("dashboard")
@pytest.mark.django_db
def test_the_dashboard_ranks_by_the_chosen_measure(client: Client) -> None:
    client.force_login(make_staff("viewer", "view_livedashboard"))
    node = make_node_row("n1")
    store_states(node, make_state("alice"))
    answer("n1", "alice", "alice", EVIL)
    html = client.get(f"{URL}panels/").json()["html"]["top"]
    assert ">alice</a>" in html and EVIL not in html and "67 %" in html
    chosen = client.get(f"{URL}panels/", {"top": "refused"}).json()["html"]["top"]
    assert "Refused of the last 5 minutes" in chosen and "none" in chosen
    assert (
        "top=wrong is not one of" in client.get(URL, {"top": "wrong"}).content.decode()
    )


@pytest.mark.django_db
def test_a_row_of_the_version_before_has_no_top() -> None:
    node = make_node_row("n1")
    store_states(node, make_state())
    assert take_snapshot(1).tops == {}


async def test_a_node_counts_refused_handshakes() -> None:
    node = RunningNode(make_config())
    communicator = connect_to(Refusing, node, client=["192.0.2.3", 1])
    await communicator.connect()
    # A minute may end between the handshake and the report.
    found = rank([node.top.describe()], "address", "refused", minutes=2, limit=1)
    assert [row.key for row in found.rows] == ["192.0.2.3"]


class Refusing(LimitedConsumer):
    async def connect(self) -> None:
        await self.close()
