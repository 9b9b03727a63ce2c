// Test many sessions on one connection, and an older server.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { SharedConnection } from "../../connections/static/connections/shared.js";
import { FakeClock, FakeWebSocket, HELLO, entry, settle } from "./fakes.mjs";

const GREETING = {
  type: "hello",
  connection: "c1",
  limits: { max_sessions: 20 },
  heartbeat_seconds: 30,
};

let clock, sockets, shared;
class Socket extends FakeWebSocket {
  constructor(url, protocols) {
    super(url, protocols);
    sockets.push(this);
  }
}

beforeEach(() => {
  clock = new FakeClock();
  sockets = [];
  shared = make();
});

const make = (options = {}) =>
  new SharedConnection("http://host/ws/sessions/", {
    clock,
    page: null,
    random: () => 0.5,
    WebSocket: Socket,
    ...options,
  });

/** Greet the newest connection. */
async function accept() {
  await settle();
  const socket = sockets.at(-1);
  socket.open();
  socket.say(GREETING);
  await settle();
  return socket;
}

const take = (socket, type) => {
  const index = socket.sent.findIndex((one) => one.type === type);
  assert.notEqual(index, -1, `nothing of ${type} in ${JSON.stringify(socket.sent)}`);
  return socket.sent.splice(index, 1)[0];
};

/** Answer the attach of a session; return the attach. */
function attach(socket, session, hello = {}) {
  const index = socket.sent.findIndex((one) => one.type === "attach" && one.session === session);
  assert.notEqual(index, -1, session);
  const [asked] = socket.sent.splice(index, 1);
  socket.say({ ...HELLO, session, id: asked.id, ...hello });
  return asked;
}

async function openTwo() {
  const [first, second] = ["s1", "s2"].map((session) => shared.session(session));
  first.connect();
  second.connect();
  const socket = await accept();
  attach(socket, "s1");
  attach(socket, "s2");
  assert.deepEqual([first.state, second.state], ["open", "open"]);
  return [socket, first, second];
}

const detached = (session, code, reason) => ({
  ...{ type: "detached", session, code, reason },
  ...{ reconnect: "never", after_ms: null, ref: null },
});

test("two sessions share a connection, and each has its entries", async () => {
  const [socket, first, second] = await openTwo();
  assert.equal(sockets.length, 1);
  assert.equal(socket.url.href, "ws://host/ws/sessions/many/");
  assert.deepEqual(socket.protocols, ["orchestra.v2"]);
  socket.say({ ...entry(1), session: "s1" });
  socket.say({ ...entry(2), session: "s1" });
  socket.say({ ...entry(1), session: "s2" });
  assert.deepEqual([first.entries.length, second.entries.length], [2, 1]);
  const asked = second.request({ text: "hi" });
  const sent = take(socket, "message");
  assert.equal(sent.session, "s2");
  socket.say({ type: "ack", session: "s2", id: sent.id, offset: 2 });
  assert.equal((await asked).offset, 2);
});

test("each session attaches again at its position", async () => {
  const [socket, first, second] = await openTwo();
  const growing = entry(1, { state: "streaming", data: { text: "Hel" }, chain: "9-1-a" });
  socket.say({ ...growing, session: "s1" });
  const asking = first.request({ text: "hi" });
  const { id } = take(socket, "message");
  socket.say({ type: "ack", id, offset: 2, chain: "10-2-b", session: "s1" });
  await asking;
  first.cancel(1);
  assert.equal(take(socket, "cancel").session, "s1");
  socket.end(1006);
  assert.deepEqual([first.state, second.state], ["waiting", "waiting"]);
  clock.advance(800);
  const again = await accept();
  assert.equal(again.url.searchParams.get("replaces"), "c1");
  const asked = attach(again, "s1", { outcome: "resumed" });
  assert.deepEqual(
    { ...asked, id: null },
    {
      type: "attach",
      session: "s1",
      id: null,
      epoch: "e1",
      offset: 1,
      chain: "9-1-a",
      acked: ["10-2-b"],
      open: [1],
    },
  );
  assert.equal(attach(again, "s2").offset, 0);
  assert.equal(first.state, "open");
});

test("sessions that wait attach as soon as the connection is open", async () => {
  const [socket, first] = await openTwo();
  socket.end(1006);
  clock.advance(600);
  await settle();
  assert.equal(sockets.length, 1);
  clock.advance(200);
  const again = await accept();
  attach(again, "s1");
  assert.equal(first.state, "open");
});

