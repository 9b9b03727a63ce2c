"""Load the browser client in Chromium from files that have hashes in their names."""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage
from django.core.management import call_command
from django.template import Context, Template
from playwright.async_api import Response

from tests.integration.browser import open_browser

PAGE = """
<!doctype html><title>empty</title>
{% load browser_modules static %}{% import_map %}
<script type="module">
  import { SessionClient } from "{% static 'connections/client.js' %}";
  document.title = SessionClient.name;
</script>
"""


class AggregatingStorage(ManifestStaticFilesStorage):
    """Writes the hashed names into the imports of modules."""

    support_js_module_import_aggregation = True


@pytest.fixture(params=[True, False], ids=["import map", "aggregation"])
def url(settings: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Serve a page, and of the static files only those with a hash."""
    has_map = request.param
    storage = ManifestStaticFilesStorage if has_map else AggregatingStorage
    settings.DEBUG = False
    settings.STATIC_ROOT = tmp_path / "static"
    settings.STATIC_URL = "/static/"
    path = f"{storage.__module__}.{storage.__qualname__}"
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": path}}
    call_command("collectstatic", interactive=False, verbosity=0)
    manifest = json.loads((settings.STATIC_ROOT / "staticfiles.json").read_text())
    for plain in manifest["paths"]:
        (settings.STATIC_ROOT / plain).unlink()
    page = PAGE if has_map else PAGE.replace("{% import_map %}", "")
    (tmp_path / "index.html").write_text(Template(page).render(Context()))
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path)
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


async def test_every_import_resolves_to_a_hashed_file(url: str) -> None:
    async with open_browser() as browser:
        page = await browser.new_page()
        statuses: dict[str, int] = {}

        def record(response: Response) -> None:
            statuses[response.url] = response.status

        page.on("response", record)
        await page.goto(url)
        await page.wait_for_function("document.title !== 'empty'")
        assert await page.title() == "SessionClient"
        modules = {url: status for url, status in statuses.items() if ".js" in url}
        assert len(modules) > 8
        assert set(modules.values()) == {200}
