"""Test how operators name users: by key or by login name, and never by chance."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from connections.access.bans import impose
from connections.credentials.identity import API_SCOPES
from connections.models import AccessToken, Ban
from connections.node.current import get_node
from tests.connections.operator import get_code, make_operator
from tests.connections.own_users import run_with_user_model

COMMANDS = (
    ("ban",),
    ("unban",),
    ("ban", "--list"),
    ("connections", "list"),
    ("connections", "kick"),
)
"""The commands whose option --user takes a key or a login name."""

BY_LOGIN_NAME = (
    ("create_access_token", "--client", "c1"),
    ("forget",),
    ("export_person",),
)
"""The commands whose option --user takes a login name alone."""


def run(*arguments: str) -> str:
    output = StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue()


@pytest.mark.django_db
@pytest.mark.parametrize("command", COMMANDS)
def test_a_key_that_another_user_has_as_a_login_name_is_refused(
    command: tuple[str, ...],
) -> None:
    one = User.objects.create_user("one")
    User.objects.create_user(str(one.pk))
    with pytest.raises(CommandError, match=f"'{one.pk}' is the key of one user and"):
        run(*command, "--user", str(one.pk))
    assert not Ban.objects.exists() and not AccessToken.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("command", BY_LOGIN_NAME)
def test_a_key_names_nobody_for_what_cannot_be_undone(command: tuple[str, ...]) -> None:
    """The user with the login name may be gone, and the key be somebody else's."""
    one = User.objects.create_user("one")
    Ban.objects.create(target="user", value=str(one.pk))
    with pytest.raises(CommandError, match=f"no user with the login name '{one.pk}'"):
        run(*command, "--user", str(one.pk))
    assert Ban.objects.exists() and not AccessToken.objects.exists()


@pytest.mark.django_db
def test_users_are_banned_by_their_other_names(admin_client: Client) -> None:
    """The login name of one is the key of another, who can be banned all the same."""
    one = User.objects.create_user("one")
    key = str(one.pk)
    other = User.objects.create_user(key)
    for name, banned in (("one", key), (str(other.pk), str(other.pk))):
        run("ban", "--user", name)
        assert Ban.objects.get().value == banned
        run("unban", "--user", name)
        assert not Ban.objects.exists()
    form = {"target": "user", "value": key, "until_0": "", "until_1": ""}
    page = admin_client.post("/admin/connections/ban/add/", form).content.decode()
    assert "is the key of one user and the login name of another" in page
    form["value"] = "one"
    assert admin_client.post("/admin/connections/ban/add/", form).status_code == 302
    assert Ban.objects.get().value == key
    # A key that nobody can take away by a login name.
    third = User.objects.create_user(str(other.pk))
    Ban.objects.all().delete()
    with pytest.raises(CommandError, match="or a key as 'key="):
        run("ban", "--user", str(other.pk))
    run("ban", "--user", f"key={other.pk}")
    assert Ban.objects.get().value == str(other.pk)
    run("unban", "--user", f"key={other.pk}")
    with pytest.raises(CommandError, match="there is no user"):
        run("ban", "--user", f"key={third.pk + 1}")
    # Code and the dashboard give keys.
    Ban.objects.all().delete()
    impose(Ban(target="user", value=key))
    assert Ban.objects.get().value == key


@pytest.mark.django_db
def test_another_spelling_of_a_key_names_nobody() -> None:
    one = User.objects.create_user("one")
    for text in (f"00{one.pk}", f"0_{one.pk}", f"+{one.pk}", f" {one.pk}"):
        with pytest.raises(CommandError, match="there is no user"):
            run("ban", "--user", text)
    namesake = User.objects.create_user(f"00{one.pk}")
    run("ban", "--user", f"00{one.pk}")
    assert Ban.objects.get().value == str(namesake.pk)


@pytest.mark.django_db(transaction=True)
@pytest.mark.urls("tests.connections.operators_urls")
async def test_the_api_names_users_as_the_commands_do() -> None:
    operator = await make_operator(
        "add_ban", "view_connection", scopes=tuple(API_SCOPES)
    )
    victim = await User.objects.acreate_user("victim")
    key = str(victim.pk)
    body: dict[str, Any] = {"target": "user", "reason": "abuse"}
    assert await operator.refused("bans", 404, value=f"00{key}", **body) == "not_found"
    other = await User.objects.acreate_user(key)
    code = await operator.refused("bans", 400, value=key, **body)
    assert code == "ambiguous_user"
    content = await operator.get(f"connections?user={key}", 400)
    assert get_code(content) == "ambiguous_user"
    made = await operator.post("bans", 201, value="victim", **body)
    assert made["value"] == key
    made = await operator.post("bans", 201, value=str(other.pk), **body)
    assert made["value"] == str(other.pk)
    await get_node().stop()


WITHOUT_NATURAL_KEYS = """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=[
        "django.contrib.contenttypes", "django.contrib.auth", "channels",
        "connections", "people",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    AUTH_USER_MODEL="people.Person", SECRET_KEY="x" * 50,
)
django.setup()
from django.db import connection
from connections.management import lookups
from connections.models import Ban
from people.models import Person
with connection.schema_editor() as editor:
    editor.create_model(Person)
alice = Person.objects.create(email="alice@example.com")
ban = Ban(target="user", value="alice@example.com")
ban.clean()
print(lookups.find_user("alice@example.com") == alice, ban.value == str(alice.pk))
"""

PERSON = """
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import models

class Person(AbstractBaseUser):
    email = models.CharField(max_length=200, unique=True)
    USERNAME_FIELD = "email"
    objects = models.Manager()
"""


def test_the_manager_of_users_may_have_no_natural_keys(tmp_path: Path) -> None:
    assert run_with_user_model(tmp_path, PERSON, WITHOUT_NATURAL_KEYS) == "True True\n"


WITH_UUIDS = (
    WITHOUT_NATURAL_KEYS.partition("alice =")[0]
    + """
from uuid import UUID
key = UUID("0190d6a0-aaaa-7bbb-8ccc-1234567890ab")
alice = Person.objects.create(id=key, email="alice@example.com")
texts = (str(key), str(key).upper(), key.hex, f"key={key.hex}")
print(*(lookups.find_user(text) == alice for text in texts))
"""
)

PERSON_WITH_UUID = PERSON.replace(
    "    email", "    id = models.UUIDField(primary_key=True)\n    email"
)


def test_a_uuid_is_a_key_in_each_of_its_spellings(tmp_path: Path) -> None:
    found = run_with_user_model(tmp_path, PERSON_WITH_UUID, WITH_UUIDS)
    assert found == "True True True True\n"
