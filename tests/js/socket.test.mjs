// Test a client whose connections open, close and hang.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Bench, settle } from "./fakes.mjs";

const BYE = { type: "bye", reconnect: "now", resume: true, ref: null };

test("states follow one another, and the session is named after the hello", () => {
  const bench = new Bench();
  bench.attach();
  assert.deepEqual(bench.named("state").map(({ to }) => to), ["connecting", "open"]);
  assert.equal(bench.client.session, "s1");
  assert.deepEqual(bench.socket.protocols, ["orchestra.v2", "orchestra.v1"]);
  assert.equal(bench.socket.url.href, "ws://host/ws/sessions/new/");
});

test("a refused handshake that Node tells as an error alone is tried again", () => {
  const bench = new Bench();
  bench.attach().end(1006);
  bench.clock.advance(1000);
  bench.socket.refuse();
  assert.equal(bench.client.state, "waiting");
  bench.clock.advance(2000);
  assert.equal(bench.sockets.length, 3);
});

test("a reconnecting client names the connection that it replaces", () => {
  const bench = new Bench();
  bench.attach({ connection: "c-old" }).end(1006);
  bench.clock.advance(1000);
  assert.equal(bench.socket.url.pathname, "/ws/sessions/s1/");
  assert.equal(bench.socket.url.searchParams.get("replaces"), "c-old");
});

test("failures are reset only after ten connected seconds", () => {
  const bench = new Bench();
  bench.random = 1;
  bench.attach();
  const waits = [];
  for (const lasting of [0, 0, 9999, 10_000]) {
    bench.clock.advance(lasting);
    bench.socket.end(1006);
    waits.push(bench.named("state").at(-1).delayMs);
    bench.clock.advance(waits.at(-1));
    bench.attach();
  }
  assert.deepEqual(waits, [1000, 2000, 4000, 1000]);
});

test("an evicted client stays closed until connect() is called", () => {
  const bench = new Bench();
  bench.attach().end(4005, "evicted");
  bench.clock.advance(3_600_000);
  bench.page.dispatchEvent(new Event("online"));
  bench.page.show("visible");
  assert.equal(bench.sockets.length, 1);
  assert.equal(bench.client.state, "closed");
  assert.equal(bench.client.ending.reason, "evicted");
  bench.client.connect();
  assert.equal(bench.sockets.length, 2);
});

test("a drained client closes at its time and finds the next server", () => {
  const bench = new Bench();
  bench.attach();
  bench.socket.say({ ...BYE, code: 4200, reason: "draining", after_ms: 1840 });
  assert.equal(bench.client.state, "open");
  bench.clock.advance(1840);
  bench.socket.end(4200, "draining");
  assert.equal(bench.named("state").at(-1).delayMs, 0);
  bench.random = 1;
  for (let refused = 0; refused < 10; refused += 1) {
    bench.clock.advance(refused === 0 ? 0 : 2000);
    bench.socket.end(1006);
    assert.equal(bench.named("state").at(-1).delayMs, 2000);
  }
  bench.clock.advance(2000);
  bench.attach();
  assert.equal(bench.client.state, "open");
});

test("a missing close frame after a bye is not awaited forever", () => {
  const bench = new Bench();
  const socket = bench.attach();
  socket.say({ ...BYE, code: 4200, reason: "draining", after_ms: 1000 });
  bench.clock.advance(4000);
  assert.equal(bench.sockets.length, 2);
  assert.notEqual(bench.socket, socket);
});

test("messages of an abandoned socket are ignored", () => {
  const bench = new Bench();
  const old = bench.attach();
  bench.client.drop();
  old.say({ type: "ack", id: "x", offset: 1 });
  old.end(4005, "evicted");
  bench.clock.advance(1000);
  bench.attach();
  assert.equal(bench.client.state, "open");
});

test("a half-open connection is detected", () => {
  const bench = new Bench();
  const socket = bench.attach();
  bench.clock.advance(30_000);
  assert.equal(socket.sent.at(-1).type, "ping");
  bench.clock.advance(4999);
  assert.equal(bench.client.state, "open");
  bench.clock.advance(1);
  assert.equal(bench.client.state, "waiting");
  assert.equal(bench.client.ending.reason, "network");
});

test("any message proves that the connection is alive", () => {
  const bench = new Bench();
  const socket = bench.attach();
  for (let beats = 0; beats < 5; beats += 1) {
    bench.clock.advance(30_000);
    socket.say({ type: "pong", t: 0, offset: 0 });
  }
  assert.equal(bench.client.state, "open");
  assert.equal(socket.sent.filter(({ type }) => type === "ping").length, 5);
});

test("an online or visible page sends a ping at once", () => {
  const bench = new Bench();
  const socket = bench.attach();
  bench.page.show("hidden");
  assert.equal(socket.sent.length, 0);
  bench.page.show("visible");
  bench.page.dispatchEvent(new Event("online"));
  assert.equal(socket.sent.length, 1);
  bench.clock.advance(5000);
  assert.equal(bench.client.state, "waiting");
  bench.page.dispatchEvent(new Event("online"));
  assert.equal(bench.sockets.length, 2);
});

test("a visible page does not reconnect sooner to a full server", () => {
  const bench = new Bench();
  bench.attach().end(4103, "pool_full");
  bench.page.show("visible");
  bench.page.dispatchEvent(new Event("online"));
  assert.equal(bench.sockets.length, 1);
});

