"""Test members and invitations of sessions, by their functions and on a node."""

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.core import signing
from django.db import OperationalError, connection
from django.utils import timezone

from connections.storage.database import Database
from connections.testing.communicators import make_config
from connections.testing.waiting import scale, wait_until
from sessions_history import members
from sessions_history.exceptions import (
    InvitationInvalid,
    MemberNotFound,
    OwnerStays,
    SessionNotFound,
    TooManyMembers,
    TooManySessions,
)
from sessions_history.log import get_log
from sessions_history.models import (
    DeletedSession,
    HistoryEntry,
    Session,
    SessionInvitation,
    SessionMember,
    StreamProducer,
)
from sessions_history.pruning import prune_empty, prune_members
from sessions_history.roles import read_roles
from tests.connections.conversations import receive_close
from tests.connections.switchable_database import SwitchableDatabase
from tests.sessions_history.appends import make_session, wait_for_rival
from tests.sessions_history.conftest import MakeNode
from tests.sessions_history.talks import start_talk, talk

pytestmark = pytest.mark.django_db(transaction=True)

in_thread = sync_to_async


@pytest.fixture
def bob() -> User:
    return User.objects.create(username="bob")


@pytest.fixture
def carol() -> User:
    return User.objects.create(username="carol")


def read_role(session_id: str, user: User) -> str | None:
    rows = SessionMember.objects.filter(session=session_id, user=user)
    return rows.values_list("role", flat=True).first()


def test_an_invitation_makes_one_user_a_member(bob: User, carol: User) -> None:
    session_id = make_session()
    invitation, token = members.invite(session_id, "writer")
    age = invitation.expires_at - timezone.now()
    assert timedelta(hours=23) < age <= timedelta(hours=24)
    joined = members.redeem(token, bob)
    assert (joined.session_id, joined.role) == (session_id, "writer")
    assert members.redeem(token, bob) == joined
    with pytest.raises(InvitationInvalid, match="used"):
        members.redeem(token, carol)
    assert read_role(session_id, carol) is None


def test_an_invitation_for_several_users_counts_until_it_is_revoked(
    bob: User, carol: User
) -> None:
    session_id = make_session()
    invitation, token = members.invite(session_id, "reader", is_single_use=False)
    members.redeem(token, bob)
    members.redeem(token, carol)
    members.remove(session_id, carol)
    members.revoke(session_id, invitation.pk)
    with pytest.raises(InvitationInvalid, match="revoked"):
        members.redeem(token, carol)
    assert read_role(session_id, bob) == "reader"
    with pytest.raises(InvitationInvalid, match="unknown"):
        members.revoke(make_session(), invitation.pk)


def test_a_link_gives_more_rights_and_takes_none(bob: User) -> None:
    """An unused link that gives nothing stays valid for another user."""
    session_id = make_session()
    _, to_read = members.invite(session_id, "reader")
    _, to_write = members.invite(session_id, "writer")
    members.redeem(to_read, bob)
    assert members.redeem(to_write, bob).role == "writer"
    _, unused = members.invite(session_id, "reader")
    assert members.redeem(unused, bob).role == "writer"
    assert SessionInvitation.objects.open().count() == 1


def test_an_expired_or_altered_invitation_is_refused(bob: User) -> None:
    session_id = make_session()
    invitation, token = members.invite(session_id, "reader", lifetime_seconds=60)
    altered = signing.dumps(
        [invitation.pk, session_id, "writer"], salt="sessions_history.invitation"
    )
    for text in (altered, token[:-1], "", "a:b:c"):
        with pytest.raises(InvitationInvalid, match="unknown"):
            members.redeem(text, bob)
    over = timezone.now() - timedelta(seconds=1)
    SessionInvitation.objects.update(expires_at=over)
    with pytest.raises(InvitationInvalid, match="expired"):
        members.redeem(token, bob)
    assert read_role(session_id, bob) is None


async def find_refusal(communicator: WebsocketCommunicator) -> int:
    """Connect, and return the code with which the connection is refused."""
    assert (await communicator.connect())[0]
    code: int = (await receive_close(communicator))["code"]
    return code


