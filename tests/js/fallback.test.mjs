import assert from "node:assert/strict";
import { test } from "node:test";

import { withFallback } from "../../connections/static/connections/fallback.js";

/** A page whose proxy breaks WebSockets, and whose server answers over HTTP. */
class Page {
  sockets = 0;
  paths = [];
  bodies = [];
  /** The text that the stream begins with; it does not end. */
  said = "";

  constructor(options = {}) {
    const page = this;
    class BrokenSocket {
      constructor() {
        page.sockets += 1;
        queueMicrotask(() => this.onclose({ code: 1006, reason: "" }));
      }
      close() {}
    }
    const fetch = async (url, { method, body }) => {
      this.paths.push(url.pathname);
      if (method === "POST") {
        this.bodies.push(JSON.parse(body));
        return this.posted;
      }
      const start = (controller) => controller.enqueue(new TextEncoder().encode(this.said));
      return new Response(new ReadableStream({ start }), options);
    };
    this.Socket = withFallback("http://site/api/sessions/", {
      fetch,
      WebSocket: BrokenSocket,
      random: () => 0.5,
      returnMs: 1000,
    });
  }

  /** Open a socket; resolve with it and the code of its end, 0 if it is open. */
  open() {
    const socket = new this.Socket("ws://site/ws/sessions/s1/", ["orchestra.v2"]);
    return new Promise((resolve) => {
      socket.onopen = () => resolve([socket, 0]);
      socket.onclose = ({ code }) => resolve([socket, code]);
    });
  }
}

test("a client that was away when the time was over tries two sockets again", async (t) => {
  t.mock.timers.enable({ apis: ["Date"] });
  const page = new Page();
  for (const code of [1006, 1006]) assert.equal((await page.open())[1], code);
  const [socket, code] = await page.open();
  assert.deepEqual([code, page.sockets], [0, 2]);
  assert.deepEqual(page.paths, ["/api/sessions/s1/", "/api/sessions/s1/stream/"]);
  socket.close();
  t.mock.timers.tick(1500);
  for (const expected of [1006, 1006, 0]) {
    const [opened, ended] = await page.open();
    assert.equal(ended, expected);
    opened.close();
  }
  assert.equal(page.sockets, 4);
});

test("a server that asks for patience causes no fallback", async () => {
  const page = new Page({ headers: { "Retry-After": "2" } });
  for (const _ of [1, 2, 3, 4]) assert.equal((await page.open())[1], 1006);
  assert.equal(page.sockets, 4);
});

test("a message is sent again only if that can help", async () => {
  const page = new Page();
  for (const _ of [1, 2]) await page.open();
  const [socket] = await page.open();
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

test("typing names its connection, and a server that takes none is no error", async () => {
  const page = new Page();
  for (const _ of [1, 2]) await page.open();
  const hello = { type: "hello", session: "s1", connection: "c1" };
  page.said = `data: ${JSON.stringify(hello)}\n\n`;
  const [socket] = await page.open();
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
