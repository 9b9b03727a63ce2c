"""Answers that are regenerated: what the log keeps, and what a model is told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from django.contrib.auth.models import User

from connections.testing.waiting import wait_until
from sessions_history.log import get_log
from sessions_history.models import HistoryEntry
from sessions_history.responders import AnswerContext, HistoryMessage
from tests.sessions_history.conftest import DyingDatabase, MakeNode
from tests.sessions_history.members import add_members
from tests.sessions_history.talks import Talk, talk

pytestmark = pytest.mark.django_db(transaction=True)

QUICK = {"node": {"node_timeout_seconds": 1}}


class Numbered:
    """Numbers its answers, and keeps what it was asked; it may wait."""

    def __init__(self) -> None:
        self.contexts: list[AnswerContext] = []
        self.histories: list[list[tuple[int, Any]]] = []
        self.released = asyncio.Event()
        self.released.set()

    async def respond(
        self, message: Any, history: Sequence[HistoryMessage], context: AnswerContext
    ) -> AsyncIterator[str]:
        self.contexts.append(context)
        self.histories.append(
            [(one.offset, one.data["text"]) for one in [*history]]
            + [(0, message["text"])]
        )
        await self.released.wait()
        yield f"answer {len(self.contexts)}"


async def ask(client: Talk, text: str) -> int:
    """Send a message, and return the offset of its finished answer."""
    offset = await client.say_and_wait({"text": text}) + 1
    while (await client.receive_type("state"))["offset"] != offset:
        continue
    return offset


async def regenerate(client: Talk, offset: int, number: int, **more: Any) -> Any:
    """Ask for another answer; return the ack or the error."""
    message_id = f"regenerating-{number}"
    await client.send(type="regenerate", id=message_id, offset=offset, **more)
    reply = await client.receive_type("ack", "error")
    assert reply["id"] == message_id
    return reply


async def receive_end(client: Talk, offset: int) -> None:
    while (await client.receive_type("state"))["offset"] != offset:
        continue


async def test_another_answer_replaces_the_former(make_node: MakeNode) -> None:
    node, responder = make_node(), Numbered()
    get_log(node).responder = responder
    async with talk(node) as alice:
        assert await ask(alice, "one?") == 2
        assert await ask(alice, "two?") == 4
        reply = await regenerate(alice, 2, 1, metadata={"mood": "short"})
        assert (reply["type"], reply["offset"]) == ("ack", 5)
        entry = await alice.receive_type("entry")
        assert (entry["offset"], entry["replaces"]) == (5, 2)
        await receive_end(alice, 5)
        # The former one stays in the log.
        async with talk(node, alice.session_id) as again:
            entries = [await again.receive_type("entry") for _ in range(5)]
        assert [one.get("replaces") for one in entries] == [None] * 4 + [2]
        texts = [one["data"]["text"] for one in entries]
        assert texts == ["one?", "answer 1", "two?", "answer 2", "answer 3"]
        assert await ask(alice, "three?") == 7
    regenerated, last = responder.histories[2:]
    assert regenerated == [(0, "one?")]
    assert [text for _, text in last] == [
        *("one?", "answer 3", "two?", "answer 2", "three?")
    ]
    context = responder.contexts[2]
    assert (context.offset, context.replaces) == (5, 2)
    assert context.metadata == {"mood": "short"}


async def test_an_answer_is_regenerated_again_and_again(make_node: MakeNode) -> None:
    node, responder = make_node(), Numbered()
    get_log(node).responder = responder
    async with talk(node) as alice:
        await ask(alice, "one?")
        for former, offset in [(2, 3), (3, 4), (4, 5)]:
            assert (await regenerate(alice, former, offset))["offset"] == offset
            await receive_end(alice, offset)
        assert await ask(alice, "two?") == 7
        assert (await regenerate(alice, 7, 8))["offset"] == 8
        await receive_end(alice, 8)
    assert responder.histories[1:4] == [[(0, "one?")]] * 3
    both = [[(1, "one?"), (5, "answer 4"), (0, "two?")]] * 2
    assert responder.histories[4:] == both


async def test_a_wish_that_is_sent_again_counts_once(make_node: MakeNode) -> None:
    node = make_node()
    get_log(node).responder = Numbered()
    async with talk(node) as alice:
        await ask(alice, "one?")
        for _ in range(2):
            assert (await regenerate(alice, 2, 1))["offset"] == 3
        reused = await regenerate(alice, 1, 1)
        assert reused["code"] == "invalid_message"
        assert await alice.say_and_wait({"text": "two?"}) == 4


async def test_a_session_without_an_entry_has_no_answer(make_node: MakeNode) -> None:
    """The connection stays: its client says something next."""
    node = make_node()
    get_log(node).responder = Numbered()
    async with talk(node) as alice:
        assert (await regenerate(alice, 2, 1))["code"] == "not_found"
        assert await ask(alice, "one?") == 2


async def test_what_cannot_be_regenerated_is_refused(make_node: MakeNode) -> None:
    node, responder = make_node(), Numbered()
    log = get_log(node)
    log.responder = responder
    async with talk(node) as alice:
        await ask(alice, "one?")
        await log.append(alice.session_id, {"text": "maintenance"}, kind="notice")
        codes = {
            offset: (await regenerate(alice, offset, offset))["code"]
            for offset in (1, 3, 9)
        }
        assert codes == dict.fromkeys((1, 3, 9), "not_found")
        other_log = await regenerate(alice, 2, 4, epoch="another")
        assert other_log["code"] == "not_found"
        for wrong in (None, 0, True, "2"):
            await alice.send(type="regenerate", id="regenerating-5", offset=wrong)
            error = await alice.receive_type("error")
            assert (error["code"], error["id"]) == ("invalid_message", "regenerating-5")
        responder.released.clear()
        assert (await regenerate(alice, 2, 6))["offset"] == 4
        unfinished = await regenerate(alice, 4, 7)
        assert (unfinished["code"], "stop it" in unfinished["message"]) == (
            "conflict",
            True,
        )
        replaced = await regenerate(alice, 2, 8)
        assert replaced["code"] == "conflict"
        assert "replaced by the entry 4" in replaced["message"]


async def test_a_server_without_a_responder_replaces_no_answer(
    make_node: MakeNode,
) -> None:
    node = make_node()
    log = get_log(node)
    log.responder = Numbered()
    async with talk(node) as alice:
        await ask(alice, "one?")
        log.responder = None
        refused = await regenerate(alice, 2, 1)
        assert refused["code"] == "conflict"
        assert "no responder" in refused["message"]
        assert await alice.say_and_wait({"text": "two?"}) == 3


async def test_a_node_that_leaves_answers_to_workers_regenerates(
    make_node: MakeNode,
) -> None:
    node = make_node(sessions={"answered_by": "workers"})
    log = get_log(node)
    log.responder = Numbered()
    async with talk(node) as alice:
        await alice.say_and_wait({"text": "one?"})
        await HistoryEntry.objects.filter(offset=2).aupdate(state="done")
        assert (await regenerate(alice, 2, 1))["offset"] == 3


async def test_an_answer_whose_message_was_trimmed_stays(make_node: MakeNode) -> None:
    node = make_node(max_session_history=3)
    log = get_log(node)
    log.responder = Numbered()
    async with talk(node) as alice:
        await ask(alice, "one?")
        await log.append(alice.session_id, {"text": "a"})
        await log.append(alice.session_id, {"text": "b"})
        reply = await regenerate(alice, 2, 1)
        assert reply["code"] == "not_found"


async def test_two_wishes_at_once_make_one_answer(make_node: MakeNode) -> None:
    first_node, second_node = make_node(), make_node()
    for node in (first_node, second_node):
        get_log(node).responder = Numbered()
    async with talk(first_node) as alice:
        await ask(alice, "one?")
        session_id = alice.session_id
        replies = await asyncio.gather(
            *(
                get_log(node).answers.regenerate(session_id, f"k-{n}", 2, "alice")
                for n, node in enumerate((first_node, second_node) * 3)
            ),
            return_exceptions=True,
        )
        errors = [one for one in replies if isinstance(one, BaseException)]
        assert [type(one).__name__ for one in errors] == ["AnswerReplaced"] * 5
    rows = HistoryEntry.objects.filter(session=session_id, replaces=2)
    assert await rows.acount() == 1


async def test_another_node_takes_a_regeneration_over(make_node: MakeNode) -> None:
    database, responder = DyingDatabase(), Numbered()
    dead = make_node(database, **QUICK)
    get_log(dead).responder = Numbered()
    async with talk(dead) as alice:
        await ask(alice, "one?")
        database.loses_reply = True
        message = {"type": "regenerate", "id": "regenerating-1", "offset": 2}
        await alice.send(**message)
        await alice.receive_type("error")
    await dead.stop()
    get_log(make_node(**QUICK)).responder = responder
    await wait_until(lambda: bool(responder.contexts), 20)
    context = responder.contexts[0]
    assert (context.offset, context.replaces) == (3, 2)
    assert responder.histories == [[(0, "one?")]]


@pytest.fixture
def bob() -> User:
    return User.objects.create(username="bob")


@pytest.fixture
def carol() -> User:
    return User.objects.create(username="carol")


async def test_a_responder_gets_the_user_whose_message_it_is(
    make_node: MakeNode, bob: User, carol: User
) -> None:
    node, responder = make_node(), Numbered()
    get_log(node).responder = responder
    session_id = await add_members(writer=bob)
    async with talk(node, session_id) as alice, talk(node, session_id, user=bob) as one:
        await ask(one, "by bob?")
        await ask(alice, "by the owner?")
        # The message stays that of its author, whoever asks for another answer.
        await regenerate(alice, 2, 1)
        await receive_end(alice, 5)
        await ask(one, "again?")
    authors = [f"user:{bob.pk}", alice.hello["author"], f"user:{bob.pk}"]
    assert [one.author for one in responder.contexts] == [*authors, f"user:{bob.pk}"]
    assert [one.user for one in responder.contexts] == [bob, None, bob, bob]
    assert {one.client_id for one in responder.contexts} == {"alice"}


async def test_claims_of_somebody_else_reach_no_responder(
    make_node: MakeNode, bob: User
) -> None:
    node, responder = make_node(), Numbered()
    log = get_log(node)
    log.responder = responder
    session_id = await add_members(writer=bob)
    author, claims = f"user:{bob.pk}", {"sub": "bob"}
    options: dict[str, Any] = {"author": author, "claims": claims}
    await log.say(session_id, "k-1", {"text": "one?"}, author, **options)
    await log.drain()
    for offset, asker in [(2, author), (3, "guest:alice")]:
        await log.answers.regenerate(
            session_id, f"k-{offset}", offset, author=asker, claims=claims
        )
        await log.drain()
    assert [one.claims for one in responder.contexts] == [claims, claims, None]


async def test_a_user_that_is_gone_is_none(make_node: MakeNode, bob: User) -> None:
    log, responder = get_log(make_node()), Numbered()
    log.responder = responder
    session_id = await add_members(writer=bob)
    for number, author in enumerate((f"user:{bob.pk + 1}", "user:no-number")):
        message = {"text": "one?"}
        await log.say(session_id, f"k-{number}", message, author=author)
        await log.drain()
    assert [one.user for one in responder.contexts] == [None, None]


async def test_readers_regenerate_nothing(
    make_node: MakeNode, bob: User, carol: User
) -> None:
    node = make_node()
    get_log(node).responder = Numbered()
    session_id = await add_members(reader=bob, writer=carol)
    async with talk(node, session_id) as alice:
        await ask(alice, "one?")
    async with talk(node, session_id, user=bob) as reader:
        refused = await regenerate(reader, 2, 1)
        assert (refused["code"], "reader" in refused["message"]) == ("forbidden", True)
    async with talk(node, session_id, user=carol) as writer:
        assert (await regenerate(writer, 2, 1))["offset"] == 3
