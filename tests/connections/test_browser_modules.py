"""Test the import map of the browser client's modules."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.management import call_command
from django.template import Context, Template

TEMPLATE = Template("{% load browser_modules %}{% import_map %}")
MANIFEST = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"


@pytest.fixture
def hashed(settings: Any, tmp_path: Path) -> Path:
    """Collect the static files into a folder, with hashes in their names."""
    settings.DEBUG = False
    settings.STATIC_ROOT = tmp_path
    settings.STATIC_URL = "/static/"
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": MANIFEST},
    }
    call_command("collectstatic", interactive=False, verbosity=0)
    return tmp_path


def test_hashed_names_are_mapped(hashed: Path) -> None:
    page = TEMPLATE.render(Context({"csp_nonce": "abc"}))
    head, _, rest = page.partition(">")
    assert head == '<script type="importmap" nonce="abc"'
    imports = json.loads(rest.removesuffix("</script>"))["imports"]
    for plain, url in imports.items():
        name = plain.removeprefix("/static/")
        assert url == staticfiles_storage.url(name) != plain
        assert (hashed / url.removeprefix("/static/")).is_file()
    modules = {path.name for path in hashed.glob("connections/*.js")}
    named = {Path(plain).name for plain in imports}
    assert named <= modules
    assert {"client.js", "outbox.js", "close_codes.js"} <= named


def test_the_nonce_of_a_request_is_taken(hashed: Path) -> None:
    request = SimpleNamespace(csp_nonce='"><b>')
    page = TEMPLATE.render(Context({"request": request}))
    assert 'nonce="&quot;&gt;&lt;b&gt;"' in page
    assert "nonce" not in TEMPLATE.render(Context())


def test_plain_names_need_no_map() -> None:
    assert TEMPLATE.render(Context()) == ""
