// Test messages, storage and resume of a session's client.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  UnauthorizedError,
  forgetMessages,
  partsOf,
} from "../../connections/static/connections/client.js";
import { Bench, FakeClock, FakePage, FakeStorage, entry, settle } from "./fakes.mjs";

const ack = (socket, offset) => socket.say({ type: "ack", id: socket.sent.at(-1).id, offset });

test("a request resolves with its ack", async () => {
  const bench = new Bench();
  const socket = bench.attach();
  const asked = bench.client.request({ text: "hello" });
  const [sent] = socket.sent;
  assert.deepEqual([sent.type, sent.data], ["message", { text: "hello" }]);
  assert.match(sent.id, /^[a-z0-9]{12,}-1$/);
  ack(socket, 7);
  assert.deepEqual(await asked, { id: sent.id, offset: 7 });
  assert.equal(bench.client.pending, 0);
});

test("a message names the trace that the page has", () => {
  const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const traces = [trace, undefined];
  const bench = new Bench({ getTraceparent: () => traces.shift(), maxInFlight: 2 });
  const socket = bench.attach();
  bench.client.send("traced");
  bench.client.send("not traced");
  assert.equal(socket.sent[0].traceparent, trace);
  assert.equal("traceparent" in socket.sent[1], false);
});

test("a message has its options, and a plain one has none", () => {
  const bench = new Bench({ maxInFlight: 2 });
  const socket = bench.attach();
  bench.client.send("noted", { answer: false, metadata: { model: "large" } });
  bench.client.send("plain");
  assert.equal(socket.sent[0].answer, false);
  assert.deepEqual(socket.sent[0].metadata, { model: "large" });
  assert.deepEqual(Object.keys(socket.sent[1]), ["type", "id", "data"]);
});

test("a wish for another answer is sent until its ack", async () => {
  const bench = new Bench();
  const first = bench.attach();
  const asked = bench.client.regenerate(2, { metadata: { mood: "short" } });
  first.end(1006);
  bench.clock.advance(1000);
  const second = bench.attach({ outcome: "resumed" });
  const { id, ...sent } = second.sent[0];
  const metadata = { mood: "short" };
  assert.deepEqual(sent, { type: "regenerate", offset: 2, epoch: "e1", metadata });
  assert.deepEqual(second.sent[0], first.sent[0]);
  ack(second, 5);
  assert.deepEqual(await asked, { id, offset: 5 });
  const refused = bench.client.regenerate(2);
  const error = { type: "error", code: "conflict", message: "replaced" };
  second.say({ ...error, id: second.sent.at(-1).id });
  await assert.rejects(refused, { code: "conflict" });
});

test("a decision on a tool call is sent until its ack", async () => {
  const bench = new Bench();
  const socket = bench.attach();
  const approved = bench.client.approve(2, "c1", { note: "fine" });
  const { id, ...sent } = socket.sent[0];
  const call = { offset: 2, part: "c1", epoch: "e1" };
  assert.deepEqual(sent, { type: "approve", note: "fine", ...call });
  ack(socket, 2);
  assert.deepEqual(await approved, { id, offset: 2 });
  const denied = bench.client.deny(2, "c1");
  const { id: other, ...second } = socket.sent[1];
  assert.deepEqual(second, { type: "deny", ...call });
  socket.say({ type: "error", code: "conflict", message: "approved", id: other });
  await assert.rejects(denied, { code: "conflict" });
});

test("two clients never create the same id", () => {
  const ids = [new Bench(), new Bench()].map((bench) => {
    const socket = bench.attach();
    bench.client.send("first");
    return socket.sent[0].id;
  });
  assert.notEqual(ids[0], ids[1]);
});

