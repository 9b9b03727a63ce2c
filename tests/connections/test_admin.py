"""Test that the admin shows records read-only."""

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import ErrorEvent
from tests.connections.rows import make_connection_row, make_node_row

pytestmark = pytest.mark.django_db


@pytest.fixture
def rows() -> None:
    now = timezone.now()
    node = make_node_row()
    connection = make_connection_row("c1", client_id="<script>alert(1)</script>")
    ErrorEvent.objects.create(
        error_id="e1",
        connection=connection,
        node=node,
        at=now,
        exception_class="builtins.KeyError",
        where="x",
    )


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("name", "key"), [("connection", "c1"), ("node", "n1"), ("errorevent", "e1")]
)
def test_lists_and_details_are_read_only(
    admin_client: Client, name: str, key: str
) -> None:
    url = f"/admin/connections/{name}/"
    assert admin_client.get(url).status_code == 200
    assert admin_client.get(url, {"q": key}).status_code == 200
    detail = admin_client.get(f"{url}{key}/change/")
    assert detail.status_code == 200
    assert b"_save" not in detail.content
    assert admin_client.get(f"{url}add/").status_code == 403
    assert admin_client.post(f"{url}{key}/delete/").status_code == 403


@pytest.mark.usefixtures("rows")
def test_nodes_are_named_by_host_and_process(admin_client: Client) -> None:
    page = admin_client.get("/admin/connections/node/").content.decode()
    assert ">h:1 (n1)</a>" in page
    assert "s ago</td>" in page


@pytest.mark.usefixtures("rows")
def test_a_planted_script_stays_text(admin_client: Client) -> None:
    page = admin_client.get("/admin/connections/connection/").content
    assert b"<script>alert(1)" not in page
    assert b"&lt;script&gt;alert(1)" in page
