"""Test how much of a client's address and program is recorded and logged."""

import logging
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.urls import path

from connections.access.bans import impose, lift
from connections.consumers import LimitedJsonConsumer
from connections.dashboard.details import offer_for_connection
from connections.hub.index import is_named
from connections.models import AuditEntry, Ban, Connection, ErrorEvent
from connections.node.current import get_node
from connections.privacy import (
    name_address,
    reduce_address,
    reduce_user_agent,
    show_address,
    show_peer,
)
from connections.redaction import redact
from connections.routing import protect
from connections.testing import read_close
from connections.testing.communicators import Communicator, make_config
from tests.connections.live_connections import make_connection
from tests.connections.live_states import make_state
from tests.planted import find_in_database

ADDRESS, NETWORK = "203.0.113.77", "203.0.113.0/24"
PROGRAM = "Planted-7Q/7.7 (of alice)"

CHROME = "Mozilla/5.0 (X11; Linux) AppleWebKit/537.36 Chrome/131.0 Safari/537.36"


@pytest.fixture(autouse=True)
def configured(settings: Any) -> Any:
    """Return a function that sets `privacy`; without a call all is recorded."""

    def configure(**privacy: Any) -> None:
        settings.WEBSOCKET = make_config(anonymous=True, privacy=privacy)

    configure()
    return configure