test("unsettled messages are resent with their ids, in order", async () => {
  const bench = new Bench();
  const first = bench.attach();
  const asked = ["a", "b", "c"].map((text) => bench.client.request(text));
  const [{ id }] = first.sent;
  first.end(1006);
  bench.clock.advance(1000);
  const second = bench.attach();
  assert.equal(second.sent[0].id, id);
  for (const offset of [1, 2, 3]) ack(second, offset);
  assert.deepEqual(second.sent.map(({ data }) => data), ["a", "b", "c"]);
  assert.deepEqual((await Promise.all(asked)).map(({ offset }) => offset), [1, 2, 3]);
});

test("nothing is sent before the hello", () => {
  const bench = new Bench();
  bench.client.send("early");
  bench.client.connect();
  bench.socket.open();
  assert.deepEqual(bench.socket.sent, []);
});

test("a notice from staff is an event and no entry", () => {
  const bench = new Bench();
  const at = "2026-11-25T08:00:00Z";
  bench.attach().say({ type: "notice", text: "Back at <noon>.", at });
  assert.deepEqual(bench.named("notice"), [{ text: "Back at <noon>.", at }]);
  assert.equal(bench.client.entries.length, 0);
});

test("an error settles a message, with its code", async () => {
  const bench = new Bench();
  const socket = bench.attach();
  const asked = bench.client.request("x");
  socket.say({ type: "error", code: "invalid_message", message: "no", id: socket.sent[0].id, ref: "r" });
  await assert.rejects(asked, { code: "invalid_message", ref: "r" });
  bench.client.request("y").catch(() => {});
  assert.equal(socket.sent[1].data, "y");
});

test("a message that is refused temporarily is resent after the given time", () => {
  const bench = new Bench();
  const socket = bench.attach();
  bench.client.send("a");
  socket.say({ type: "error", code: "rate_limited", message: "", id: null, retry_after_seconds: 2 });
  bench.client.send("b");
  bench.clock.advance(1999);
  assert.equal(socket.sent.length, 1);
  bench.clock.advance(1);
  assert.deepEqual(socket.sent.map(({ data }) => data), ["a", "a"]);
  ack(socket, 1);
  assert.equal(socket.sent.at(-1).data, "b");
});

test("a timer that fires a moment early sends what was refused for the moment", () => {
  const clock = new FakeClock();
  const setTimeout = (work, ms) => clock.setTimeout(work, ms - 0.5);
  const bench = new Bench({ clock: { ...clock, setTimeout } });
  const socket = bench.attach();
  bench.client.send("a");
  const { id } = socket.sent[0];
  socket.say({ type: "error", code: "unavailable", message: "", id, retry_after_seconds: 1 });
  bench.client.send("b");
  clock.advance(1000);
  assert.deepEqual(socket.sent.map(({ data }) => data), ["a", "a"]);
});

test("a decision overtakes messages that are refused until it is made", () => {
  const bench = new Bench();
  const socket = bench.attach();
  bench.client.send("a");
  bench.client.send("b");
  bench.client.deny(2, "c1").catch(() => {});
  socket.say({ type: "error", code: "rate_limited", message: "", id: socket.sent[0].id });
  bench.clock.advance(1000);
  ack(socket, 2);
  ack(socket, 3);
  assert.deepEqual(socket.sent.map(({ type, data }) => data ?? type), ["a", "deny", "a", "b"]);
});

test("a long outage of the server loses no message", () => {
  const bench = new Bench();
  const socket = bench.attach();
  bench.client.send("a");
  for (let tries = 0; tries < 50; tries += 1) {
    const { id } = socket.sent.at(-1);
    socket.say({ type: "error", code: "unavailable", message: "", id, retry_after_seconds: 1 });
    bench.clock.advance(1000);
    socket.say({ type: "pong", t: 0, offset: 0 });
  }
  assert.equal(bench.client.pending, 1);
});

test("a message without an ack is resent, and finally given up", async () => {
  const bench = new Bench();
  const socket = bench.attach({ heartbeat_seconds: 3600 });
  const asked = bench.client.request("a");
  bench.clock.advance(80_000);
  assert.equal(socket.sent.length, 5);
  await assert.rejects(asked, { code: "timeout" });
});

