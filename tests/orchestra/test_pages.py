"""The demonstration's pages, without a browser."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import AsyncClient, Client
from django.test.utils import override_script_prefix

from orchestra.views import make_title
from sessions_history.models import HistoryEntry, Session

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.django_db


@pytest.fixture
def user(client: Client) -> User:
    user = User.objects.create_user("alice", password="secret words")
    client.force_login(user)
    return user


@pytest.fixture
def served_files(settings: Any) -> None:
    settings.SERVESTATIC_USE_FINDERS = True


def add_session(client_id: str, session_id: str, data: str) -> None:
    session = Session.objects.create(
        session_id=session_id, client_id=client_id, epoch="e", last_offset=1
    )
    HistoryEntry.objects.create(
        session=session, offset=1, kind="message", sender="client", data=data
    )


def test_a_stranger_is_asked_to_sign_in(client: Client) -> None:
    response = client.get("/?session=abc")
    assert response.status_code == 302
    assert response["Location"] == "/sign-in/?next=/%3Fsession%3Dabc"


def test_the_pages_addresses_have_the_url_prefix(client: Client) -> None:
    client.force_login(User.objects.create_user("bob"))
    client.get("/")  # Django keeps the address of static files from its first use.
    with override_script_prefix("/app/"):
        page = client.get("/").content.decode()
    assert 'data-socket="/app/ws/sessions/" data-sign-in="/app/sign-in/"' in page


def test_signing_in_leads_back_to_the_conversation(client: Client) -> None:
    User.objects.create_user("bob", password="secret words")
    page = client.get("/sign-in/?next=/%3Fsession%3Dabc").content.decode()
    assert 'name="next" value="/?session=abc"' in page
    wrong = client.post("/sign-in/", {"username": "bob", "password": "no"})
    assert 'role="alert"' in wrong.content.decode()
    right = client.post(
        "/sign-in/",
        {"username": "bob", "password": "secret words", "next": "/?session=abc"},
    )
    assert right["Location"] == "/?session=abc"


def test_one_sees_ones_own_conversations_alone(client: Client, user: User) -> None:
    add_session(f"user:{user.pk}", "a" * 32, '{"text":"Hello <b>there</b>"}')
    add_session("user:999", "b" * 32, '{"text":"Not yours"}')
    page = client.get("/").content.decode()
    assert f'href="?session={"a" * 32}"' in page
    assert "Hello &lt;b&gt;there&lt;/b&gt;" in page
    assert "just now</time>" in page
    assert "Not yours" not in page


def test_a_conversation_has_its_own_title_before_its_first_words(
    client: Client, user: User
) -> None:
    add_session(f"user:{user.pk}", "a" * 32, '{"text":"Hello"}')
    Session.objects.update(title="<Plans>")
    page = client.get("/").content.decode()
    assert "&lt;Plans&gt;" in page
    assert "Hello" not in page


@pytest.mark.parametrize(
    ("first_said", "title"),
    [
        ('{"text":" two\\n words "}', "two words"),
        ('"plain"', "plain"),
        ("[1]", "[1]"),
        ('{"text":""}', "Untitled"),
        (None, "Untitled"),
        ('{"text":"%s"}' % ("word " * 40), "word " * 11 + "word…"),
    ],
)
def test_a_conversation_is_called_by_its_first_words(
    first_said: str | None, title: str
) -> None:
    assert make_title(first_said) == title


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize("path", ["/", "/sign-in/", "/livez", "/admin/login/"])
def test_every_page_has_a_strict_policy(client: Client, path: str) -> None:
    policy = client.get(path)["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "unsafe" not in policy


async def test_pages_that_are_served_asynchronously_have_it_too(
    async_client: AsyncClient,
) -> None:
    response = await async_client.get("/livez")
    assert "Content-Security-Policy" in response.headers


def test_no_page_carries_script_or_style_in_it() -> None:
    templates = sorted((ROOT / "templates" / "orchestra").glob("*.html"))
    assert templates
    for path in templates:
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text), path
        assert not re.search(r"<script(?![^>]*\ssrc=)", text), path


@pytest.mark.usefixtures("served_files")
def test_what_pages_load_is_there(client: Client, user: User) -> None:
    page = client.get("/").content.decode()
    found = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page))
    assert len(found) >= 4
    for address in found:
        assert client.get(address).status_code == 200


@pytest.mark.usefixtures("served_files")
def test_every_browser_finds_an_icon(client: Client) -> None:
    """Pages that name none, as those of the admin, get the one at /favicon.ico."""
    response = client.get("/favicon.ico")
    assert response.status_code == 302
    icon = client.get(response["Location"])
    assert icon["Content-Type"] == "image/svg+xml"


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize("name", [None, "SESSIONS_RESPONDER", "SESSIONS_PERFORMER"])
@pytest.mark.filterwarnings("ignore:.*SESSIONS_PERFORMER:DeprecationWarning")
def test_a_page_where_nobody_answers_says_so(
    client: Client, settings: Any, name: str | None
) -> None:
    settings.SESSIONS_RESPONDER = settings.SESSIONS_PERFORMER = None
    if name is not None:
        setattr(settings, name, "orchestra.responders.EchoResponder")
    page = client.get("/").content.decode()
    assert ("Nobody answers here" in page) is (name is None)


def test_the_lists_of_users_and_groups_take_listed_lookups_alone(
    admin_client: Client,
) -> None:
    users, groups = "/admin/auth/user/", "/admin/auth/group/"
    for query in ("username__regex=(a|a)*b", "password__startswith=pbkdf2", "id__gt=0"):
        assert admin_client.get(f"{users}?{query}").status_code == 400
    assert admin_client.get(f"{groups}?name__regex=(a|a)*b").status_code == 400
    listed = "is_staff__exact=1&is_active__exact=1&groups__id__exact=1&q=a&o=1"
    assert admin_client.get(f"{users}?{listed}").status_code == 200
    assert admin_client.get(f"{users}?_popup=1&_to_field=id").status_code == 200
    assert admin_client.get(f"{groups}?q=a").status_code == 200
    user = User.objects.get()
    assert admin_client.get(f"{users}{user.pk}/change/").status_code == 200
    assert admin_client.get(f"{users}add/").status_code == 200