test("one session is one client, and new is always another", async () => {
  const [socket, first] = await openTwo();
  assert.equal(shared.session("s1"), first);
  assert.notEqual(shared.session(), shared.session());
  first.close();
  assert.equal(take(socket, "detach").session, "s1");
  const again = shared.session("s1");
  assert.equal(again, first);
  again.connect();
  await settle();
  socket.say({ ...entry(1), session: "s1" }); // Was on its way, and is nobody's.
  socket.say(detached("s1", 1000, "closed"));
  attach(socket, "s1");
  assert.deepEqual([again.state, again.entries.length], ["open", 0]);
});

test("a refused attach ends one session", async () => {
  const [socket, first] = await openTwo();
  const codes = { not_found: 4004, forbidden: 4003, too_many_sessions: 1008 };
  for (const [code, closed] of Object.entries(codes)) {
    const third = shared.session(`s-${code}`);
    third.connect();
    await settle();
    const { id, session } = take(socket, "attach");
    socket.say({ type: "error", code, message: "no", session, id });
    assert.equal(third.state, "closed");
    assert.deepEqual([third.ending.code, third.ending.reason], [closed, code]);
  }
  assert.equal(first.state, "open");
});

test("an attach that is refused for the moment is sent again", async () => {
  const [socket] = await openTwo();
  const third = shared.session("s3");
  third.connect();
  await settle();
  const { id } = take(socket, "attach");
  const error = { type: "error", code: "unavailable", message: "", session: "s3", id };
  socket.say({ ...error, retry_after_seconds: 2 });
  assert.equal(third.state, "waiting");
  clock.advance(1900);
  await settle();
  assert.deepEqual(socket.sent, []);
  clock.advance(200);
  await settle();
  attach(socket, "s3");
  assert.equal(third.state, "open");
});

test("what was over the rate is sent again, and an attach twice does no harm", async () => {
  const [socket, first] = await openTwo();
  const third = shared.session("s3");
  third.connect();
  await settle();
  first.send("hi");
  const dropped = take(socket, "attach");
  const message = take(socket, "message");
  const limited = { type: "error", code: "rate_limited", message: "", id: null };
  socket.say({ ...limited, retry_after_seconds: 2 });
  clock.advance(1900);
  assert.deepEqual(socket.sent, []);
  clock.advance(200);
  assert.deepEqual(take(socket, "attach"), dropped);
  assert.deepEqual(take(socket, "message"), message);
  socket.say({ ...HELLO, session: "s3", id: dropped.id });
  socket.say({ ...limited, code: "already_attached", session: "s3", id: dropped.id });
  assert.equal(third.state, "open");
});

test("a detach that was over the rate is sent again", async () => {
  const [socket, first] = await openTwo();
  first.close();
  take(socket, "detach");
  socket.say({ type: "error", code: "rate_limited", message: "", id: null });
  clock.advance(1100);
  assert.equal(take(socket, "detach").session, "s1");
  socket.say(detached("s1", 1000, "closed"));
  socket.say({ type: "error", code: "rate_limited", message: "", id: null });
  clock.advance(1100);
  assert.deepEqual(socket.sent, []);
});

test("a session that is gone ends alone", async () => {
  const [socket, first, second] = await openTwo();
  socket.say(detached("s1", 4003, "forbidden"));
  assert.deepEqual([first.state, first.ending.code], ["closed", 4003]);
  await assert.rejects(first.request("x"), { code: "closed" });
  socket.say({ ...detached("s2", 4202, "asked_to_reconnect"), after_ms: 300 });
  assert.equal(second.state, "waiting");
  clock.advance(400);
  await settle();
  attach(socket, "s2", { outcome: "reset", epoch: "e2" });
  assert.equal(second.state, "open");
  assert.equal(sockets.length, 1);
});

test("a drop of one session attaches it again on the same connection", async () => {
  const [socket, first, second] = await openTwo();
  socket.say({ ...entry(1), session: "s1" });
  first.drop();
  assert.equal(take(socket, "detach").session, "s1");
  clock.advance(1000);
  await settle();
  socket.say(detached("s1", 1000, "closed"));
  assert.equal(attach(socket, "s1").offset, 1);
  assert.deepEqual([first.state, second.state, sockets.length], ["open", "open", 1]);
});