test("a message that was too big is not resent, the next one is", async () => {
  const bench = new Bench();
  const socket = bench.attach();
  const big = bench.client.request("x".repeat(100));
  const small = bench.client.request("y");
  socket.end(4013, "message_too_big");
  await assert.rejects(big, { code: "message_too_big" });
  bench.clock.advance(1000);
  const next = bench.attach();
  assert.equal(next.sent[0].data, "y");
  ack(next, 1);
  assert.equal((await small).offset, 1);
});

test("a message over the server's limit is refused before it is sent", async () => {
  const bench = new Bench();
  const socket = bench.attach({ limits: { max_message_size: 100 } });
  await assert.rejects(bench.client.request("é".repeat(50)), { code: "message_too_big" });
  assert.equal(bench.client.pending, 0);
  bench.client.send("small");
  assert.equal(socket.sent[0].data, "small");
});

test("the queue is bounded", async () => {
  const bench = new Bench({ queueLimit: 2 });
  bench.client.send("a");
  bench.client.send("b");
  await assert.rejects(bench.client.request("c"), { code: "queue_full" });
});

test("a request can be aborted", async () => {
  const bench = new Bench();
  bench.attach();
  const controller = new AbortController();
  const asked = bench.client.request("a", { signal: controller.signal });
  controller.abort();
  await assert.rejects(asked, { code: "aborted" });
  assert.equal(bench.client.pending, 0);
});

test("a final close fails waiting messages; an eviction keeps them", async () => {
  const kicked = new Bench();
  const lost = (kicked.attach(), kicked.client.request("a"));
  kicked.socket.end(4009, "kicked");
  await assert.rejects(lost, { code: "closed" });
  await assert.rejects(kicked.client.request("b"), { code: "closed" });

  const evicted = new Bench();
  const kept = (evicted.attach(), evicted.client.request("a"));
  evicted.socket.end(4005, "evicted");
  evicted.client.connect();
  ack(evicted.attach(), 3);
  assert.equal((await kept).offset, 3);
});

test("with a storage, unsettled messages survive a reload", async () => {
  const storage = new FakeStorage();
  const before = new Bench({ storage });
  before.client.send({ text: "typed just before" });
  const first = before.attach();
  const { id } = first.sent[0];
  const after = new Bench({ storage, session: "s1" });
  const second = after.attach();
  assert.equal(second.sent[0].id, id);
  ack(second, 1);
  await settle();
  assert.equal(new Bench({ storage, session: "s1" }).client.pending, 0);
});

test("the next user of a tab sends nothing that was written before a sign-out", async () => {
  const [storage, page] = [new FakeStorage(), new FakePage()];
  storage.setItem("theme", "dark");
  const before = new Bench({ storage, page });
  const text = before.client.request("of one user");
  before.client.close();
  await assert.rejects(text, { isStored: true });
  forgetMessages(storage);
  assert.equal(new Bench({ storage, page }).client.pending, 0);
  assert.equal(storage.getItem("theme"), "dark");
});

test("a full storage is an event; the message is sent and its promise holds", async () => {
  const storage = new FakeStorage();
  const bench = new Bench({ storage });
  const socket = bench.attach();
  storage.isFull = true;
  const asked = bench.client.request("a");
  assert.deepEqual(bench.named("error").map(({ code }) => code), ["not_stored"]);
  ack(socket, 1);
  assert.equal((await asked).offset, 1);
  assert.equal(bench.client.pending, 0);
  const closed = bench.client.request("b");
  bench.client.close();
  await assert.rejects(closed, { code: "closed", isStored: false });
});

