"""Cases of a replica that lags; test_routers.py runs them."""

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command

from connections import close_codes
from connections.config.loader import get_config
from connections.credentials.recheck import AuthorisationSnapshot, find_close_reasons
from connections.credentials.sessions import verify_session
from connections.credentials.tickets import issue_ticket, redeem_ticket
from connections.credentials.tokens import create_access_token, verify_access_token
from connections.models import Ban, CloseRequest, ForgetRequest
from connections.storage.database import require_tables
from sessions_history.questions import find_user
from sessions_history.reads import Claim, read_snapshot
from tests.connections.login import log_in
from tests.sessions_history.appends import make_session

pytestmark = pytest.mark.django_db(databases=["default", "replica"], transaction=True)


def test_a_token_is_valid_at_once_with_its_user() -> None:
    alice = User.objects.create_user("alice")
    token, _ = create_access_token("a", user=alice)
    credential = verify_access_token(token)
    assert credential.user == alice
    config = get_config()
    ticket = issue_ticket(credential, "", config.tickets)
    assert ticket is not None
    assert redeem_ticket(ticket, "", config.tickets, config.jwt).user == alice


def test_a_session_is_valid_at_once() -> None:
    alice = User.objects.create_user("alice")
    key = log_in(alice)
    # The backends of Django read the user where the router reads.
    User(pk=alice.pk, username="alice", password=alice.password).save(using="replica")
    assert verify_session(key).user == alice
    assert verify_session(key).expires_at is not None


def test_a_revocation_is_found_at_once() -> None:
    alice = User.objects.create_user("alice")
    snapshot = AuthorisationSnapshot(
        connection_id="c", user_id=alice.pk, session_key=log_in(alice)
    )
    assert find_close_reasons([snapshot]) == {}
    User.objects.using("default").update(is_active=False)
    assert find_close_reasons([snapshot]) == {"c": close_codes.DEACTIVATED}


def test_bans_and_close_requests_are_read_at_once() -> None:
    Ban.objects.create(target="client", value="a")
    CloseRequest.objects.post([CloseRequest(target="all", reason="kicked")])
    assert Ban.objects.in_force().count() == 1
    assert CloseRequest.objects.recent().count() == 1


def test_a_session_that_was_just_begun_is_found() -> None:
    session_id = make_session("a")
    assert not read_snapshot(session_id, "a", Claim()).position.is_provisional


def test_a_responder_gets_a_user_who_has_just_signed_up() -> None:
    alice = User.objects.create_user("alice")
    assert find_user(str(alice.pk)) == alice


def test_the_tables_are_found() -> None:
    require_tables()


def test_a_person_who_has_just_asked_for_it_is_forgotten() -> None:
    """The command reads its request again, which the replica does not have yet."""
    Ban.objects.create(target="client", value="a")
    call_command("forget", "--client", "a")
    assert not Ban.objects.exists()
    assert not ForgetRequest.objects.exists()
