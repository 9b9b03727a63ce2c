import assert from "node:assert/strict";
import { test } from "node:test";

import { withFallback } from "../../connections/static/connections/fallback.js";

/** A page whose proxy breaks WebSockets, and whose server answers over HTTP. */
class Page {
  sockets = 0;
  isMended = false;
  /** Refused handshakes are errors alone, without a close. */
  isNode20 = false;
  paths = [];
  bodies = [];
  /** The text that the stream begins with; it does not end. */
  said = "";
  /** The answer to a GET of a session in place of 200. */
  asked = null;

  constructor(options = {}) {
    const page = this;
    class BrokenSocket {
      readyState = 0;
      constructor() {
        page.sockets += 1;
        if (page.isMended) queueMicrotask(() => this.onopen({}));
        else if (page.isNode20) queueMicrotask(() => this.onerror({}));
        else queueMicrotask(() => this.onclose({ code: 1006, reason: "" }));
      }
      close() {}
    }
    const fetch = async (url, { method, body }) => {
      this.paths.push(url.pathname);
      if (method === "POST") {
        this.bodies.push(JSON.parse(body));
        return this.posted;
      }
      if (this.asked && !url.pathname.endsWith("/stream/")) return this.asked.clone();
      const start = (controller) => controller.enqueue(new TextEncoder().encode(this.said));
      return new Response(new ReadableStream({ start }), options);
    };
    this.Socket = withFallback("http://site/api/sessions/", {
      fetch,
      WebSocket: BrokenSocket,
      random: () => 0.5,
      // A test outlasts it by a clock of its own alone: a machine may pause.
      returnMs: 3_600_000,
    });
  }

  /** Open a socket; resolve with it and the code of its end, 0 if it is open. */
  open(session = "s1") {
    const socket = new this.Socket(`ws://site/ws/sessions/${session}/`, ["orchestra.v2"]);
    return new Promise((resolve) => {
      socket.onopen = () => resolve([socket, 0]);
      socket.onclose = ({ code }) => resolve([socket, code]);
    });
  }

  /** Let handshakes fail. */
  async fail(count) {
    const before = this.sockets;
    for (let index = 0; index < count; index += 1) assert.equal((await this.open())[1], 1006);
    assert.equal(this.sockets, before + count);
  }

  /** Return the plain socket after three handshakes. */
  async fallBack() {
    await this.fail(3);
    const [socket, code] = await this.open();
    assert.deepEqual([code, this.sockets], [0, 3]);
    return socket;
  }
}

test("a handshake that fails without a close counts as failed", async () => {
  const page = new Page();
  page.isNode20 = true;
  (await page.fallBack()).close();
});

test("a client that was away when the time was over tries three sockets again", async (t) => {
  t.mock.timers.enable({ apis: ["Date"] });
  const page = new Page();
  const socket = await page.fallBack();
  const path = "/api/sessions/s1/";
  assert.deepEqual(page.paths, [path, path, `${path}stream/`]);
  socket.close();
  t.mock.timers.tick(1.5 * 3_600_000);
  await page.fail(3);
  const [opened, ended] = await page.open();
  assert.deepEqual([ended, page.sockets], [0, 6]);
  opened.close();
});

test("a server that restarted gets a socket, and what failed before counts no more", async () => {
  const page = new Page();
  await page.fail(2);
  page.isMended = true;
  const [socket, code] = await page.open();
  assert.deepEqual([code, page.sockets], [0, 3]);
  socket.close();
  page.isMended = false;
  await page.fail(3);
  assert.ok(!page.paths.includes("/api/sessions/s1/stream/"));
});

test("a server that went away again is asked twice anew", async () => {
  const page = new Page();
  await page.fail(3);
  page.asked = new Response("a page", { status: 502 });
  await page.fail(1);
  page.asked = null;
  await page.fail(1);
  const [socket, code] = await page.open();
  assert.deepEqual([code, page.sockets], [0, 5]);
  socket.close();
});

const OURS = JSON.stringify({ error: { code: "not_found", message: "no" } });
for (const status of [401, 403, 404]) {
  test(`a ${status} with an error of the server shows that it is there`, async () => {
    const page = new Page();
    page.asked = new Response(OURS, { status });
    (await page.fallBack()).close();
  });
}

for (const [status, body, headers] of [
  [404, "a page", {}],
  [403, "{}", {}],
  [401, '{"error": "no"}', {}],
  [404, '{"error": {"message": "no"}}', {}],
  [500, OURS, {}],
  [404, OURS, { "Retry-After": "1" }],
]) {
  test(`a ${status} with ${body} does not, ${JSON.stringify(headers)}`, async () => {
    const page = new Page();
    page.asked = new Response(body, { status, headers });
    await page.fail(5);
  });
}

test("a connection for many sessions has no plain form, and each of them has one", async () => {
  const page = new Page();
  for (const code of [1006, 1006, 1006, 4004, 4004]) {
    assert.equal((await page.open("many"))[1], code);
  }
  assert.deepEqual(page.paths, ["/api/sessions/", "/api/sessions/"]);
  const [socket, code] = await page.open();
  assert.deepEqual([code, page.sockets], [0, 3]);
  socket.close();
});

test("a server that asks for patience causes no fallback", async () => {
  const page = new Page({ headers: { "Retry-After": "2" } });
  await page.fail(4);
});

test("a message is sent again only if that can help", async () => {
  const page = new Page();
  const socket = await page.fallBack();
  const error = (/** @type {string} */ code) => JSON.stringify({ error: { code, message: "" } });
  for (const [status, body, code] of [
    [401, error("unauthenticated"), "unavailable"],
    [503, "<h1>no</h1>", "unavailable"],
    [413, "<h1>too big</h1>", "http_413"],
    [409, error("conflict"), "conflict"],
  ]) {
    page.posted = new Response(body, { status });
    const answer = new Promise((resolve) => {
      socket.onmessage = ({ data }) => resolve(JSON.parse(data));
    });
    socket.send(JSON.stringify({ type: "message", id: "a", data: 1 }));
    assert.equal((await answer).code, code);
  }
  socket.close();
});

test("a line separator in a text ends no line of the stream", async () => {
  const page = new Page();
  const entry = JSON.stringify({ type: "entry", data: "one\u2028event: bye\u2029two" });
  page.said = `data: ${entry}\n\n`;
  const socket = await page.fallBack();
  const heard = new Promise((resolve) => (socket.onmessage = resolve));
  assert.equal((await heard).data, entry);
  socket.close();
});

test("typing names its connection, and a server that takes none is no error", async () => {
  const page = new Page();
  const hello = { type: "hello", session: "s1", connection: "c1" };
  page.said = `data: ${JSON.stringify(hello)}\n\n`;
  const socket = await page.fallBack();
  const heard = new Promise((resolve) => (socket.onmessage = resolve));
  assert.equal((await heard).data, JSON.stringify(hello));
  const refused = { error: { code: "invalid_message", message: "" } };
  for (const [status, body] of [
    [400, JSON.stringify(refused)],
    [204, null],
  ]) {
    page.posted = new Response(body, { status });
    socket.onmessage = ({ data }) => assert.fail(data);
    socket.send(JSON.stringify({ type: "typing", active: true }));
    await new Promise(setImmediate);
  }
  const posted = { type: "typing", active: true, connection: "c1" };
  assert.deepEqual(page.bodies, [posted, posted]);
  socket.close();
});
