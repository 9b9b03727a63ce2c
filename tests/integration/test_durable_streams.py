"""Hold the streams of sessions to the conformance suite of Durable Streams."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from connections.testing import Servers
from connections.testing.waiting import scale
from tests.integration.nginx import open_to_workers
from tests.integration.plain_proxy import run_plain_proxy
from tests.project import ROOT

SUITE = "@durable-streams/server-conformance-tests@0.3.6"
TESTS = ROOT / "tests" / "integration" / "durable_streams.test.mjs"
NOT_APPLICABLE = ROOT / "tests" / "integration" / "durable_streams.json"
"""The names of the tests that ask for what a session is not, by the reason."""

CONFIG = {
    "rate_limit__messages_per_second": 100_000,
    "rate_limit__burst_messages": 100_000,
    "max_connections_per_client": 500,
    "http__max_requests_per_address": 1000,
    "sessions__max_sessions_per_client": 0,
}
_SECONDS = 150


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the suite; without npm skip the test, or fail in CI."""
    npm = shutil.which("npm")
    if npm is None:
        if os.environ.get("CI"):
            pytest.fail("npm is missing")
        pytest.skip("npm is missing")
    folder = tmp_path_factory.mktemp("suite")
    (folder / "package.json").write_text('{"private":true,"type":"module"}')
    command = (npm, "install", "--no-fund", "--no-audit", "--no-package-lock", SUITE)
    subprocess.run(command, cwd=folder, check=True, timeout=scale(_SECONDS))
    shutil.copy(TESTS, folder)
    return folder


def read_expected() -> dict[str, list[str]]:
    expected: dict[str, list[str]] = json.loads(NOT_APPLICABLE.read_text())
    return expected


def test_all_that_a_session_can_be_conforms(servers: Servers, suite: Path) -> None:
    """Behind a proxy that maps the names of streams, as a project may."""
    server = servers.start(config=CONFIG)
    directives = (
        r"rewrite ^/v1/stream/([^/]+)$ /api/sessions/$1/stream/ break;"
        f' proxy_set_header Authorization "Bearer {server.create_token()}";'
    )
    with (
        open_to_workers(suite / "proxy") as folder,
        run_plain_proxy(folder, server.port, directives) as port,
    ):
        results = run_suite(suite, f"http://127.0.0.1:{port}")
    passed = {name for name, status in results.items() if status == "passed"}
    listed = {name for names in read_expected().values() for name in names}
    missing = sorted(results.keys() - listed - passed)
    assert not missing, f"failed: {missing}"
    assert not passed & listed, "these pass now: take them off the list"
    assert len(results) == len(passed) + len(listed)


def run_suite(folder: Path, url: str) -> dict[str, str]:
    """Return the status of each test by its name."""
    report = folder / "report.json"
    subprocess.run(
        [
            *(folder / "node_modules" / ".bin" / "vitest", "run", TESTS.name),
            *("--reporter=json", f"--outputFile={report}"),
            # Twice that of vitest on the reference machine.
            f"--testTimeout={scale(5) * 1000:.0f}",
        ],
        cwd=folder,
        env={**os.environ, "CONFORMANCE_TEST_URL": url},
        capture_output=True,
        timeout=scale(_SECONDS),
        check=False,
    )
    files = json.loads(report.read_text())["testResults"]
    return {
        " > ".join([*one["ancestorTitles"], one["title"]]): one["status"]
        for file in files
        for one in file["assertionResults"]
    }


def test_the_page_counts_what_does_not_apply() -> None:
    page = (ROOT / "docs" / "howto" / "plain_http.md").read_text()
    counts = dict(re.findall(r"^\| ([a-z]+) \| (\d+) \|", page, re.MULTILINE))
    expected = {key: str(len(names)) for key, names in read_expected().items()}
    assert {key: counts.get(key) for key in expected} == expected
    assert counts["passed"] == str(338 - sum(map(int, expected.values())))