test("of messages that a full storage has no room for, the next client sends none", async () => {
  const [storage, page] = [new FakeStorage(), new FakePage()];
  const left = new Bench({ storage, page, session: "s1" });
  left.client.send("restored");
  left.client.close();
  const bench = new Bench({ storage, page, session: "s1" });
  const asked = bench.client.request("a");
  storage.isFull = true;
  const unstored = bench.client.request("b");
  bench.client.close();
  for (const one of [asked, unstored]) {
    await assert.rejects(one, { code: "closed", isStored: false });
  }
  assert.deepEqual(bench.named("dropped").map(({ data }) => data), ["restored"]);
  assert.equal(new Bench({ storage, page, session: "s1" }).client.pending, 0);
});

test("what was given up is not sent by the next client, though the storage is full", async () => {
  const [storage, page] = [new FakeStorage(), new FakePage()];
  const bench = new Bench({ storage, page, session: "s1" });
  const given = new AbortController();
  const asked = bench.client.request("a", { signal: given.signal });
  bench.client.send("b");
  storage.isFull = true;
  given.abort();
  await assert.rejects(asked, { code: "aborted" });
  bench.client.close();
  storage.isFull = false;
  assert.equal(new Bench({ storage, page, session: "s1" }).client.pending, 0);
});

test("a message that is not stored is told of once", () => {
  const storage = new FakeStorage();
  storage.isFull = true;
  const bench = new Bench({ storage });
  const codes = () => bench.named("error").map(({ code }) => code);
  bench.client.send("typed before the first hello");
  const socket = bench.attach();
  socket.end(1006);
  bench.clock.advance(1000);
  bench.attach();
  bench.client.connect();
  assert.deepEqual(codes(), ["not_stored"]);
  storage.isFull = false;
  bench.client.send("stored, with the first");
  storage.isFull = true;
  bench.client.send("not stored again");
  assert.deepEqual(codes(), ["not_stored", "not_stored"]);
});

test("a closed client that goes on tells of its next message that is not stored", () => {
  const storage = new FakeStorage();
  storage.isFull = true;
  const bench = new Bench({ storage });
  bench.attach();
  bench.client.request("a").catch(() => {});
  bench.client.close();
  bench.client.connect();
  bench.attach();
  bench.client.request("b").catch(() => {});
  assert.deepEqual(bench.named("error").map(({ code }) => code), ["not_stored", "not_stored"]);
});

test("an answer that a gap has ended does not end again", () => {
  const bench = new Bench();
  const first = bench.attach();
  first.say(entry(1, { state: "streaming" }));
  first.end(1006);
  bench.clock.advance(1000);
  const second = bench.attach({ outcome: "gap", gap: [1, 2], offset: 2 });
  second.say({ type: "state", offset: 1, state: "interrupted" });
  assert.deepEqual(bench.named("ended").map(({ entry: { state } }) => state), ["interrupted"]);
});

test("a storage that is forbidden or holds something else breaks nothing", () => {
  const forbidden = new Proxy({}, { get: () => () => assert.fail("forbidden") });
  const odd = new FakeStorage();
  odd.setItem("orchestra.outbox.s1", "no JSON");
  odd.setItem("orchestra.outbox.s1.a", '{"length": 3}');
  odd.setItem("orchestra.outbox.s1.b", '[["only an id"], 7]');
  for (const storage of [forbidden, odd]) {
    const bench = new Bench({ storage, session: "s1" });
    const socket = bench.attach();
    bench.client.send("a");
    assert.deepEqual(socket.sent.map(({ data }) => data), ["a"]);
  }
});

test("two clients of a page keep their own messages", () => {
  const [storage, page] = [new FakeStorage(), new FakePage()];
  const clients = ["a", "b"].map((text) => {
    const bench = new Bench({ storage, page, session: "s1" });
    bench.client.send(text);
    return bench;
  });
  assert.deepEqual(clients.map(({ client }) => client.pending), [1, 1]);
  const after = new Bench({ storage, session: "s1" });
  assert.equal(after.client.pending, 2);
});

