// Test useSession() in the real React, in a document of jsdom, with fake sockets.
//
// The file runs beside the node_modules that have React and the built package.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { afterEach, beforeEach, test } from "node:test";

import { JSDOM } from "jsdom";

const { window } = new JSDOM("<div id=root></div>", { url: "https://host/" });
const { document, location, AbortController, AbortSignal } = window;
Object.assign(globalThis, { window, document, location, AbortController, AbortSignal });
globalThis.navigator ??= window.navigator;
globalThis.IS_REACT_ACT_ENVIRONMENT = true;

const { StrictMode, act, createElement, memo } = await import("react");
const { createRoot } = await import("react-dom/client");
const { renderToString } = await import("react-dom/server");
const { useSession } = await import("orchestra-websocket-client/react");
const { SharedConnection } = await import("orchestra-websocket-client/shared");
const { FakeWebSocket, FakeStorage, HELLO, entry } = await import(process.env.FAKES);

let sockets, root, seen;
class Socket extends FakeWebSocket {
  constructor(url, protocols) {
    super(url, protocols);
    sockets.push(this);
  }
}

/** Show a session, and record what the hook returns. */
function Chat({ url = "/ws/sessions/", ...options }) {
  const session = useSession(url, { WebSocket: Socket, ...options });
  seen.push(session);
  const texts = session.entries.map(({ data }) => data.text).join(" ");
  return createElement("p", null, `${session.state}: ${texts}`);
}

const text = () => document.querySelector("#root").textContent;
/** Do something, and run its effects and the timers that were set before. */
async function perform(work) {
  await act(work);
  await act(() => new Promise((resolve) => setTimeout(resolve)));
}
const render = (element) => perform(async () => root.render(element));
const say = (...messages) => perform(async () => messages.forEach((one) => sockets.at(-1).say(one)));
const isOpen = ({ closedWith }) => closedWith === null;

async function attach(hello = {}) {
  await perform(async () => sockets.at(-1).open());
  await say({ ...HELLO, ...hello });
}

beforeEach(() => {
  sockets = [];
  seen = [];
  root = createRoot(document.querySelector("#root"));
});

afterEach(() => perform(async () => root.unmount()));

test("a component shows the session as it grows", async () => {
  await render(createElement(Chat));
  assert.equal(text(), "connecting: ");
  await attach();
  await say(entry(1), entry(2, { state: "streaming", data: { text: "an" } }));
  await say({ type: "delta", offset: 2, at_char: 2, text: "swer" });
  assert.equal(text(), "open: text 1 answer");
  await say({ type: "state", offset: 2, state: "done" });
  assert.equal(seen.at(-1).entries[1].state, "done");
  assert.equal(seen.at(-1).session, "s1");
});

test("StrictMode mounts, unmounts and mounts, and opens one socket", async () => {
  await render(createElement(StrictMode, null, createElement(Chat)));
  await attach();
  await say(entry(1));
  assert.equal(text(), "open: text 1");
  assert.equal(sockets.length, 1);
  assert.ok(isOpen(sockets[0]));
});

test("StrictMode loses no message that an earlier page left", async () => {
  const storage = new FakeStorage();
  storage.setItem(
    "orchestra.outbox.s1.old",
    JSON.stringify([["old-message-id-1", '{"type":"message","id":"old-message-id-1","data":"left"}']]),
  );
  const chat = createElement(Chat, { storage, session: "s1" });
  await render(createElement(StrictMode, null, chat));
  await attach();
  assert.deepEqual(
    sockets[0].sent.filter(({ type }) => type === "message").map(({ data }) => data),
    ["left"],
  );
});

test("an unmounted component closes its socket, and a later one opens another", async () => {
  await render(createElement(Chat));
  await attach();
  await render(null);
  assert.equal(sockets[0].closedWith, 1000);
  await render(createElement(Chat));
  assert.equal(sockets.length, 2);
  assert.ok(isOpen(sockets[1]));
});

test("a snapshot stays the same until something happens", async () => {
  await render(createElement(Chat));
  await attach();
  await say(entry(1), entry(2, { state: "streaming", data: { text: "" } }));
  const before = seen.at(-1);
  await render(createElement(Chat));
  assert.equal(seen.at(-1), before);
  await say({ type: "delta", offset: 2, at_char: 0, text: "x" });
  const after = seen.at(-1);
  assert.notEqual(after, before);
  assert.equal(after.entries[0], before.entries[0]);
  assert.notEqual(after.entries[1], before.entries[1]);
  assert.equal(after.request, before.request);
});

