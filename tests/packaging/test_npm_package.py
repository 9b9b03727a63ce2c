"""Test the npm package: its contents, its sizes, its types and its hook."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.node_packages import SOURCE, NodePackage
from tests.project import ROOT

MODULES = ROOT / "connections" / "static" / "connections"
REACT_TEST = Path(__file__).with_name("react.test.mjs")
NAME = "orchestra-websocket-client"
BUDGETS = {
    "client": 8_000,
    "http": 3_000,
    "react": 1_500,
    "shared": 9_500,
    "ai_sdk": 5_000,
    "ag_ui": 5_000,
}
"""Bytes of each entry, minified and compressed; `shared` has the client in it."""
ADDED = ("react", "ai_sdk", "ag_ui")
"""Entries that are measured without the client that they need."""

TYPESCRIPT = """
import { SessionClient, textOf } from "NAME";
import { HttpSessions } from "NAME/http";
import { useSession } from "NAME/react";
import { SharedConnection } from "NAME/shared";
import { SessionTransport } from "NAME/ai-sdk";
import { SessionAgent } from "NAME/ag-ui";
import { type AbstractAgent } from "@ag-ui/client";
import { type UIMessage } from "ai";
import { Chat as AiChat, useChat } from "@ai-sdk/react";

const show = (text: string): void => console.log(text);
const client = new SessionClient("/ws/");
client.addEventListener("delta", ({ detail }) => show(detail.text));
const shared = new SharedConnection("/ws/", { getToken: () => "token" });
shared.addEventListener("notice", ({ detail }) => show(detail.text));
const one = shared.session("s1");
one.addEventListener("entry", ({ detail }) => show(textOf(detail.entry)));
export const useShared = () => useSession(shared, { session: "s2" }).entries.length;
new HttpSessions("/api/").list().then(({ items }) => show(items[0].title));
export function Chat(): string {
  const { state, entries, request } = useSession("/ws/", { presence: true });
  request({ text: "hi" }, { answer: false }).then(({ id }) => show(id));
  // @ts-expect-error: a snapshot never changes.
  entries.push(entries[0]);
  return state + entries.map(textOf).join("");
}
export function OtherChat({ messages }: { messages: UIMessage[] }): string {
  const transport = new SessionTransport(client);
  const chat = new AiChat({ transport, messages });
  const { setMessages, status } = useChat({ chat, resume: true });
  show(String(transport.follow(setMessages)));
  return status;
}
const agent: AbstractAgent = new SessionAgent(client, { threadId: "thread" });
agent.runAgent().then(({ newMessages }) => show(newMessages[0].id));
"""


@pytest.fixture(scope="module")
def packed(package: NodePackage) -> Any:
    """What `npm pack` would publish."""
    (packed,) = json.loads(
        package.run("npm", "pack", "--dry-run", "--json", cwd=package.built)
    )
    return packed


def test_the_package_has_the_modules_their_types_and_nothing_else(
    package: NodePackage, packed: Any
) -> None:
    names = {one["path"] for one in packed["files"]}
    modules = {name for name in names if name.endswith(".js")}
    types = {f"{name.removesuffix('.js')}.d.ts" for name in modules}
    assert names == modules | types | {"LICENSE", "README.md", "package.json"}
    assert {f"lib/{entry}.js" for entry in BUDGETS} <= modules
    assert "lib/live.js" not in modules
    for name in modules:
        own, static = (folder / Path(name).name for folder in (SOURCE, MODULES))
        original = own if own.exists() else static
        assert (package.built / name).read_bytes() == original.read_bytes()


def test_the_package_says_what_it_is(package: NodePackage, packed: Any) -> None:
    described = json.loads((package.built / "package.json").read_text())
    assert (packed["name"], described["license"]) == (NAME, "BSD-3-Clause")
    assert described["sideEffects"] is False
    assert "devDependencies" not in described
    assert packed["version"] == described["version"] != "0.0.0"
    for entry in described["exports"].values():
        targets = entry.values() if isinstance(entry, dict) else [entry]
        assert all((package.built / target).is_file() for target in targets)


def test_no_copy_of_a_module_is_in_the_repository() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(listed.stdout.split()) == {
        *("LICENSE", "README.md", "build.py", "package.json"),
        *("ag_ui.js", "ag_ui_events.js", "ai_sdk.js", "ai_sdk_chunks.js"),
        *("answers.js", "react.js"),
    }


@pytest.mark.parametrize("entry", BUDGETS)
def test_an_entry_is_within_its_budget(package: NodePackage, entry: str) -> None:
    bundled = package.run(
        *("npx", "--no-install", "esbuild", f"package/lib/{entry}.js", "--bundle"),
        *("--minify", "--format=esm", "--target=es2022"),
        *(f"--external:{name}" for name in ("react", "ai", "@ag-ui/client", "rxjs")),
        *(["--external:./client.js"] if entry in ADDED else []),
    )
    size = len(gzip.compress(bundled.encode(), 9))
    assert 100 < size <= BUDGETS[entry]


def test_an_unused_entry_is_left_out_of_a_bundle(package: NodePackage) -> None:
    source = package.folder / "unused.js"
    unused = "".join(f'import "{NAME}{one}";' for one in ("", "/http", "/shared"))
    source.write_text(f"{unused} console.log(1);")
    bundled = package.run(
        *("npx", "--no-install", "esbuild", "unused.js", "--bundle", "--format=esm")
    )
    assert "class" not in bundled
    assert "console.log(1)" in bundled


def test_a_typescript_project_uses_all_entries(package: NodePackage) -> None:
    (package.folder / "chat.mts").write_text(TYPESCRIPT.replace("NAME", NAME))
    package.run(
        *("npx", "--no-install", "tsc", "--noEmit", "--strict", "--target", "es2022"),
        *("--module", "nodenext", "--moduleResolution", "nodenext", "--skipLibCheck"),
        *("--lib", "es2023,dom,dom.iterable", "chat.mts"),
    )


def test_the_hook_is_right_in_the_real_react(package: NodePackage) -> None:
    shutil.copy(REACT_TEST, package.folder)
    fakes = (ROOT / "tests" / "js" / "fakes.mjs").as_uri()
    package.run("node", "--test", REACT_TEST.name, FAKES=fakes)