test("messages of the last release's storage are sent", () => {
  const storage = new FakeStorage();
  const text = JSON.stringify({ type: "message", id: "x".repeat(16) + "-1", data: "old" });
  storage.setItem("orchestra.outbox.s1", JSON.stringify([["x".repeat(16) + "-1", text]]));
  const bench = new Bench({ storage, session: "s1" });
  assert.equal(bench.attach().sent[0].data, "old");
  assert.equal(storage.length, 1);
  ack(bench.socket, 1);
  assert.equal(storage.length, 0);
});

test("close() leaves unsent messages to the next client, and says so", async () => {
  const [storage, page] = [new FakeStorage(), new FakePage()];
  const before = new Bench({ storage, page, session: "s1" });
  const asked = before.client.request("a");
  before.client.close();
  await assert.rejects(asked, { code: "closed", isStored: true });
  assert.equal(before.client.pending, 0);
  const after = new Bench({ storage, page, session: "s1" });
  assert.equal(after.attach().sent[0].data, "a");
});

test("a request that is aborted after close() leaves the stored messages alone", async () => {
  const [storage, page] = [new FakeStorage(), new FakePage()];
  const bench = new Bench({ storage, page, session: "s1" });
  const leaving = new AbortController();
  const asked = bench.client.request("a", { signal: leaving.signal });
  bench.client.close();
  leaving.abort();
  await assert.rejects(asked, { code: "closed", isStored: true });
  assert.equal(new Bench({ storage, page, session: "s1" }).client.pending, 1);
});

test("a client that is closed and connected again sends what was stored", () => {
  const bench = new Bench({ storage: new FakeStorage(), session: "s1" });
  bench.client.send("a");
  bench.client.close();
  bench.client.connect();
  assert.equal(bench.attach().sent[0].data, "a");
});

test("a restored message that fails is an event", () => {
  const storage = new FakeStorage();
  new Bench({ storage, session: "s1" }).client.send({ text: "typed" });
  const bench = new Bench({ storage, session: "s1" });
  bench.attach().end(4009, "kicked");
  const [{ data, error }] = bench.named("dropped");
  assert.deepEqual([data, error.code], [{ text: "typed" }, "closed"]);
  assert.equal(storage.length, 0);
});

test("a renewal is tried again until the server takes a token", async () => {
  const answers = ["T1", new Error("away"), "T2", "T3"];
  const getToken = async () => {
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    return answer;
  };
  const bench = new Bench({ getToken, ackTimeoutMs: 1000 });
  bench.client.connect();
  await settle();
  const socket = bench.attach({ heartbeat_seconds: 3600 });
  socket.say({ type: "expiring", after_ms: 70_000 });
  await settle();
  assert.deepEqual(socket.sent, []);
  for (const token of ["T2", "T3"]) {
    bench.clock.advance(2500);
    await settle();
    assert.deepEqual(socket.sent.at(-1), { type: "refresh", token });
  }
  socket.say({ type: "refreshed", expires_at: null });
  bench.clock.advance(60_000);
  await settle();
  assert.equal(socket.sent.length, 2);
});

test("a token source can stop a renewal, and the client", async () => {
  let isStopped = false;
  const getToken = async () => {
    if (isStopped) throw new UnauthorizedError();
    return "T1";
  };
  const bench = new Bench({ getToken });
  bench.client.connect();
  await settle();
  const socket = bench.attach();
  isStopped = true;
  socket.say({ type: "expiring", after_ms: 70_000 });
  await settle();
  const failed = assert.rejects(bench.client.request("a"), { code: "closed" });
  socket.end(4100, "token_expired");
  bench.clock.advance(0);
  await settle();
  await failed;
  assert.deepEqual([bench.client.state, bench.client.ending.code], ["closed", 4001]);
});

