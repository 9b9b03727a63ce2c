"""Tests of a project that run its whole application in a transaction."""

from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.contrib.auth.models import User
from django.test import AsyncClient, TestCase, TransactionTestCase
from django.urls import path

from connections.announcements import post_close_requests
from connections.consumers import LimitedJsonConsumer
from connections.credentials.tokens import create_access_token
from connections.exceptions import UnsharedTransaction
from connections.models import CloseRequest, Connection, Node
from connections.node.current import get_node
from connections.routing import protect
from connections.testing import read_close
from connections.testing.communicators import Communicator
from tests.connections.login import log_in


class Counting(LimitedJsonConsumer):
    """Reads and writes rows as consumers do."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await User.objects.acreate(username=content["name"])
        names = [user.username async for user in User.objects.order_by("username")]
        await self.send_json({"names": names, "user": str(self.scope["user"])})


def make_application() -> Any:
    return protect(http=None, websocket=[path("ws/", Counting.as_asgi())])


def make_communicator(**headers: str) -> Communicator:
    given = {"host": "testserver", "origin": "http://testserver", **headers}
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    communicator = Communicator(make_application(), "/ws/", pairs)
    communicator.scope["client"] = ["192.0.2.1", 1]
    return communicator


def make_cookie(user: User) -> str:
    return f"{settings.SESSION_COOKIE_NAME}={log_in(user)}"


async def converse(communicator: Communicator) -> Any:
    assert (await communicator.connect())[0]
    await communicator.send_json_to({"name": "bob"})
    answer = await communicator.receive_json_from()
    assert "type" not in answer
    return answer


class WithSession:
    """The same tests for each kind of test case."""

    user: User

    async def test_a_session_of_the_test_is_admitted(self) -> None:
        cookie = await sync_to_async(make_cookie)(self.user)
        communicator = make_communicator(cookie=cookie)
        answer = await converse(communicator)
        assert answer == {"names": ["alice", "bob"], "user": "alice"}
        await communicator.disconnect()

    async def test_a_token_of_the_test_is_admitted_and_recorded(self) -> None:
        make = sync_to_async(create_access_token)
        token, _ = await make("phone", user=self.user)
        communicator = make_communicator(authorization=f"Bearer {token}")
        assert (await converse(communicator))["user"] == "alice"
        await get_node().beat()
        row = await Connection.objects.aget()
        assert (row.client_id, row.user_id) == ("phone", self.user.pk)
        assert await Node.objects.acount() == 1
        await communicator.disconnect()

    async def test_a_close_request_of_the_test_ends_the_connection(self) -> None:
        cookie = await sync_to_async(make_cookie)(self.user)
        communicator = make_communicator(cookie=cookie)
        await converse(communicator)
        request = CloseRequest(target="user", value=str(self.user.pk), reason="kicked")
        await sync_to_async(post_close_requests)(request)
        await get_node().beat()
        assert (await read_close(communicator)).code == 4009
        await communicator.disconnect()

    async def test_a_deactivated_user_is_refused(self) -> None:
        cookie = await sync_to_async(make_cookie)(self.user)
        self.user.is_active = False
        await self.user.asave()
        communicator = make_communicator(cookie=cookie)
        assert (await communicator.connect())[0]
        assert (await read_close(communicator)).code == 4001

    async def test_requests_and_sockets_share_the_rows(self) -> None:
        client = AsyncClient()
        await client.aforce_login(self.user)
        value = client.cookies[settings.SESSION_COOKIE_NAME].value
        cookie = f"{settings.SESSION_COOKIE_NAME}={value}"
        communicator = make_communicator(cookie=cookie)
        assert (await converse(communicator))["user"] == "alice"
        await communicator.disconnect()


class InATransaction(WithSession, TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        cls.user = User.objects.create_user("alice")

    def test_from_synchronous_code(self) -> None:
        communicator = make_communicator(cookie=make_cookie(self.user))

        async def talk() -> Any:
            answer = await converse(communicator)
            await communicator.disconnect()
            return answer

        assert async_to_sync(talk)()["user"] == "alice"
        assert User.objects.filter(username="bob").exists()

    def test_nothing_is_left_of_the_other_tests(self) -> None:
        assert not Connection.objects.exists() and not Node.objects.exists()
        assert User.objects.count() == 1


class OfATransactionTestCase(WithSession, TransactionTestCase):
    def setUp(self) -> None:
        self.user = User.objects.create_user("alice")


@pytest.mark.django_db
async def test_a_transaction_in_the_thread_of_the_loop_is_an_error(db: None) -> None:
    communicator = make_communicator()
    await communicator.send_input({"type": "websocket.connect"})
    with pytest.raises(UnsharedTransaction, match="transaction=True"):
        await communicator.wait()


@pytest.mark.django_db
def test_the_loop_may_run_in_another_thread() -> None:
    """A synchronous test of pytest in a transaction, as of TestCase."""
    user = User.objects.create_user("alice")
    communicator = make_communicator(cookie=make_cookie(user))

    async def talk() -> Any:
        answer = await converse(communicator)
        await communicator.disconnect()
        return answer

    assert async_to_sync(talk)()["names"] == ["alice", "bob"]