def race(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls in threads that begin together; return results and errors."""
    barrier, results = threading.Barrier(len(calls)), list[Any]()

    def run(call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            results.append(call())
        except (InvitationInvalid, OperationalError) as exc:
            results.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return results


def test_of_two_users_at_once_one_redeems_an_invitation(bob: User, carol: User) -> None:
    for _ in range(10):
        session_id = make_session()
        _, token = members.invite(session_id, "writer")
        results = race(
            partial(members.redeem, token, bob),
            partial(members.redeem, token, carol),
        )
        lost = [one for one in results if isinstance(one, InvitationInvalid)]
        assert [one.reason for one in lost] == ["used"]
        assert len(results) == 2
        assert SessionMember.objects.filter(session=session_id).count() == 1


def test_one_user_that_redeems_twice_at_once_is_one_member(bob: User) -> None:
    session_id = make_session()
    _, token = members.invite(session_id, "writer")
    results = race(*[partial(members.redeem, token, bob)] * 2)
    assert [one.role for one in results] == ["writer", "writer"]
    assert SessionMember.objects.count() == 1


@pytest.mark.skipif(connection.vendor == "sqlite", reason="one transaction writes")
def test_an_invitation_that_is_revoked_while_it_is_redeemed(bob: User) -> None:
    session_id, is_locked = make_session(), threading.Event()
    invitation, token = members.invite(session_id, "writer")

    def revoke() -> None:
        is_locked.set()
        wait_for_rival()
        members.revoke(session_id, invitation.pk)

    def redeem() -> None:
        is_locked.wait(scale(10))
        members.redeem(token, bob)

    results = race(partial(members.run_locked, session_id, revoke), redeem)
    assert results[0] is None
    assert isinstance(results[1], InvitationInvalid)
    assert read_role(session_id, bob) is None


def test_who_became_a_member_meanwhile_uses_no_invitation_up(
    bob: User, carol: User
) -> None:
    session_id = make_session()
    _, token = members.invite(session_id, "writer")
    is_free = True

    def join_first(execute: Any, sql: str, *rest: Any) -> Any:
        """Let the user join by other means, just before the invitation is taken."""
        nonlocal is_free
        if is_free and sql.startswith("UPDATE") and "invitation" in sql:
            is_free = False
            members.add(session_id, bob, "writer")
        return execute(sql, *rest)

    with connection.execute_wrapper(join_first):
        assert members.redeem(token, bob).role == "writer"
    assert not is_free
    assert members.redeem(token, carol).role == "writer"


def test_roles_that_cannot_be_given_are_refused(bob: User) -> None:
    session_id = make_session()
    for role in ("owner", "admin", ""):
        with pytest.raises(ValueError, match="writer, reader, agent"):
            members.invite(session_id, role)
        with pytest.raises(ValueError, match="writer, reader, agent"):
            members.add(session_id, bob, role)
    with pytest.raises(ValueError, match="lifetime_seconds is 0"):
        members.invite(session_id, "reader", lifetime_seconds=0)
    with pytest.raises(SessionNotFound):
        members.invite("0" * 32, "reader")
    with pytest.raises(MemberNotFound):
        members.change_role(session_id, bob, "reader")
    with pytest.raises(MemberNotFound):
        members.remove(session_id, bob)
    with pytest.raises(MemberNotFound):
        members.hand_over(session_id, bob)


def test_members_and_open_invitations_are_bounded(
    bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MOST_MEMBERS", 2)
    session_id = make_session()
    members.add(session_id, bob, "reader")
    invitation, _ = members.invite(session_id, "reader")
    with pytest.raises(TooManyMembers):
        members.invite(session_id, "reader")
    members.revoke(session_id, invitation.pk)
    members.invite(session_id, "reader")


def test_a_session_keeps_the_newest_invitations_that_have_ended(
    bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MOST_MEMBERS", 3)
    session_id, other = make_session(), make_session()
    members.revoke(other, members.invite(other, "reader")[0].pk)
    ended = []
    for _ in range(6):
        invitation, _ = members.invite(session_id, "reader")
        members.revoke(session_id, invitation.pk)
        ended.append(invitation.pk)
    members.invite(session_id, "reader")
    kept = SessionInvitation.objects.filter(session=session_id)
    assert set(kept.ended().values_list("pk", flat=True)) == set(ended[-3:])
    assert kept.open().count() == 1
    assert SessionInvitation.objects.filter(session=other).count() == 1


def test_a_session_that_is_handed_over_has_one_owner(bob: User, carol: User) -> None:
    session_id = make_session(f"user:{bob.pk}")
    Session.objects.update(user=bob)
    members.add(session_id, carol, "reader")
    with pytest.raises(OwnerStays):
        members.remove(session_id, bob)
    members.hand_over(session_id, carol)
    session = Session.objects.get()
    assert (session.client_id, session.user_id) == (f"user:{carol.pk}", carol.pk)
    assert read_role(session_id, bob) == "writer"
    for change in (members.add, members.change_role):
        with pytest.raises(OwnerStays):
            change(session_id, carol, "reader")
    members.hand_over(session_id, bob)
    assert read_role(session_id, carol) == "writer"


def test_a_session_counts_against_the_limit_of_its_new_owner(
    bob: User, settings: Any
) -> None:
    settings.WEBSOCKET = make_config(sessions={"max_sessions_per_client": 1})
    make_session(f"user:{bob.pk}")
    session_id = make_session()
    members.add(session_id, bob, "reader")
    with pytest.raises(TooManySessions):
        members.hand_over(session_id, bob)
    assert read_role(session_id, bob) == "reader"


@pytest.mark.parametrize("ended", ["expires_at", "used_at", "revoked_at"])
def test_old_invitations_and_rows_without_a_session_are_pruned(
    bob: User, ended: str
) -> None:
    kept, gone = make_session(), make_session()
    for session_id in (kept, gone):
        members.add(session_id, bob, "reader")
        members.invite(session_id, "reader")
        members.invite(session_id, "reader")
    old = SessionInvitation.objects.filter(session=kept).first()
    assert old is not None
    two_days_ago = timezone.now() - timedelta(days=2)
    SessionInvitation.objects.filter(pk=old.pk).update(**{ended: two_days_ago})
    if ended == "used_at":
        # One for several users does not end by its use.
        SessionInvitation.objects.exclude(pk=old.pk).filter(session=kept).update(
            used_at=two_days_ago, is_single_use=False
        )
    for session_id in (kept, gone):
        StreamProducer.objects.create(
            session_id=session_id, producer="p", epoch=0, sequence=0
        )
    Session.objects.filter(pk=kept).update(last_offset=1)
    Session.objects.update(last_seen_at=two_days_ago)
    assert prune_empty(10) == 1
    assert prune_members(2) == 2
    assert prune_members(10) == 3
    assert StreamProducer.objects.get().session_id == kept
    assert SessionMember.objects.get().session_id == kept
    assert SessionInvitation.objects.get().session_id == kept


async def test_a_member_sees_and_writes_messages_with_authors(
    make_node: MakeNode, bob: User
) -> None:
    node = make_node()
    async with talk(node) as alice:
        await alice.say_and_wait("from alice")
        await in_thread(members.add)(alice.session_id, bob, "writer")
        async with talk(node, alice.session_id, user=bob) as member:
            assert (alice.hello["role"], member.hello["role"]) == ("owner", "writer")
            first = await member.receive_type("entry")
            assert first["author"] == alice.hello["author"]
            assert first["author"].startswith("guest:")
            await member.say("from bob")
            second = await member.receive_type("entry")
            assert second["author"] == member.hello["author"] == f"user:{bob.pk}"
    stored = HistoryEntry.objects.order_by("offset").values_list("author", flat=True)
    assert [one async for one in stored] == [first["author"], second["author"]]


async def test_who_is_no_member_finds_no_session(
    make_node: MakeNode, bob: User, carol: User
) -> None:
    node = make_node()
    async with talk(node) as alice:
        await alice.say_and_wait(1)
        await in_thread(members.add)(alice.session_id, bob, "writer")
        stranger = start_talk(node, alice.session_id, user=carol)
        assert await find_refusal(stranger) == 4004


async def test_a_readers_message_is_refused_and_the_connection_stays(
    make_node: MakeNode, bob: User
) -> None:
    node = make_node()
    async with talk(node) as alice:
        await alice.say_and_wait("hi")
        await in_thread(members.add)(alice.session_id, bob, "reader")
        async with talk(node, alice.session_id, user=bob, presence=1) as reader:
            message_id = await reader.say("no")
            error = await reader.receive_type("error")
            assert (error["code"], error["id"]) == ("forbidden", message_id)
            assert "reader" in error["message"]
            await reader.send(type="cancel", offset=1)
            error = await reader.receive_type("error")
            assert (error["code"], error["offset"]) == ("forbidden", 1)
            for message in ({"type": "delete"}, {"type": "typing", "active": True}):
                await reader.send(**message)
                assert (await reader.receive_type("error"))["code"] == "forbidden"
            await alice.say("again")
            assert await reader.receive_offsets(2) == [2]


async def test_an_agent_is_answered_only_if_it_asks(
    make_node: MakeNode, bob: User
) -> None:
    class Yes:
        async def respond(self, message: Any, history: Any) -> Any:
            yield "yes"

    node = make_node()
    get_log(node).responder = Yes()
    async with talk(node) as alice:
        await alice.say_and_wait("hi")
        await in_thread(members.add)(alice.session_id, bob, "agent")
        async with talk(node, alice.session_id, user=bob) as agent:
            assert await agent.say_and_wait("an observation") == 3
            await agent.send(type="message", id="a" * 12 + "-9", data=1, answer=True)
            assert await agent.receive_offsets(5)


async def test_a_removed_member_is_closed_and_a_changed_role_counts(
    make_node: MakeNode, bob: User, carol: User
) -> None:
    node = make_node()
    log = get_log(node)
    async with talk(node) as alice:
        await alice.say_and_wait("hi")
        session_id = alice.session_id
        await in_thread(members.add)(session_id, bob, "reader")
        await in_thread(members.add)(session_id, carol, "writer")
        leaver = start_talk(node, session_id, user=carol)
        assert (await leaver.connect())[0]
        async with talk(node, session_id, user=bob) as member:
            await in_thread(members.change_role)(session_id, bob, "writer")
            await in_thread(members.remove)(session_id, carol)
            log.attached.memberships.announce(session_id)
            await wait_until(lambda: len(node.hub) == 2)
            assert (await receive_close(leaver))["code"] == 4003
            assert await member.say_and_wait("I may write") == 2


async def test_a_change_of_which_no_hint_came_is_found_by_the_check(
    make_node: MakeNode, bob: User
) -> None:
    """A session that was handed over is read again as well."""
    node = make_node(sessions={"position_seconds": 0.05})
    log = get_log(node)
    owner = start_talk(node)
    assert (await owner.connect())[0]
    session_id = (await owner.receive_json_from())["session"]
    await owner.send_json_to({"type": "message", "id": "a" * 12 + "-1", "data": 1})
    await owner.receive_json_from()
    await in_thread(members.add)(session_id, bob, "reader")
    async with talk(node, session_id, user=bob) as member:
        await in_thread(members.hand_over)(session_id, bob)
        await log.check_positions()
        assert (await receive_close(owner))["code"] == 4003
        await member.send(type="delete")
        assert (await member.receive_type("deleted"))["session"] == session_id
    assert await DeletedSession.objects.filter(pk=session_id).aexists()
    again = start_talk(node, session_id)
    assert await find_refusal(again) == 4004


async def test_a_former_owner_that_has_not_heard_of_it_deletes_nothing(
    make_node: MakeNode, bob: User
) -> None:
    async with talk(make_node(sessions={"position_seconds": 60})) as alice:
        await alice.say_and_wait("hi")
        await in_thread(members.add)(alice.session_id, bob, "reader")
        await in_thread(members.hand_over)(alice.session_id, bob)
        await alice.send(type="delete")
        assert (await alice.receive_type("deleted", "bye"))["type"] == "bye"
    assert await Session.objects.filter(pk=alice.session_id).aexists()
    assert not await DeletedSession.objects.aexists()


class LateRead(Database):
    """A database that keeps back what the first read of roles found."""

    def __init__(self) -> None:
        super().__init__()
        self.has_read, self.is_released = asyncio.Event(), asyncio.Event()
        self.is_late = False

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        found = await super().read(work, *args, **kwargs)
        if self.is_late and work is read_roles:
            self.is_late = False
            self.has_read.set()
            await self.is_released.wait()
        return found


async def test_a_role_that_was_read_earlier_does_not_replace_a_newer_one(
    make_node: MakeNode, bob: User
) -> None:
    database = LateRead()
    node = make_node(database, sessions={"position_seconds": 0.05})
    log = get_log(node)
    async with talk(node) as alice:
        await alice.say_and_wait("hi")
        session_id = alice.session_id
        await in_thread(members.add)(session_id, bob, "reader")
        async with talk(node, session_id, user=bob) as member:
            database.is_late = True
            log.attached.memberships.announce(session_id)
            await database.has_read.wait()
            await in_thread(members.change_role)(session_id, bob, "writer")
            await log.check_positions()
            database.is_released.set()
            message_id = await member.say("I may write")
            assert (await member.receive_type("ack", "error"))["id"] == message_id
    assert await HistoryEntry.objects.acount() == 2


async def test_a_member_that_is_removed_while_it_attaches_is_refused(
    make_node: MakeNode, bob: User
) -> None:
    """The role that was read is out of date when the answer comes."""
    database = SwitchableDatabase()
    node = make_node(database)
    log = get_log(node)
    async with talk(node) as alice:
        await alice.say_and_wait("hi")
        session_id = alice.session_id
        await in_thread(members.add)(session_id, bob, "reader")
        read, is_first = database.read, [True]

        async def read_and_remove(work: Any, *args: Any, **options: Any) -> Any:
            found = await read(work, *args, **options)
            if work.__name__ == "read_snapshot" and is_first.pop(0):
                is_first.append(False)
                await in_thread(members.remove)(session_id, bob)
                log.attached.memberships.announce(session_id)
                await wait_until(lambda: "read_roles" in seen)
            seen.append(work.__name__)
            return found

        seen: list[str] = []
        database.read = read_and_remove  # type: ignore[method-assign]
        late = start_talk(node, session_id, user=bob)
        assert await find_refusal(late) == 4004
        assert seen.count("read_snapshot") >= 1