@pytest.mark.parametrize(
    ("mode", "given", "expected"),
    [
        ("full", ADDRESS, ADDRESS),
        ("network", ADDRESS, NETWORK),
        ("none", ADDRESS, ""),
        ("network", "2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("network", "::ffff:203.0.113.77", NETWORK),
        ("network", "203.0.113.64/26", NETWORK),
        ("network", "203.0.0.0/16", "203.0.0.0/16"),
        ("network", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("network", "unix", ""),
        ("network", "", ""),
        ("none", "2001:db8::1", ""),
    ],
)
def test_an_address_is_reduced(
    configured: Any, mode: str, given: str, expected: str
) -> None:
    configured(addresses=mode)
    assert reduce_address(given) == expected


@pytest.mark.parametrize(
    ("mode", "given", "expected"),
    [
        ("full", CHROME, CHROME),
        ("none", CHROME, ""),
        ("family", CHROME, "Chrome"),
        ("family", CHROME + " Edg/131.0", "Edge"),
        ("family", "Mozilla/5.0 (Mac) Gecko/20100101 Firefox/133.0", "Firefox"),
        ("family", "Mozilla/5.0 Version/18.1 Safari/605.1.15", "Safari"),
        ("family", "python-websockets/14.1 (alice)", "python-websockets"),
        ("family", "\x1b]0;x", ""),
        ("family", "", ""),
    ],
)
def test_a_program_is_reduced(
    configured: Any, mode: str, given: str, expected: str
) -> None:
    configured(user_agents=mode)
    assert reduce_user_agent(given) == expected


@pytest.mark.parametrize("mode", ["network", "none"])
def test_the_client_of_an_address_is_named_by_a_keyed_digest(
    configured: Any, settings: Any, mode: str
) -> None:
    """All addresses of one IPv6 /64 are one client, as without `privacy`."""
    configured(addresses=mode)
    name = name_address(ADDRESS)
    assert name.startswith("address:") and ADDRESS not in name
    assert name == name_address(ADDRESS) != name_address("203.0.113.78")
    assert name_address("2001:db8::1") == name_address("2001:db8::2")
    settings.SECRET_KEY = "another-key"
    assert name_address(ADDRESS) != name


def test_log_lines_have_a_word_for_what_is_hidden(configured: Any) -> None:
    assert (show_address(ADDRESS), show_address("")) == (ADDRESS, "unix")
    assert (show_peer(f"{ADDRESS}:4711"), show_peer(None)) == (f"{ADDRESS}:4711", None)
    configured(addresses="none")
    assert (show_address(ADDRESS), show_address("")) == ("[not recorded]", "unix")
    assert show_peer("2001:db8::1:4711") == "[not recorded]"
    configured(addresses="network")
    assert show_peer(f"{ADDRESS}:4711") == NETWORK


def test_texts_of_errors_hold_the_reduced_form(configured: Any) -> None:
    scope = {
        "client": [ADDRESS, 1],
        "headers": [
            (b"x-forwarded-for", b"198.51.100.9, 10.0.0.1"),
            (b"user-agent", PROGRAM.encode()),
        ],
    }
    text = f"KeyError: {scope}"
    assert redact(text, scope) == text
    configured(addresses="network", user_agents="family")
    redacted = redact(text, scope)
    assert "203.0.113.0/24" in redacted and "198.51.100.0/24" in redacted
    assert not any(one in redacted for one in (ADDRESS, "198.51.100.9", "7.7"))


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(ValueError, match=r"websocket.privacy.addresses: 'half'"):
        make_config(privacy={"addresses": "half"})


class Failing(LimitedJsonConsumer):
    """Raises its whole scope."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        raise ValueError(f"{self.scope['client']} {self.scope['headers']}")


def connect(*, origin: str = "http://testserver", query: str = "") -> Communicator:
    pairs = {
        "host": "testserver",
        "origin": origin,
        "user-agent": PROGRAM,
        "x-forwarded-for": ADDRESS,
    }
    headers = [(name.encode(), value.encode()) for name, value in pairs.items()]
    application = protect(http=None, websocket=[path("ws/", Failing.as_asgi())])
    communicator = Communicator(application, f"/ws/{query}", headers)
    communicator.scope["client"] = [ADDRESS, 1]
    return communicator


@sync_to_async
def read_rows() -> tuple[list[str], int, int, set[Any]]:
    """Return where the planted texts are, and what was recorded beside them."""
    actions = AuditEntry.objects.filter(target="address")
    return (
        find_in_database(ADDRESS, "Planted-7Q"),
        Connection.objects.count(),
        ErrorEvent.objects.count(),
        {*actions.values_list("action", "value")},
    )


@pytest.mark.parametrize(
    ("mode", "recorded"), [("none", ""), ("network", NETWORK)], ids=["none", "network"]
)
async def test_nothing_is_kept_of_what_is_not_recorded(
    configured: Any,
    transactional_db: None,
    caplog: pytest.LogCaptureFixture,
    mode: str,
    recorded: str,
) -> None:
    """No table, log line or sample has it; limits and bans work as before."""
    configured(addresses=mode, user_agents="none")
    caplog.set_level(logging.DEBUG, "connections")
    node = get_node()
    communicator = connect()
    assert (await communicator.connect())[0]
    await communicator.send_json_to({})
    assert (await communicator.receive_json_from())["type"] == "error"
    for other in (connect(origin="http://foreign.example"), connect(query="?ticket=x")):
        await other.connect()
        await other.wait()
    await node.top.count()
    ban = Ban(target="address", value=ADDRESS, reason="spam", author="kim")
    await sync_to_async(impose)(ban)
    await node.beat()
    # The ban ends it: the node has the whole address in memory.
    assert (await read_close(communicator)).code == 4003
    banned = connect()
    assert (await banned.connect())[0]
    assert (await read_close(banned)).code == 4003
    await sync_to_async(lift)(ban, "kim")
    for one in (communicator, banned):
        await one.disconnect()
    await node.beat()
    top = repr(node.top.describe())
    await node.stop()
    tables, connections, errors, actions = await read_rows()
    # Nodes read the address of a ban there, and the sweeper deletes the row.
    assert (tables, connections, errors) == (["connections_closerequest"], 1, 1)
    assert actions == {("ban", recorded), ("unban", recorded)}
    lines = [repr(vars(record)) for record in caplog.records]
    assert any("origin_refused" in line for line in lines)
    assert any("credentials_refused" in line for line in lines)
    assert not any(ADDRESS in line or "Planted-7Q" in line for line in lines)
    assert ADDRESS not in top


async def test_limits_and_bans_see_the_whole_address(configured: Any) -> None:
    configured(addresses="none")
    live = make_connection("c1", address=ADDRESS)
    assert (live.address, live.source_address) == ("", ADDRESS)
    assert is_named(live, "address", NETWORK, "n1")


def test_a_recorded_network_is_offered_for_a_ban(configured: Any) -> None:
    (offer, *_) = offer_for_connection(make_state(address=NETWORK), {"ban"})
    assert offer["label"] == f"Ban network {NETWORK}…"
    assert all("network" not in one["label"] for one in offers_without_address())


def offers_without_address() -> list[dict[str, Any]]:
    return offer_for_connection(make_state(address=""), {"ban"})


@pytest.mark.django_db
def test_the_log_of_the_admin_has_the_reduced_address(configured: Any) -> None:
    """Django writes the text of a ban into its log when staff add or delete one."""
    ban = Ban(target="address", value=ADDRESS)
    assert str(ban) == f"address {ADDRESS}"
    configured(addresses="network")
    assert str(ban) == f"address {NETWORK}"
    assert str(Ban(target="client", value="alice")) == "client alice"
