"""Test the adapters to other protocols with their npm packages, on a live server."""

import shutil
from pathlib import Path

from connections.testing import Servers
from connections.testing.waiting import scale
from tests.packaging.node_packages import NodePackage
from tests.project import ROOT

FAKES = ROOT / "tests" / "js" / "fakes.mjs"
RESPONDER = {"SESSIONS_RESPONDER": "tests.packaging.responder.Everything"}


def run(package: NodePackage, servers: Servers, name: str) -> None:
    """Run the tests of an adapter in node, beside the packages that it adapts to."""
    server = servers.start(environment=RESPONDER)
    for module in (name, "chats.mjs"):
        shutil.copy(Path(__file__).with_name(module), package.folder)
    package.run(
        *("node", "--test", f"--test-timeout={scale(120_000):.0f}", name),
        FAKES=FAKES.as_uri(),
        SERVER=server.url,
        TOKEN=server.create_token(),
    )


def test_a_chat_of_the_ai_sdk_works_against_a_session(
    package: NodePackage, servers: Servers
) -> None:
    run(package, servers, "ai_sdk.test.mjs")


def test_an_agent_of_ag_ui_works_against_a_session(
    package: NodePackage, servers: Servers
) -> None:
    run(package, servers, "ag_ui.test.mjs")
