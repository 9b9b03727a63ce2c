"""Test the command that prepares a development server."""

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

pytestmark = pytest.mark.django_db


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.DEBUG = True
    settings.VAR_DIR = tmp_path
    return tmp_path


def read_password(folder: Path) -> str:
    return (folder / "development_password").read_text().strip()


def test_two_users_have_the_password_of_the_file(folder: Path) -> None:
    call_command("prepare_development")
    admin, guest = User.objects.order_by("username")
    assert (admin.username, admin.is_superuser) == ("admin", True)
    assert (guest.username, guest.is_staff, guest.is_superuser) == (
        "guest",
        False,
        False,
    )
    for user in (admin, guest):
        assert user.check_password(read_password(folder))
    path = folder / "development_password"
    assert path.stat().st_mode & 0o077 == 0


def test_a_second_run_changes_nothing(folder: Path) -> None:
    call_command("prepare_development")
    before = [one.read_text() for one in sorted(folder.iterdir())]
    hashes = set(User.objects.values_list("password", flat=True))
    call_command("prepare_development")
    assert [one.read_text() for one in sorted(folder.iterdir())] == before
    assert set(User.objects.values_list("password", flat=True)) == hashes


def test_a_user_that_is_missing_gets_the_password_of_the_others(folder: Path) -> None:
    call_command("prepare_development")
    User.objects.filter(username="guest").delete()
    password = read_password(folder)
    call_command("prepare_development")
    assert User.objects.get(username="guest").check_password(password)
    assert read_password(folder) == password


def test_a_lost_file_gives_all_a_new_password(folder: Path) -> None:
    call_command("prepare_development")
    (folder / "development_password").unlink()
    call_command("prepare_development")
    for user in User.objects.all():
        assert user.check_password(read_password(folder))


def test_it_refuses_to_run_in_production(settings: Any) -> None:
    settings.DEBUG = False
    with pytest.raises(CommandError, match="set DEBUG=true"):
        call_command("prepare_development")
    assert not User.objects.exists()
