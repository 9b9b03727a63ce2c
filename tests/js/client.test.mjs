// Test messages, storage and resume of a session's client.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Bench, FakeStorage, entry, settle } from "./fakes.mjs";

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

test("a hole, or text that does not join on, causes a reconnect", () => {
  for (const message of [entry(5), { type: "delta", offset: 1, at_char: 9, text: "x" }]) {
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

test("a stream can be cancelled", () => {
  const bench = new Bench();
  const socket = bench.attach();
  bench.client.cancel(4);
  assert.deepEqual(socket.sent, [{ type: "cancel", offset: 4 }]);
});
