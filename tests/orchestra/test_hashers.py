"""Test that passwords are hashed on threads of their own."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.hashers import (
    PBKDF2PasswordHasher,
    check_password,
    get_hasher,
    make_password,
)

from orchestra import settings as application
from orchestra.hashers import OwnThreads

CALLS = 40


class Inner:
    """Stands for a hasher that works until the test lets it end."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.nicenesses: set[int] = set()
        self.is_to_end = threading.Event()
        self.running = self.highest = 0
        self._lock = threading.Lock()

    def encode(self, password: str, salt: str) -> str:
        if password == "bad":
            raise ValueError("the password is bad")
        with self._lock:
            self.running += 1
            self.highest = max(self.highest, self.running)
            self.threads.add(threading.current_thread().name)
            thread_id = threading.get_native_id()
            self.nicenesses.add(os.getpriority(os.PRIO_PROCESS, thread_id))
        self.is_to_end.wait(10)
        with self._lock:
            self.running -= 1
        return f"{password}${salt}"


class Hasher(OwnThreads, Inner):
    """A hasher as the settings name it."""


def test_a_crowd_is_hashed_by_as_many_threads_as_there_are_cores() -> None:
    hasher = Hasher()
    with ThreadPoolExecutor(CALLS) as requests:
        waiting = [
            requests.submit(hasher.encode, str(number), "salt")
            for number in range(CALLS)
        ]
        hasher.is_to_end.set()
        assert [one.result() for one in waiting] == [f"{n}$salt" for n in range(CALLS)]
    assert hasher.highest <= (os.cpu_count() or 1)
    assert all(name.startswith("password-hash") for name in hasher.threads)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="Linux alone has it")
def test_these_threads_yield_to_others() -> None:
    hasher = Hasher()
    hasher.is_to_end.set()
    hasher.encode("a password", "salt")
    assert hasher.nicenesses == {10}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 10


def test_an_error_of_the_hasher_reaches_its_caller() -> None:
    with pytest.raises(ValueError, match="the password is bad"):
        Hasher().encode("bad", "salt")


def test_the_application_makes_and_accepts_the_hashes_of_django(settings: Any) -> None:
    settings.PASSWORD_HASHERS = application.PASSWORD_HASHERS
    assert isinstance(get_hasher(), OwnThreads)
    made = make_password("a password")
    assert made.startswith("pbkdf2_sha256$")
    stock = PBKDF2PasswordHasher()
    assert stock.verify("a password", made)
    assert check_password(
        "a password", stock.encode("a password", "a salt of 22 letters")
    )