test("user activity reconnects after an idle close", async () => {
  const bench = new Bench();
  bench.attach().end(4300, "idle");
  bench.clock.advance(3_600_000);
  assert.equal(bench.client.state, "closed");
  const ack = bench.client.request({ text: "hello again" });
  const socket = bench.attach({ outcome: "nothing_missed" });
  socket.say({ type: "ack", id: socket.sent[0].id, offset: 1 });
  assert.equal((await ack).offset, 1);
  socket.end(4300, "idle");
  bench.page.show("visible");
  assert.equal(bench.sockets.length, 3);
});

test("a server that accepts but stays silent is given up", () => {
  const bench = new Bench();
  bench.client.connect();
  bench.socket.open();
  bench.clock.advance(10_000);
  assert.equal(bench.client.state, "waiting");
  assert.equal(bench.socket.closedWith, 4000);
});

test("a closed client ignores the events of its page", () => {
  const bench = new Bench();
  bench.attach();
  bench.client.close();
  bench.page.dispatchEvent(new Event("online"));
  bench.clock.advance(3_600_000);
  assert.equal(bench.sockets.length, 1);
  assert.equal(bench.socket.closedWith, 1000);
});

test("a page holds no client that is closed for good", () => {
  const bench = new Bench();
  const { page, client } = bench;
  const count = () => page.listeners + page.document.listeners;
  for (const [code, expected] of [[4300, 3], [4009, 0], [4005, 0]]) {
    client.connect();
    bench.attach();
    assert.equal(count(), 3);
    bench.socket.end(code);
    assert.equal(client.state, "closed");
    assert.equal(count(), expected);
  }
  client.connect();
  client.close();
  assert.equal(count(), 0);
});

test("the token is sent as a subprotocol, beside the selected one", async () => {
  const bench = new Bench({ getToken: () => "T" });
  bench.client.connect();
  await settle();
  assert.deepEqual(bench.socket.protocols, ["orchestra.v2", "orchestra.v1", "bearer.T"]);
});

test("an expired token is renewed at once, and once only", async () => {
  const tokens = ["T1", "T2", "T3"];
  const asked = [];
  const getToken = (circumstances) => {
    asked.push(circumstances);
    return tokens.shift();
  };
  const bench = new Bench({ getToken });
  bench.client.connect();
  await settle();
  bench.attach().end(4100, "token_expired");
  bench.clock.advance(0);
  await settle();
  assert.deepEqual(asked[1], { isExpired: true, previous: "T1" });
  assert.equal(bench.socket.protocols[2], "bearer.T2");
  bench.socket.end(4100, "token_expired");
  bench.clock.advance(400);
  await settle();
  assert.equal(bench.sockets.length, 2);
  bench.clock.advance(bench.named("state").at(-1).delayMs - 400);
  await settle();
  assert.equal(bench.sockets.length, 3);
});

test("an expired token is not tried again", async () => {
  const bench = new Bench({ getToken: () => "same" });
  bench.client.connect();
  await settle();
  bench.attach().end(4100, "token_expired");
  bench.clock.advance(0);
  await settle();
  assert.equal(bench.sockets.length, 1);
  assert.equal(bench.client.state, "waiting");
});

test("a missing token is a failure like others", async (context) => {
  context.mock.method(console, "warn", () => {});
  let isDown = true;
  const getToken = async () => {
    if (isDown) throw new Error("503");
    return "T";
  };
  const bench = new Bench({ getToken });
  bench.client.connect();
  await settle();
  assert.equal(bench.client.state, "waiting");
  isDown = false;
  bench.clock.advance(1000);
  await settle();
  assert.equal(bench.socket.protocols[2], "bearer.T");
});

test("a token that is refused for a time is asked for again after it", async (context) => {
  context.mock.method(console, "warn", () => {});
  const getToken = async () => {
    throw Object.assign(new Error("429"), { retryAfterSeconds: "7" });
  };
  const bench = new Bench({ getToken, random: () => 0 });
  const delays = [];
  bench.client.addEventListener("state", ({ detail }) => delays.push(detail.delayMs));
  bench.client.connect();
  await settle();
  assert.deepEqual(delays, [null, 7500]);
});

test("an announced expiry is answered with a new token", async () => {
  let count = 0;
  const bench = new Bench({ getToken: () => `T${++count}` });
  bench.client.connect();
  await settle();
  const socket = bench.attach();
  socket.say({ type: "expiring", expires_at: "2026-01-01T00:00:00Z" });
  await settle();
  assert.deepEqual(socket.sent, [{ type: "refresh", token: "T2" }]);
});

test("a token that no subprotocol can hold is a final end that says so", async () => {
  for (const token of ["a/b", "two words", "a=", "ä"]) {
    const bench = new Bench({ getToken: () => token });
    const failed = assert.rejects(bench.client.request("x"), { message: /invalid_token/ });
    bench.client.connect();
    await settle();
    await failed;
    assert.deepEqual([bench.client.state, bench.sockets.length], ["closed", 0]);
  }
  const bench = new Bench({ getToken: () => "a+b-c._~" });
  bench.client.connect();
  await settle();
  assert.deepEqual(bench.socket.protocols, ["orchestra.v2", "orchestra.v1", "bearer.a+b-c._~"]);
});

test("an address that the browser refuses is a final end", async () => {
  const refusing = class {
    constructor() {
      throw new SyntaxError("insecure");
    }
  };
  const bench = new Bench({ WebSocket: refusing });
  bench.client.connect();
  await settle();
  assert.equal(bench.client.state, "closed");
  assert.equal(bench.client.ending.reason, "invalid_url");
});