test("a component that depends on one entry renders for that one alone", async () => {
  let renders = 0;
  const Entry = memo(({ one }) => {
    renders += one.offset === 1 ? 1 : 0;
    return one.data.text;
  });
  function List() {
    const { entries } = useSession("/ws/sessions/", { WebSocket: Socket });
    return entries.map((one) => createElement(Entry, { key: one.offset, one }));
  }
  await render(createElement(List));
  await attach();
  await say(entry(1), entry(2, { state: "streaming", data: { text: "" } }));
  for (let at = 0; at < 5; at += 1) {
    await say({ type: "delta", offset: 2, at_char: at, text: "x" });
  }
  assert.equal(text(), "text 1xxxxx");
  assert.equal(renders, 1);
});

test("a message is pending until its ack", async () => {
  await render(createElement(Chat));
  await attach();
  let asked;
  await perform(async () => {
    asked = seen.at(-1).request({ text: "hi" });
  });
  assert.equal(seen.at(-1).pending, 1);
  const [sent] = sockets[0].sent.filter(({ type }) => type === "message");
  await say({ type: "ack", id: sent.id, offset: 1 });
  assert.deepEqual(await asked, { id: sent.id, offset: 1 });
  assert.equal(seen.at(-1).pending, 0);
});

test("another session is another client, and the options of a render are current", async () => {
  const asked = [];
  const make = (name) => async () => (asked.push(name), name);
  await render(createElement(Chat, { session: "s1", getToken: make("first") }));
  await attach();
  await say(entry(1));
  await render(createElement(Chat, { session: "s1", getToken: make("second") }));
  assert.equal(sockets.length, 1);
  await perform(async () => sockets[0].end(4202));
  await render(createElement(Chat, { session: "s2", getToken: make("third") }));
  assert.equal(text(), "connecting: ");
  assert.match(String(sockets.at(-1).url), /\/s2\/$/);
  assert.deepEqual([asked[0], asked.at(-1)], ["first", "third"]);
});

test("a final end and an error are part of the state", async () => {
  await render(createElement(Chat));
  await attach();
  await say({ type: "error", code: "invalid_message", message: "no", id: null });
  assert.equal(seen.at(-1).error.code, "invalid_message");
  await perform(async () => sockets[0].end(4004));
  assert.equal(seen.at(-1).state, "closed");
  assert.equal(seen.at(-1).ending.code, 4004);
  let failed;
  await perform(async () => {
    failed = await seen.at(-1).request("too late").catch((error) => error);
  });
  assert.equal(failed.code, "closed");
});

test("a server renders the first state and opens nothing", () => {
  assert.match(renderToString(createElement(Chat)), /idle: /);
  assert.equal(sockets.length, 0);
});

/** Answer each attach that waits. */
async function greet() {
  const socket = sockets.at(-1);
  const asked = socket.sent.filter(({ type }) => type === "attach");
  socket.sent.length = 0;
  await say(...asked.map(({ session, id }) => ({ ...HELLO, session, id })));
}

test("components share a connection, and a session that two of them show", async () => {
  const shared = new SharedConnection("/ws/sessions/", { WebSocket: Socket });
  const chat = (session, key) => createElement(Chat, { url: shared, session, key });
  await render([chat("s1", 1), chat("s2", 2), chat("s1", 3)]);
  await perform(async () => sockets.at(-1).open());
  await say({ type: "hello", connection: "c1", limits: {}, heartbeat_seconds: 30 });
  await greet();
  await say({ ...entry(1), session: "s1" }, { ...entry(2), session: "s1" });
  await say({ ...entry(1), session: "s2" });
  assert.equal(text(), "open: text 1 text 2open: text 1open: text 1 text 2");
  const listeners = () => getEventListeners(shared.session("s1"), "delta").length;
  assert.equal(listeners(), 2);
  await render([chat("s2", 2), chat("s1", 3)]);
  assert.equal(listeners(), 1);
  assert.equal(text(), "open: text 1open: text 1 text 2");
  assert.deepEqual(sockets[0].sent, []);
  await render([chat("s2", 2)]);
  assert.deepEqual(sockets[0].sent, [{ type: "detach", session: "s1" }]);
  await render([chat("s2", 2), chat("s1", 4)]);
  const [, { offset }] = sockets[0].sent;
  assert.equal(offset, 2);
  await greet();
  assert.equal(text(), "open: text 1open: text 1 text 2");
  assert.equal(sockets.length, 1);
  shared.close();
});

test("StrictMode attaches to a session of a shared connection once", async () => {
  const shared = new SharedConnection("/ws/sessions/", { WebSocket: Socket });
  const chat = createElement(Chat, { url: shared, session: "s1" });
  await render(createElement(StrictMode, null, chat));
  await perform(async () => sockets.at(-1).open());
  await say({ type: "hello", connection: "c1", limits: {}, heartbeat_seconds: 30 });
  assert.deepEqual(
    sockets[0].sent.map(({ type, session }) => [type, session]),
    [["attach", "s1"]],
  );
  await greet();
  assert.equal(text(), "open: ");
  shared.close();
});
