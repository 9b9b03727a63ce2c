"""Run work in the transaction of a test that rolls back what it does."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from asgiref.sync import SyncToAsync, sync_to_async
from django.core import mail
from django.db.backends.signals import connection_created

from connections.exceptions import UnsharedTransaction
from connections.models.alias import get_alias, get_connection

Result = TypeVar("Result")

_threads: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""The thread of each connection to a database."""


def watch_connections() -> None:
    """Record the threads of connections; called once, when the app is ready."""
    connection_created.connect(_record_thread, dispatch_uid="connections.threads")
    os.register_at_fork(after_in_child=_renew_thread)


def _renew_thread() -> None:
    """
    Give a forked process a thread for sync_to_async().

    asgiref keeps one for the process, and a fork has no thread of its parent. The live
    server of Channels is a fork of the process of the tests, which may have used it.
    """
    SyncToAsync.single_thread_executor = ThreadPoolExecutor(max_workers=1)


def is_testing() -> bool:
    """Return True while Django's test environment is set up."""
    # Django makes it for the time of tests alone (django/test/utils.py).
    return hasattr(mail, "outbox")


async def belongs_in_test_thread() -> bool:
    """
    Return True if work belongs in run_in_test(), in the thread of sync_to_async().

    A TestCase of Django rolls each test back, and only the thread of the test sees
    the rows of the test. A database in memory locks whole tables for all other
    threads.

    Raises:
        UnsharedTransaction: the event loop runs in the thread of the test, so that
            sync_to_async() uses another one.
    """
    if not is_testing():
        return False
    is_in_transaction, is_in_memory = await run_in_test(_describe_connection)
    if is_in_transaction:
        return True
    # Code of an event loop does not see the connections of its own thread.
    alias, here = get_alias(), threading.get_ident()
    for connection, thread in list(_threads.items()):
        if connection.alias == alias and thread == here and connection.in_atomic_block:
            raise UnsharedTransaction
    return is_in_memory


async def run_in_test(call: Callable[[], Result]) -> Result:
    """Run work in the thread of the test."""
    # database_sync_to_async() would close the connection of the transaction.
    result: Result = await sync_to_async(call)()
    return result


def _describe_connection() -> tuple[bool, bool]:
    """Return whether a transaction is open, and whether the database is in memory."""
    connection: Any = get_connection()
    is_in_memory = connection.vendor == "sqlite" and connection.is_in_memory_db()
    return connection.in_atomic_block, is_in_memory


def _record_thread(connection: Any, **kwargs: Any) -> None:
    _threads[connection] = threading.get_ident()