test("an error without a session is that of its message, or of the connection", async () => {
  const [socket, first, second] = await openTwo();
  const errors = [];
  shared.addEventListener("error", ({ detail }) => errors.push(detail.code));
  second.addEventListener("error", ({ detail }) => errors.push(`second ${detail.code}`));
  const asked = first.request("bad");
  const { id } = take(socket, "message");
  socket.say({ type: "error", code: "invalid_message", message: "no", id });
  await assert.rejects(asked, { code: "invalid_message" });
  socket.say({ type: "error", code: "internal", message: "", id: null, ref: "r" });
  assert.deepEqual(errors, ["internal"]);
});

test("the connection has one heartbeat, and its pongs tell each session's offset", async () => {
  const [socket, first] = await openTwo();
  clock.advance(30_000);
  await settle();
  const pings = socket.sent.filter(({ type }) => type === "ping");
  assert.deepEqual(pings, [{ type: "ping" }]);
  socket.sent.length = 0;
  // The log is ahead of the transcript, and stays there.
  socket.say({ type: "pong", offsets: { s1: 3, s2: 0 } });
  clock.advance(30_000);
  await settle();
  socket.say({ type: "pong", offsets: { s1: 3, s2: 0 } });
  assert.equal(first.state, "waiting");
  assert.equal(take(socket, "detach").session, "s1");
});

test("a server that stopped answering is left by all sessions", async () => {
  const [socket, first, second] = await openTwo();
  clock.advance(30_000);
  await settle();
  clock.advance(5000);
  assert.equal(socket.closedWith, 4000);
  assert.deepEqual([first.state, second.state], ["waiting", "waiting"]);
});

test("a drain is told to each session, which returns when the server asked", async () => {
  const [socket, first, second] = await openTwo();
  const byes = [];
  first.addEventListener("bye", ({ detail }) => byes.push(detail.code));
  shared.addEventListener("bye", ({ detail }) => byes.push(detail.code));
  const bye = { type: "bye", code: 4200, reason: "draining", reconnect: "now", after_ms: 700 };
  socket.say(bye);
  socket.end(4200, "draining");
  assert.deepEqual(byes, [4200, 4200]);
  assert.equal(first.ending.reason, "draining");
  clock.advance(699);
  assert.equal(sockets.length, 1);
  clock.advance(1);
  const again = await accept();
  attach(again, "s1");
  attach(again, "s2");
  assert.deepEqual([first.state, second.state], ["open", "open"]);
});

test("a final end is that of each session", async () => {
  const [socket, first, second] = await openTwo();
  socket.end(4009, "kicked");
  for (const { state, ending } of [shared, first, second]) {
    assert.deepEqual([state, ending.code], ["closed", 4009]);
  }
});

test("the name of the session counts for the size of a message", async () => {
  const client = shared.session("s1");
  client.connect();
  const socket = await accept();
  attach(socket, "s1", { limits: { max_message_size: 100 } });
  const refused = [];
  for (let length = 0; length < 60 && refused.length === 0; length += 1) {
    const asked = client.request("x".repeat(length)).catch((error) => refused.push(error));
    await settle();
    if (refused.length > 0) break;
    const message = take(socket, "message");
    assert.ok(JSON.stringify(message).length <= 100);
    socket.say({ type: "ack", session: "s1", id: message.id, offset: 1 });
    await asked;
  }
  assert.equal(refused[0]?.code, "message_too_big");
  assert.match(refused[0].message, /^101 bytes/);
  assert.equal(client.state, "open");
});

test("a message that was too big fails alone, and others are sent again", async () => {
  const [socket, first, second] = await openTwo();
  const small = first.request("é".repeat(60));
  const big = second.request("x".repeat(130));
  const { id } = take(socket, "message");
  socket.say({ type: "bye", code: 4013, reason: "message_too_big", reconnect: "now", after_ms: null });
  socket.end(4013, "message_too_big");
  await assert.rejects(big, { code: "message_too_big" });
  clock.advance(1000);
  const again = await accept();
  attach(again, "s1");
  const sent = take(again, "message");
  assert.equal(sent.id, id);
  again.say({ type: "ack", session: "s1", id, offset: 1 });
  assert.equal((await small).offset, 1);
});

test("an idle connection returns with the first message", async () => {
  const [socket, first, second] = await openTwo();
  socket.end(4300, "idle");
  const asked = first.request("hi");
  const again = await accept();
  attach(again, "s1");
  const { id, session } = take(again, "message");
  assert.equal(session, "s1");
  again.say({ type: "ack", session, id, offset: 1 });
  await asked;
  assert.equal(second.state, "closed");
});

