"""Test the command that creates the first user of the admin."""

from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

pytestmark = pytest.mark.django_db


def run() -> str:
    output = StringIO()
    call_command("create_first_admin", stdout=output)
    return output.getvalue()


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_USERNAME", "ann")
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "correct-horse-battery")


def test_it_creates_the_first_admin_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run() == "created the superuser ann\n"
    ann = User.objects.get()
    assert ann.is_superuser
    assert ann.check_password("correct-horse-battery")
    monkeypatch.setenv("DJANGO_SUPERUSER_USERNAME", "bob")
    assert run() == "there is a superuser already\n"
    assert User.objects.get() == ann


@pytest.mark.parametrize(
    ("password", "problem"), [("", "set DJANGO_SUPERUSER"), ("12345", "too short")]
)
def test_a_missing_or_weak_password_creates_nobody(
    monkeypatch: pytest.MonkeyPatch, password: str, problem: str
) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", password)
    with pytest.raises(CommandError, match=problem):
        run()
    assert not User.objects.exists()
