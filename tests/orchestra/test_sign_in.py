"""Test the limit of wrong passwords on the pages of the reference application."""

import logging
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from orchestra.models import FailedSignIn
from orchestra.sign_in import MAX_PER_ADDRESS, MAX_PER_USER

pytestmark = pytest.mark.django_db

PAGES = ("/sign-in/", "/admin/login/")
HERE = "192.0.2.7"


@pytest.fixture(autouse=True)
def alice(settings: Any) -> User:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return User.objects.create_superuser("alice", password="secret words")


def post(
    page: str, username: str = "alice", password: str = "wrong", address: str = HERE
) -> Any:
    return Client(REMOTE_ADDR=address).post(
        page, {"username": username, "password": password}
    )


@pytest.mark.parametrize("page", PAGES)
def test_wrong_passwords_for_a_user_lock_user_and_address(
    page: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    statuses = [post(page).status_code for _ in range(40)]
    assert statuses == [200] * MAX_PER_USER + [429] * (40 - MAX_PER_USER)
    locked = post(page, password="secret words")
    assert locked.status_code == 429
    assert int(locked["Retry-After"]) > 0
    assert "no-store" in locked["Cache-Control"]
    logged = [one.getMessage() for one in caplog.records]
    assert logged.count(f"A sign-in from {HERE} failed") == MAX_PER_USER
    assert sum("Sign-ins of one user" in text for text in logged) == 1
    assert "wrong\n" not in "\n".join(logged)


@pytest.mark.parametrize("page", PAGES)
def test_nobody_locks_a_user_out_from_another_address(page: str) -> None:
    for number in range(MAX_PER_USER + 1):
        post(page, address=f"198.51.100.{number}")
    for _ in range(MAX_PER_USER + 1):
        post(page)
    assert post(page, password="secret words", address="192.0.2.8").status_code == 302


def test_wrong_passwords_for_many_users_lock_the_address() -> None:
    """The pages count together."""
    statuses = [
        post(PAGES[number % 2], f"user-{number}").status_code for number in range(40)
    ]
    assert statuses == [200] * MAX_PER_ADDRESS + [429] * (40 - MAX_PER_ADDRESS)
    assert post(PAGES[0], password="secret words").status_code == 429


@pytest.mark.parametrize(
    "name", ["Alice", "ALICE", "\uff41lice", " alice", "alice\t", "\u3000alice\xa0"]
)
def test_a_name_in_another_writing_is_the_same_user(name: str) -> None:
    for _ in range(MAX_PER_USER):
        post(PAGES[0], name)
    assert post(PAGES[0], "alice").status_code == 429


def test_an_ipv6_network_is_one_address() -> None:
    for number in range(MAX_PER_USER):
        post(PAGES[0], address=f"2001:db8::{number}")
    assert post(PAGES[0], address="2001:db8::ffff").status_code == 429
    assert post(PAGES[0], address="2001:db8:0:1::").status_code == 200


def test_a_forged_forwarded_address_is_no_way_out() -> None:
    for number in range(MAX_PER_USER + 1):
        client = Client(REMOTE_ADDR=HERE, HTTP_X_FORWARDED_FOR=f"198.51.100.{number}")
        last = client.post(PAGES[0], {"username": "alice", "password": "wrong"})
    assert last.status_code == 429


def test_the_address_behind_a_trusted_proxy_counts(settings: Any) -> None:
    settings.WEBSOCKET = {"trusted_proxies": ["10.0.0.0/8"]}
    values = {"username": "alice", "password": "wrong"}

    def post_through_proxy(forwarded: str) -> int:
        client = Client(REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR=forwarded)
        status: int = client.post(PAGES[0], values).status_code
        return status

    for _ in range(MAX_PER_USER + 1):
        post_through_proxy("198.51.100.7")
    assert post_through_proxy("198.51.100.7") == 429
    assert post_through_proxy("198.51.100.8") == 200


def test_a_right_password_clears_the_failures_of_its_user() -> None:
    for _ in range(3):
        for _ in range(MAX_PER_USER - 1):
            assert post(PAGES[0]).status_code == 200
        assert post(PAGES[0], password="secret words").status_code == 302
    assert not FailedSignIn.objects.exists()


def test_an_own_session_clears_no_failures_of_others() -> None:
    """The sign-in page redirects a user that is signed in, whatever it posts."""
    User.objects.create_user("mallory", password="other words")
    for _ in range(MAX_PER_USER):
        post(PAGES[1])
    mallory = Client(REMOTE_ADDR=HERE)
    mallory.force_login(User.objects.get(username="mallory"))
    mallory.post(PAGES[0], {"username": "alice", "password": "wrong"})
    assert post(PAGES[1]).status_code == 429


def test_a_lock_ends_and_its_rows_are_deleted() -> None:
    for _ in range(MAX_PER_USER + 1):
        post(PAGES[0])
    assert FailedSignIn.objects.count() == MAX_PER_USER
    FailedSignIn.objects.update(at=timezone.now() - timedelta(seconds=901))
    assert post(PAGES[0], password="secret words").status_code == 302
    assert not FailedSignIn.objects.exists()


@pytest.mark.parametrize("page", PAGES)
def test_the_page_itself_is_never_limited(page: str) -> None:
    for _ in range(MAX_PER_USER + 1):
        post(page)
    assert Client(REMOTE_ADDR=HERE).get(page).status_code == 200