test("an expired token is replaced for the connection, not for each session", async () => {
  const asked = [];
  shared = make({
    getToken: ({ isExpired }) => {
      asked.push(isExpired);
      return isExpired ? "second" : "first";
    },
  });
  const [socket, first] = await openTwo();
  assert.deepEqual(socket.protocols, ["orchestra.v2", "bearer.first"]);
  socket.end(4100, "token_expired");
  clock.advance(0);
  const again = await accept();
  assert.deepEqual(again.protocols, ["orchestra.v2", "bearer.second"]);
  clock.advance(1000);
  await settle();
  attach(again, "s1");
  assert.equal(first.state, "open");
  assert.deepEqual(asked, [false, true]);
  again.say({ type: "expiring", expires_at: "soon", after_ms: 70_000 });
  await settle();
  assert.equal(take(again, "refresh").token, "second");
});

/** Open two sessions with a server that knows no connection for many. */
async function openApart(code = 4004) {
  shared = make({ getToken: () => "token" });
  const [first, second] = ["s1", "s2"].map((session) => shared.session(session));
  first.connect();
  second.connect();
  await settle();
  sockets[0].open();
  sockets[0].end(code);
  assert.equal(shared.isShared, false);
  clock.advance(1000);
  await settle();
  const paths = sockets.slice(1).map(({ url }) => url.pathname);
  assert.deepEqual(paths, ["/ws/sessions/s1/", "/ws/sessions/s2/"]);
  for (const [index, socket] of sockets.slice(1).entries()) {
    assert.ok(socket.protocols.includes("bearer.token"));
    socket.open();
    socket.say({ ...HELLO, session: `s${index + 1}`, heartbeat_seconds: 3600 });
  }
  assert.deepEqual([first.state, second.state], ["open", "open"]);
  return [sockets.slice(1), first, second];
}

/** Let the time of a reconnect pass; return the path of the new connection. */
async function reconnect() {
  clock.advance(2000);
  await settle();
  return sockets.at(-1).url.pathname;
}

for (const code of [4002, 4004]) {
  test(`an older server that answers ${code} gets a connection for each session`, async () => {
    await openApart(code);
  });
}

for (const code of [4200, 4202]) {
  test(`a session shares again after ${code}`, async () => {
    const [[apart], first, second] = await openApart();
    apart.end(code);
    assert.equal(await reconnect(), "/ws/sessions/many/");
    attach(await accept(), "s1");
    assert.deepEqual([first.state, second.state, shared.isShared], ["open", "open", true]);
  });
}

test("sessions share again after ten minutes", async () => {
  const [[apart, other]] = await openApart();
  clock.advance(590_000);
  apart.end(1006);
  assert.equal(await reconnect(), "/ws/sessions/s1/");
  sockets.at(-1).open();
  sockets.at(-1).say({ ...HELLO, heartbeat_seconds: 3600 });
  clock.advance(10_000);
  other.end(1006);
  assert.equal(await reconnect(), "/ws/sessions/many/");
  // The server still knows none: the next ten minutes begin.
  sockets.at(-1).open();
  sockets.at(-1).end(4004);
  assert.equal(await reconnect(), "/ws/sessions/s2/");
});

test("a session that was evicted apart returns with the connection", async () => {
  const [[one, other], first, second] = await openApart();
  one.end(4005, "evicted");
  assert.equal(first.state, "closed");
  other.end(4202);
  assert.equal(await reconnect(), "/ws/sessions/many/");
  const socket = await accept();
  attach(socket, "s1");
  attach(socket, "s2");
  assert.deepEqual([first.state, second.state], ["open", "open"]);
});

test("a session that was evicted with the connection stays away", async () => {
  const [socket, first, second] = await openTwo();
  socket.end(4005, "evicted");
  first.connect();
  const again = await accept();
  attach(again, "s1");
  assert.deepEqual([first.state, second.state], ["open", "closed"]);
  assert.deepEqual(again.sent, []);
});

test("the connection closes with all its sessions", async () => {
  const [socket, first, second] = await openTwo();
  shared.close();
  assert.equal(socket.closedWith, 1000);
  for (const one of [shared, first, second]) assert.equal(one.state, "closed");
  clock.advance(60_000);
  assert.equal(sockets.length, 1);
});