test("a URL without its last slash, or with a query, is kept", () => {
  for (const url of ["http://host/ws/sessions", "http://host/ws/sessions/#part"]) {
    const bench = new Bench({ url });
    bench.client.connect();
    assert.equal(bench.socket.url.href, "ws://host/ws/sessions/new/");
  }
  const bench = new Bench({ url: "wss://host/ws/sessions/?ticket=a%2Bb" });
  bench.attach().end(1006);
  bench.clock.advance(1000);
  assert.equal(bench.socket.url.pathname, "/ws/sessions/s1/");
  const { searchParams } = bench.socket.url;
  assert.deepEqual([searchParams.get("ticket"), searchParams.get("replaces")], ["a+b", "c1"]);
  assert.throws(() => new Bench({ url: "/ws/sessions/" }), TypeError);
});

test("a stop is sent until the stream has ended", () => {
  const bench = new Bench();
  const first = bench.attach();
  first.say(entry(1, { state: "streaming" }));
  first.end(1006);
  assert.equal(bench.client.cancel(1), false);
  bench.clock.advance(1000);
  const second = bench.attach({ outcome: "resumed", offset: 1 });
  const stop = { type: "cancel", offset: 1, epoch: "e1" };
  assert.deepEqual(second.sent, [stop]);
  const refusal = { type: "error", code: "unavailable", message: "", id: null };
  second.say({ ...refusal, offset: 1, retry_after_seconds: 2 });
  bench.clock.advance(2000);
  assert.deepEqual(second.sent, [stop, stop]);
  second.say({ type: "state", offset: 1, state: "cancelled" });
  second.end(1006);
  bench.clock.advance(2000);
  assert.deepEqual(bench.attach({ outcome: "resumed", offset: 1 }).sent, []);
  assert.deepEqual(bench.named("error"), []);
});

test("a long replay causes no reconnect", () => {
  const bench = new Bench();
  const socket = bench.attach({ heartbeat_seconds: 30, offset: 100 });
  for (let offset = 1; offset <= 10; offset += 1) {
    socket.say(entry(offset));
    socket.say({ type: "pong", t: 0, offset: 100 });
    bench.clock.advance(15_000);
  }
  assert.equal(bench.client.state, "open");
});

test("entries arrive in order, and replays are marked", () => {
  const bench = new Bench();
  const socket = bench.attach({ offset: 2 });
  for (const offset of [1, 2, 3]) socket.say(entry(offset));
  const seen = bench.named("entry").map(({ entry: { offset }, isReplay }) => [offset, isReplay]);
  assert.deepEqual(seen, [[1, true], [2, true], [3, false]]);
});

test("a reconnecting client names its position and streaming entries", () => {
  const bench = new Bench();
  const socket = bench.attach();
  socket.say(entry(1));
  socket.say(entry(2, { from: "server", state: "streaming", data: { text: "" } }));
  socket.say({ type: "delta", offset: 2, at_char: 0, text: "Hi" });
  socket.end(1006);
  bench.clock.advance(1000);
  const { searchParams } = bench.socket.url;
  assert.equal(searchParams.get("epoch"), "e1");
  assert.equal(searchParams.get("offset"), "2");
  assert.equal(searchParams.get("open"), "2");
  const second = bench.attach({ outcome: "resumed", offset: 2 });
  second.say(entry(2, { from: "server", state: "streaming", data: { text: "Hi the" } }));
  second.say({ type: "delta", offset: 2, at_char: 6, text: "re" });
  second.say({ type: "state", offset: 2, state: "done" });
  assert.deepEqual(bench.client.entries.map(({ data }) => data.text), ["text 1", "Hi there"]);
  assert.equal(bench.named("ended")[0].entry.state, "done");
});

