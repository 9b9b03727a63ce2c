"""Values fit their columns, and rows outlive what they refer to."""

from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.db.migrations import AddField
from django.db.migrations.loader import MigrationLoader

from connections.close_codes import APPLICATION, CLOSE_REASONS, PEER
from connections.hub.connection import new_connection_id
from connections.models import AccessToken, CloseRequest, Connection, ErrorEvent, Node
from tests.connections.rows import make_connection_row, make_node_row

pytestmark = pytest.mark.django_db

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("reason", [*CLOSE_REASONS, APPLICATION, PEER])
def test_every_reason_and_code_can_be_stored(reason: str) -> None:
    """The largest code that a client may send is 4999 (RFC 6455, section 7.4.2)."""
    close_reason = CLOSE_REASONS.get(reason)
    row = make_connection_row(
        "c1", reason=reason, close_code=close_reason.code if close_reason else 4999
    )
    row.clean_fields(exclude=["node", "path"])
    CloseRequest(target="all", reason=reason).clean_fields()


def test_ids_fit_and_the_newest_comes_first() -> None:
    first = make_connection_row("0" * 32)
    second = make_connection_row(new_connection_id())
    second.clean_fields(exclude=["node", "path"])
    assert list(Connection.objects.all()) == [second, first]


def test_a_row_may_name_a_user_and_a_node_that_are_gone() -> None:
    """A batch does not fail because a user in it was deleted meanwhile."""
    make_connection_row("c1", user_id=999)
    ErrorEvent.objects.create(
        error_id="e1", connection_id="gone", node_id="gone", at=START, where="w"
    )
    assert not Node.objects.exists()
    assert Connection.objects.get().user_id == 999


def test_a_record_outlives_its_user_and_a_token_does_not() -> None:
    user = User.objects.create_user("alice")
    make_connection_row("c1", user_id=user.pk)
    AccessToken.objects.create(digest="d", client_id="alice", user=user)
    user.delete()
    assert Connection.objects.get().user_id is None
    assert not AccessToken.objects.exists()


def test_an_error_outlives_its_connection() -> None:
    make_node_row()
    row = make_connection_row("c1")
    ErrorEvent.objects.create(
        error_id="e1", connection=row, node_id="n1", at=START, where="w"
    )
    row.delete()
    assert ErrorEvent.objects.get().connection_id == "c1"


def test_a_token_is_stored_once() -> None:
    AccessToken.objects.create(digest="d", client_id="alice")
    with pytest.raises(IntegrityError), transaction.atomic():
        AccessToken.objects.create(digest="d", client_id="bob")


def test_the_database_dates_a_close_request() -> None:
    request = CloseRequest.objects.create(target="all", reason="kicked")
    request.refresh_from_db()
    assert request.created_at.tzinfo is not None


def test_rows_are_named_without_a_secret() -> None:
    node = make_node_row("0123456789abcdef")
    token = AccessToken(digest="digest", hint="abcdefgh", client_id="alice")
    request = CloseRequest(target="client", value="alice", reason="kicked")
    assert [str(one) for one in (node, token, request)] == [
        "h:1 (01234567)",
        "alice (abcdefgh…)",
        "kicked: client alice",
    ]
    assert str(CloseRequest(target="all", reason="kicked")) == "kicked: all"


def test_no_migration_adds_a_column_with_a_check() -> None:
    """PostgreSQL reads the whole table for it, while nobody else may use it."""
    released = {"0006_minute_rollups", "0012_rollup_memory"}
    found = {
        name
        for (app, name), migration in MigrationLoader(
            connection
        ).disk_migrations.items()
        if app in ("connections", "sessions_history")
        for one in migration.operations
        if isinstance(one, AddField)
        and one.field.get_internal_type().startswith("Positive")
    }
    assert found == released
