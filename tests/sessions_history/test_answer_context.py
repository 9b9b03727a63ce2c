"""The context that a responder gets with each message, and messages without answer."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import OperationalError

from connections.exceptions import InvalidMessage
from connections.models import ErrorEvent
from connections.storage.database import Database
from connections.testing.waiting import scale, wait_until
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry, Session
from tests.connections import switchable_database
from tests.sessions_history.appends import make_session
from tests.sessions_history.conftest import DyingDatabase, MakeNode
from tests.sessions_history.responding import Contextual, Reverse
from tests.sessions_history.talks import talk

pytestmark = pytest.mark.django_db(transaction=True)

QUICK = {"node": {"node_timeout_seconds": 1}}


async def test_a_responder_learns_who_asks_in_which_message(
    make_node: MakeNode,
) -> None:
    node, responder = make_node(), Contextual()
    get_log(node).responder = responder
    responder.released.set()
    async with talk(node) as alice:
        message_id = await alice.say({"text": "hi"})
        while (await alice.receive_type("state"))["offset"] != 2:
            continue
    (context,) = responder.contexts
    assert (context.session_id, context.offset) == (alice.session_id, 2)
    assert (context.message_id, context.client_id) == (message_id, "alice")
    assert context.user is None
    assert responder.cancelled == [False]


async def test_a_responder_learns_the_user_and_the_claims(make_node: MakeNode) -> None:
    def make_session_of_user() -> tuple[str, Any]:
        session_id = make_session()
        user = get_user_model().objects.create(username="alice")
        Session.objects.filter(pk=session_id).update(user=user)
        return session_id, user

    session_id, user = await sync_to_async(make_session_of_user)()
    node, responder = make_node(), Contextual()
    log = get_log(node)
    log.responder = responder
    await log.say(session_id, "k-1", {"text": "hi"}, "alice", claims={"sub": "a"})
    await wait_until(lambda: bool(responder.contexts))
    assert responder.contexts[0].user == user
    assert responder.contexts[0].claims == {"sub": "a"}


class UsersApart(Database):
    """A database whose users are in another one, which is away for a moment."""

    failed = 0
    is_away = True

    async def read_foreign(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        def fail(*args: Any) -> Any:
            self.failed += 1
            raise OperationalError("away")

        chosen = fail if self.is_away else work
        return await super().read_foreign(chosen, *args, **kwargs)


async def test_an_outage_of_the_users_delays_the_answer_alone(
    make_node: MakeNode,
) -> None:
    user = await get_user_model().objects.acreate(username="alice")
    database, responder = UsersApart(), Contextual()
    node = make_node(database)
    get_log(node).responder = responder
    async with talk(node, user=user) as alice:
        await alice.say_and_wait({"text": "hi"})
        await wait_until(lambda: database.failed > 0)
        assert database.failure is None
        database.is_away = False
        await wait_until(lambda: bool(responder.contexts))
    assert responder.contexts[0].user == user


async def test_a_stopped_answer_is_cancelled_in_its_context(
    make_node: MakeNode,
) -> None:
    node, responder = make_node(), Contextual()
    get_log(node).responder = responder
    async with talk(node) as alice:
        await alice.say_and_wait({"text": "hi"})
        await wait_until(lambda: bool(responder.contexts))
        await alice.send(type="cancel", offset=2)
        await asyncio.wait_for(responder.contexts[0].stream.cancelled(), scale(10))
        await wait_until(lambda: responder.cancelled == [True])


async def test_another_node_that_answers_knows_the_message(
    make_node: MakeNode,
) -> None:
    """The claims were in the memory of the node that died."""
    database, responder = DyingDatabase(), Contextual()
    dead = make_node(database, **QUICK)
    get_log(dead).responder = Contextual()
    async with talk(dead) as alice:
        database.loses_reply = True
        message_id = await alice.say({"text": "hi"})
        await alice.receive_type("error")
    await dead.stop()
    get_log(make_node(**QUICK)).responder = responder
    await wait_until(lambda: bool(responder.contexts), 20)
    context = responder.contexts[0]
    assert (context.message_id, context.client_id) == (message_id, "alice")
    assert context.claims is None


async def test_metadata_reaches_the_responder_and_not_the_log(
    make_node: MakeNode,
) -> None:
    node, responder = make_node(), Contextual()
    responder.released.set()
    get_log(node).responder = responder
    metadata = {"model": "large", "é": [1, None]}
    async with talk(node) as alice:
        message = {"type": "message", "data": "hi"}
        await alice.send(**message, id="abcdefghijkl-1", metadata=metadata)
        entry = await alice.receive_type("entry")
        assert (entry["data"], "metadata" in entry) == ("hi", False)
        await alice.say_and_wait("plain")
        await wait_until(lambda: len(responder.contexts) == 2)
    assert [one.metadata for one in responder.contexts] == [metadata, {}]


async def test_metadata_survives_the_node_that_took_the_message(
    make_node: MakeNode,
) -> None:
    database, responder = DyingDatabase(), Contextual()
    dead = make_node(database, **QUICK)
    get_log(dead).responder = Contextual()
    async with talk(dead) as alice:
        database.loses_reply = True
        message = {"type": "message", "id": "abcdefghijkl-1", "data": "hi"}
        await alice.send(**message, metadata={"model": "large"})
        await alice.receive_type("error")
    await dead.stop()
    get_log(make_node(**QUICK)).responder = responder
    await wait_until(lambda: bool(responder.contexts), 20)
    assert responder.contexts[0].metadata == {"model": "large"}


@pytest.mark.parametrize("wants_answer", [True, False])
@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (["a list"], "an object of at most"),
        ("text", "an object of at most"),
        (False, "an object of at most"),
        ({"a": "é" * 2048}, "an object of at most 4096 bytes"),
        ({"a": "\0"}, "metadata holds a NUL character"),
        ({"a": "\ud800"}, "metadata holds a lone surrogate"),
        ({"a": float("nan")}, "metadata holds NaN"),
    ],
)
async def test_metadata_that_is_no_small_object_is_refused(
    make_node: MakeNode, metadata: Any, reason: str, wants_answer: bool
) -> None:
    log = get_log(make_node())
    with pytest.raises(InvalidMessage, match=reason):
        log.say(
            "0" * 32,
            "k-1",
            "hi",
            "alice",
            wants_answer=wants_answer,
            metadata=metadata,
        )


async def test_a_client_learns_which_message_has_wrong_metadata(
    make_node: MakeNode,
) -> None:
    async with talk(make_node()) as alice:
        message = {"type": "message", "id": "abcdefghijkl-1", "data": "hi"}
        await alice.send(**message, metadata=[1])
        error = await alice.receive_type("error")
        assert (error["code"], error["id"]) == ("invalid_message", "abcdefghijkl-1")
        await alice.send(**message, metadata={"a": "x" * 4086})
        assert (await alice.receive_type("ack"))["offset"] == 1


async def test_a_message_may_ask_for_no_answer(make_node: MakeNode) -> None:
    node, responder = make_node(), Contextual()
    get_log(node).responder = responder
    async with talk(node) as alice:
        message = {"type": "message", "data": "note"}
        await alice.send(**message, id="abcdefghijkl-1", answer=False)
        assert (await alice.receive_type("ack"))["offset"] == 1
        await alice.send(**message, id="abcdefghijkl-1", answer=False)
        assert (await alice.receive_type("ack"))["offset"] == 1
        await alice.send(**message, id="abcdefghijkl-2", answer="no")
        error = await alice.receive_type("error")
        assert (error["code"], error["id"]) == ("invalid_message", "abcdefghijkl-2")
        await alice.send(**message, id="abcdefghijkl-3", answer=True)
        assert (await alice.receive_type("ack"))["offset"] == 2
        await wait_until(lambda: len(responder.contexts) == 1)
    states = HistoryEntry.objects.filter(session=alice.session_id, offset=1)
    assert [row.state async for row in states] == ["done"]


@pytest.mark.parametrize("make_responder", [Contextual, Reverse])
async def test_an_answer_waits_for_a_database_that_is_away_for_a_moment(
    make_node: MakeNode, make_responder: type[Any]
) -> None:
    database, responder = switchable_database.SwitchableDatabase(), make_responder()
    failed: list[str] = []

    def fail_once(work: Any) -> Any:
        def fail(*args: Any) -> Any:
            failed.append(work.__name__)
            raise OperationalError("away")

        is_first = work.__name__ in ("read_context", "read_history") and not failed
        return fail if is_first else work

    database.around_read = fail_once
    node = make_node(database)
    get_log(node).responder = responder
    if isinstance(responder, Contextual):
        responder.released.set()
    async with talk(node) as alice:
        await alice.say({"text": "hi"})
        assert (await alice.receive_type("state"))["state"] == "done"
    assert len(failed) == 1
    assert not await ErrorEvent.objects.aexists()