test("a client that was away drops a log that went back in time", () => {
  const bench = new Bench();
  const socket = bench.attach({ chain: null });
  socket.say(entry(1, { chain: "1-1-aaaaaaaaaaaa" }));
  socket.say(entry(2, { chain: "2-2-bbbbbbbbbbbb" }));
  socket.end(1006);
  bench.clock.advance(1000);
  assert.equal(bench.socket.url.searchParams.get("chain"), "2-2-bbbbbbbbbbbb");
  // The epoch is the same: the outcome alone says it.
  const second = bench.attach({ outcome: "reset", offset: 2, chain: "3-2-cccccccccccc" });
  assert.equal(bench.named("reset").length, 1);
  assert.deepEqual(bench.client.entries, []);
  for (const offset of [1, 2]) second.say(entry(offset, { data: { text: "other" } }));
  assert.deepEqual(bench.client.entries.map(({ data }) => data.text), ["other", "other"]);
  second.end(1006);
  bench.clock.advance(10000);
  assert.equal(bench.socket.url.searchParams.get("chain"), "3-2-cccccccccccc");
});

test("parts of an answer grow, and each delta tells what is new", () => {
  const bench = new Bench();
  const socket = bench.attach();
  socket.say(entry(1, { from: "server", state: "streaming", data: { text: "" } }));
  const changes = [{ id: "r", type: "reasoning", text: "I think" }];
  socket.say({ type: "delta", offset: 1, at_change: 0, parts: changes });
  socket.say({ type: "delta", offset: 1, at_char: 0, text: "Hi" });
  const [first, second] = bench.named("delta");
  assert.deepEqual([first.text, first.changes], ["", changes]);
  assert.deepEqual([second.text, second.changes], ["Hi", []]);
  assert.deepEqual(partsOf(second.entry), [
    { id: "text", type: "text", text: "Hi" },
    { id: "r", type: "reasoning", text: "I think" },
  ]);
});

test("a hole, or text that does not join on, causes a reconnect", () => {
  for (const message of [
    entry(5),
    { type: "delta", offset: 1, at_char: 9, text: "x" },
    { type: "delta", offset: 1, at_change: 1, parts: [{ id: "c", text: "x" }] },
  ]) {
    const bench = new Bench();
    const socket = bench.attach();
    socket.say(entry(1, { state: "streaming" }));
    socket.say(message);
    assert.equal(bench.client.state, "waiting");
    bench.clock.advance(1000);
    assert.equal(bench.socket.url.searchParams.get("open"), "1");
  }
});

test("a log that stays ahead causes a reconnect, a short lead does not", () => {
  const bench = new Bench();
  const socket = bench.attach({ heartbeat_seconds: 3 });
  socket.say(entry(1));
  const pong = () => socket.say({ type: "pong", t: 0, offset: 2 });
  pong();
  socket.say(entry(2));
  bench.clock.advance(3000);
  pong();
  const late = () => socket.say({ type: "pong", t: 0, offset: 3 });
  bench.clock.advance(3000);
  late();
  bench.clock.advance(3000);
  late();
  assert.equal(bench.client.state, "open");
  bench.clock.advance(3000);
  late();
  assert.equal(bench.client.state, "waiting");
});

test("a gap is an event, a reset empties the transcript, a new log is neither", () => {
  const bench = new Bench();
  bench.attach({ outcome: "gap", gap: [1, 4], offset: 5 }).say(entry(5));
  assert.deepEqual(bench.named("gap"), []);
  bench.socket.end(1006);
  bench.clock.advance(1000);
  bench.attach({ outcome: "gap", gap: [6, 8], offset: 9 }).say(entry(9));
  assert.deepEqual(bench.named("gap"), [{ from: 6, to: 8 }]);
  bench.socket.end(1006);
  bench.clock.advance(2000);
  bench.attach({ outcome: "reset", epoch: "e2", offset: 1 }).say(entry(1));
  assert.equal(bench.named("reset").length, 1);
  assert.deepEqual(bench.client.entries.map(({ offset }) => offset), [1]);
});

