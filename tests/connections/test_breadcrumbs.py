"""Test that pages of ours have the breadcrumbs of the installed Django."""

import re
from pathlib import Path

import pytest
from django.template import Context, Template
from django.test import Client

import connections
from tests.connections.dashboard_pages import URL

TEMPLATES = Path(connections.__file__).parent / "templates"
OWN_MARKUP = re.compile(r'<(\w+) class="breadcrumbs">')


@pytest.mark.usefixtures("dashboard")
def test_the_dashboard_marks_them_up_as_the_admin_does(admin_client: Client) -> None:
    """The style sheet of Django 6.1 knows a list, the releases before it a `div`."""
    ours, theirs = (
        re.findall(OWN_MARKUP, admin_client.get(page).content.decode())
        for page in (URL, "/admin/auth/user/")
    )
    assert ours == theirs != []


def test_the_last_one_is_the_page_and_text_stays_text() -> None:
    source = (
        '{% load breadcrumbs %}{% breadcrumbs %}\n<a href="/">Home</a>\n\n'
        "{{ name }}\n{% endbreadcrumbs %}"
    )
    text = Template(source).render(Context({"name": "<b>x"}))
    shown = re.sub(r"<(?!a |/a)[^>]*>", "", text.replace(" &rsaquo; ", "\n")).strip()
    assert shown.split("\n") == ['<a href="/">Home</a>', "&lt;b&gt;x"]


def test_every_template_leaves_the_markup_to_the_tag() -> None:
    written = [
        path.name
        for path in TEMPLATES.rglob("*.html")
        if re.search(OWN_MARKUP, path.read_text())
    ]
    assert written == []
