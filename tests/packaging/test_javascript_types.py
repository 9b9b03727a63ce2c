"""Type-check a user's TypeScript project against the browser client."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.project import ROOT

CLIENT = ROOT / "connections" / "static" / "connections" / "client.js"
HTTP = CLIENT.with_name("http.js")
TYPESCRIPT = "typescript@7.0.2"
OPTIONS = (
    *("--noEmit", "--strict", "--allowJs", "--checkJs", "--target", "es2022"),
    *("--module", "nodenext", "--moduleResolution", "nodenext"),
    *("--lib", "es2023,dom,dom.iterable"),
)
PROJECT = """
import {
  ReconnectingSocket, RequestError, SessionClient, UnauthorizedError, textOf,
} from "CLIENT";
import { HttpSessions } from "HTTP";

const show = (text: string): void => console.log(text);
const client = new SessionClient("/ws/sessions/", {
  session: "new",
  storage: sessionStorage,
  getToken: async ({ isExpired }) => {
    if (isExpired) throw new UnauthorizedError();
    return "token";
  },
});
client.addEventListener("entry", ({ detail }) => show(textOf(detail.entry)));
client.addEventListener("state", ({ detail }) => show(detail.ending?.reason ?? ""));
client.addEventListener("dropped", ({ detail }) => show(detail.error.code));
const stop = (event: CustomEvent<{ text: string }>): void => show(event.detail.text);
client.addEventListener("notice", stop, { once: true });
client.removeEventListener("notice", stop);
// @ts-expect-error: no event has this name.
client.addEventListener("nothing", () => {});
client.connect();
client.request({ text: "Hello" }).then(
  ({ offset }) => show(String(offset + 1)),
  (error: RequestError) => show(error.code),
);
const socket = new ReconnectingSocket(() => "wss://host/ws/chat/");
socket.addEventListener("message", ({ detail }) => show(detail.text));
const sessions = new HttpSessions("/api/sessions/");
sessions.list({ limit: 5 }).then(({ items }) => show(items[0].title));
sessions.entries("x").then(({ items }) => show(textOf(items[0])));
// @ts-expect-error: a title is a text.
sessions.rename("x", null);
"""


@pytest.fixture(scope="module")
def tsc(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install the compiler; without npm skip the test, or fail in CI."""
    if shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("npm is missing")
        pytest.skip("npm is missing")
    folder = tmp_path_factory.mktemp("typescript")
    command = ["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder)]
    done = subprocess.run(
        [*command, TYPESCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return str(folder / "node_modules" / ".bin" / "tsc")


def test_a_users_typescript_is_checked_strictly(tsc: str, tmp_path: Path) -> None:
    project = tmp_path / "chat.mts"
    project.write_text(
        PROJECT.replace("CLIENT", str(CLIENT)).replace("HTTP", str(HTTP))
    )
    done = subprocess.run(
        [tsc, *OPTIONS, str(project)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
