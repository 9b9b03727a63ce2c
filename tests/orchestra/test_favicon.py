"""Test the icon that browsers ask for."""

from django.test import Client


def test_a_page_without_an_icon_has_that_of_the_project(client: Client) -> None:
    response = client.get("/favicon.ico")
    assert response.status_code == 302
    assert response["Location"].endswith(".svg")