test("a stream whose end was lost in a gap is told as ended", () => {
  const bench = new Bench();
  bench.attach().say(entry(1, { state: "streaming" }));
  bench.socket.end(1006);
  bench.clock.advance(1000);
  bench.attach({ outcome: "gap", gap: [1, 3], offset: 4 });
  const [{ entry: ended }] = bench.named("ended");
  assert.deepEqual([ended.offset, ended.state], [1, "interrupted"]);
});

test("a session can be deleted", () => {
  const bench = new Bench();
  assert.equal(bench.client.delete(), false);
  const socket = bench.attach();
  assert.equal(bench.client.delete(), true);
  assert.deepEqual(socket.sent, [{ type: "delete" }]);
  socket.end(4004, "not_found");
  assert.equal(bench.client.state, "closed");
});

test("a stream can be cancelled", () => {
  const bench = new Bench();
  const socket = bench.attach();
  bench.client.cancel(4);
  assert.deepEqual(socket.sent, [{ type: "cancel", offset: 4, epoch: "e1" }]);
});

const ALICE = { member: "user:1", data: { name: "alice" } };
const BOB = { member: "user:2", data: {} };

test("a client that asks keeps who is present", () => {
  const bench = new Bench({ presence: true });
  const socket = bench.attach({ member: "user:1" });
  assert.equal(socket.url.searchParams.get("presence"), "1");
  assert.deepEqual(socket.sent, [{ type: "present" }]);
  socket.say({ type: "present", members: [ALICE] });
  socket.say({ type: "presence.joined", room: "session:s1", members: [ALICE, BOB] });
  socket.say({ type: "presence.left", room: "session:s1", members: [ALICE] });
  const seen = bench.named("present").map(({ members }) => [...members.keys()]);
  assert.deepEqual(seen, [["user:1"], ["user:1", "user:2"], ["user:2"]]);
  assert.deepEqual(bench.client.members, new Map([["user:2", {}]]));
  socket.say({ type: "presence.gap", room: "session:s1" });
  assert.equal(socket.sent.length, 2);
  socket.say({ type: "present", members: null });
  bench.clock.advance(5000);
  assert.equal(socket.sent.filter(({ type }) => type === "present").length, 3);
});

test("a client that does not ask, or whose server has no presence, sends nothing", () => {
  const plain = new Bench();
  plain.attach();
  plain.client.setTyping(true);
  assert.equal(plain.socket.url.searchParams.get("presence"), null);
  const old = new Bench({ presence: true });
  old.attach();
  old.client.setTyping(true);
  assert.deepEqual([plain.socket.sent, old.socket.sent], [[], []]);
});

test("typing is sent rarely, and ends by itself or with a message", () => {
  const bench = new Bench({ presence: true });
  const socket = bench.attach({ member: "user:1" });
  const sent = () => socket.sent.filter(({ type }) => type === "typing").map((one) => one.active);
  for (let inputs = 0; inputs < 10; inputs += 1) {
    bench.client.setTyping(true);
    bench.clock.advance(500);
  }
  assert.deepEqual(sent(), [true, true]);
  bench.clock.advance(6000);
  assert.deepEqual(sent(), [true, true, false]);
  bench.client.setTyping(true);
  bench.client.send("done");
  assert.deepEqual(sent(), [true, true, false, true, false]);
});

test("others that type are told of once, and forgotten when nothing more comes", () => {
  const bench = new Bench({ presence: true });
  const socket = bench.attach({ member: "user:1" });
  const typing = { type: "typing", member: "user:2", connection: "c2" };
  const seen = () => bench.named("typing").map(({ isTyping }) => isTyping);
  socket.say({ ...typing, active: true });
  bench.clock.advance(5000);
  socket.say({ ...typing, active: true });
  bench.clock.advance(5000);
  assert.deepEqual(seen(), [true]);
  bench.clock.advance(1000);
  assert.deepEqual(seen(), [true, false]);
  socket.say({ ...typing, active: true });
  socket.end(1006);
  assert.deepEqual(seen(), [true, false, true, false]);
});
