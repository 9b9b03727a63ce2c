"""Test limits of single connections, which get_limits() returns at the handshake."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from connections.consumers import LimitedJsonConsumer, LimitedSyncConsumer
from connections.limits import Limits
from connections.testing import FakeClock
from connections.testing.communicators import connect_to, make_config, make_node
from tests.connections.conversations import receive_close, receive_type


class Planned(LimitedJsonConsumer):
    """Gives each plan its limits; the scope names the plan."""

    def get_limits(self, scope: Any) -> Limits:
        return replace(super().get_limits(scope), **scope.get("plan", {}))

    async def handle_echo(self, content: Any) -> None:
        await self.send_json(content)


def test_the_configured_limits_are_the_default() -> None:
    config = make_config(
        max_connections_per_client=7,
        idle_timeout_seconds=1.5,
        max_message_size="2kB",
        rate_limit={"messages_per_second": 3, "burst_messages": 4},
    )
    assert Limits.configured(config) == Limits(
        max_connections_per_client=7,
        idle_timeout_seconds=1.5,
        max_message_size=2000,
        messages_per_second=3,
        burst_messages=4,
        bytes_per_second=2_000_000,
        burst_bytes=4_000_000,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_connections_per_client": 0},
        {"messages_per_second": -1},
        {"burst_bytes": "many"},
        {"max_message_size": True},
        {"idle_timeout_seconds": -1},
        *({name: 2**53 + 1} for name in ("burst_messages", "burst_bytes")),
        *({name: 10**400} for name in ("bytes_per_second", "messages_per_second")),
        {"idle_timeout_seconds": 1e300},
    ],
)
def test_limits_must_be_positive(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(Limits.configured(make_config()), **wrong)


def test_compression_is_true_or_false() -> None:
    limits = Limits.configured(make_config(compression={"enabled": True}))
    assert limits.compression is True
    with pytest.raises(ValueError, match="compression: 1 is not allowed"):
        replace(limits, compression=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("enabled", "plan", "expected"),
    [(False, True, True), (True, False, False), (True, True, None)],
)
async def test_the_server_learns_where_a_plan_has_compression_of_its_own(
    enabled: bool, plan: bool, expected: bool | None
) -> None:
    node = make_node(compression={"enabled": enabled})
    communicator = connect_to(Planned, node, plan={"compression": plan})
    await communicator.send_input({"type": "websocket.connect"})
    accept = await communicator.receive_output()
    assert accept["type"] == "websocket.accept"
    assert accept.get("compression") is expected
    await communicator.disconnect()


class Secretive(LimitedJsonConsumer):
    """Sends each text twice as it is."""

    async def handle_tell(self, content: Any) -> None:
        await self.send(text_data=content["text"], compress=False)
        await self.connection.send(text_data=content["text"], compress=False)
        await self.send(bytes_data=b"x")


class SecretiveSync(LimitedSyncConsumer):
    def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        text = json.loads(text_data)["text"]
        self.send(text_data=text, compress=False)
        async_to_sync(self.connection.send)(text_data=text, compress=False)
        self.send(bytes_data=b"x")


@pytest.mark.parametrize("consumer", [Secretive, SecretiveSync])
async def test_a_message_without_compress_says_so_to_the_server(consumer: Any) -> None:
    communicator = connect_to(consumer, make_node())
    await communicator.connect()
    await communicator.send_json_to({"type": "tell", "text": "a secret"})
    for _ in range(2):
        assert await communicator.receive_output() == {
            "type": "websocket.send",
            "text": "a secret",
            "compress": False,
        }
    assert await communicator.receive_output() == {
        "type": "websocket.send",
        "bytes": b"x",
    }
    await communicator.disconnect()


def test_an_idle_timeout_of_0_is_allowed() -> None:
    limits = replace(Limits.configured(make_config()), idle_timeout_seconds=0)
    assert limits.idle_timeout_seconds == 0


async def test_a_plan_may_hold_more_connections_than_configured() -> None:
    node = make_node(max_connections_per_client=1)
    plan = {"max_connections_per_client": 3}
    opened = [connect_to(Planned, node, plan=plan) for _ in range(4)]
    for communicator in opened:
        assert (await communicator.connect())[0]
    assert (await receive_close(opened[0]))["code"] == 4005
    assert len([one for one in node.hub if one.close_reason is None]) == 3
    for communicator in opened:
        await communicator.disconnect()


async def test_a_plan_has_its_own_message_size() -> None:
    communicator = connect_to(Planned, make_node(), plan={"max_message_size": 40})
    await communicator.connect()
    await communicator.send_json_to({"type": "echo"})
    assert (await receive_type(communicator, "echo")) == {"type": "echo"}
    await communicator.send_json_to({"type": "echo", "text": "x" * 40})
    assert (await receive_close(communicator))["code"] == 4013
    await communicator.disconnect()


async def test_a_plan_has_its_own_rate() -> None:
    node = make_node()
    slow = connect_to(Planned, node, plan={"burst_messages": 2})
    fast = connect_to(Planned, node, client_id="bob")
    for communicator in (slow, fast):
        await communicator.connect()
        for _ in range(3):
            await communicator.send_json_to({"type": "echo"})
    kinds = [json.loads(await slow.receive_from())["type"] for _ in range(3)]
    assert kinds == ["echo", "echo", "error"]
    kinds = [json.loads(await fast.receive_from())["type"] for _ in range(3)]
    assert kinds == ["echo"] * 3
    await slow.disconnect()
    await fast.disconnect()


async def test_a_plan_has_its_own_idle_timeout() -> None:
    clock = FakeClock()
    node = make_node(clock, idle_timeout_seconds=60)
    patient = connect_to(Planned, node, plan={"idle_timeout_seconds": 600})
    endless = connect_to(Planned, node, plan={"idle_timeout_seconds": 0})
    usual = connect_to(Planned, node)
    for communicator in (patient, endless, usual):
        await communicator.connect()
    clock.advance(60)
    await node.activity.check()
    assert (await receive_close(usual))["code"] == 4300
    clock.advance(540)
    await node.activity.check()
    assert (await receive_close(patient))["code"] == 4300
    assert [one.close_reason for one in node.hub if one.close_reason is None] == [None]
    for communicator in (patient, endless, usual):
        await communicator.disconnect()


class Reading(Planned):
    """Reads its plan in a coroutine."""

    async def get_limits(self, scope: Any) -> Limits:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().get_limits(scope)


class SyncPlanned(LimitedSyncConsumer):
    def get_limits(self, scope: Any) -> Limits:
        return replace(super().get_limits(scope), **scope["plan"])


@pytest.mark.parametrize("consumer", [Reading, SyncPlanned])
async def test_every_kind_of_consumer_has_the_hook(consumer: Any) -> None:
    node = make_node()
    communicator = connect_to(consumer, node, plan={"max_message_size": 3})
    await communicator.connect()
    await communicator.send_to(text_data="four")
    assert (await receive_close(communicator))["code"] == 4013
    await communicator.disconnect()
