// Fake time, network and page, which tests control.

import { SessionClient } from "../../connections/static/connections/client.js";

export class FakeClock {
  #now = 1000;
  #timers = new Map();
  #count = 0;

  now = () => this.#now;

  setTimeout = (work, ms) => {
    this.#count += 1;
    this.#timers.set(this.#count, { at: this.#now + ms, work });
    return this.#count;
  };

  clearTimeout = (timer) => this.#timers.delete(timer);

  /** Advance time, and run due timers in order. */
  advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end);
      if (due.length === 0) break;
      due.sort(([, one], [, other]) => one.at - other.at);
      const [timer, { at, work }] = due[0];
      this.#timers.delete(timer);
      this.#now = Math.max(this.#now, at);
      work();
    }
    this.#now = end;
  }
}

/** A WebSocket whose server is the test. */
export class FakeWebSocket {
  readyState = 0;
  sent = [];
  closedWith = null;

  constructor(url, protocols) {
    this.url = new URL(url);
    this.protocols = protocols;
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.readyState = 2;
    this.closedWith = code;
  }

  open() {
    this.readyState = 1;
    this.onopen?.({});
  }

  say(message) {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  end(code, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  /** Fail a handshake as Node 20 does: with an error, and without a close. */
  refuse() {
    this.onerror?.({});
  }
}

/** An EventTarget that counts its listeners. */
class FakeTarget extends EventTarget {
  listeners = 0;

  addEventListener(type, listener, options) {
    super.addEventListener(type, listener, options);
    this.listeners += 1;
    options?.signal?.addEventListener("abort", () => (this.listeners -= 1));
  }
}

export class FakePage extends FakeTarget {
  document = Object.assign(new FakeTarget(), { visibilityState: "visible" });

  show(visibilityState) {
    this.document.visibilityState = visibilityState;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }
}

export class FakeStorage {
  #items = new Map();
  isFull = false;

  get length() {
    return this.#items.size;
  }

  key = (index) => [...this.#items.keys()][index] ?? null;
  getItem = (key) => this.#items.get(key) ?? null;
  removeItem = (key) => this.#items.delete(key);

  setItem = (key, value) => {
    if (this.isFull) throw new DOMException("full", "QuotaExceededError");
    this.#items.set(key, value);
  };
}

/** A client in a fake environment; `events` holds its events. */
export class Bench {
  clock = new FakeClock();
  page = new FakePage();
  sockets = [];
  events = [];
  random = 0.5;

  constructor(options = {}) {
    const bench = this;
    class Socket extends FakeWebSocket {
      constructor(url, protocols) {
        super(url, protocols);
        bench.sockets.push(this);
      }
    }
    const { url = "http://host/ws/sessions/", ...rest } = options;
    this.client = new SessionClient(url, {
      clock: this.clock,
      page: this.page,
      random: () => this.random,
      WebSocket: Socket,
      ...rest,
    });
    const types = "state hello entry delta ended gap reset refreshed error dropped notice bye present typing";
    for (const type of types.split(" ")) {
      this.client.addEventListener(type, ({ detail }) => this.events.push([type, detail]));
    }
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** Connect and receive a hello; return the socket. */
  attach(hello = {}) {
    if (this.client.state === "idle") this.client.connect();
    this.socket.open();
    this.socket.say({ ...HELLO, ...hello });
    return this.socket;
  }

  named(type) {
    return this.events.filter(([name]) => name === type).map(([, detail]) => detail);
  }
}

export const HELLO = {
  type: "hello",
  connection: "c1",
  session: "s1",
  epoch: "e1",
  offset: 0,
  outcome: "new",
  gap: null,
  history_limit: 100,
  limits: {},
  heartbeat_seconds: 30,
  idle_timeout_seconds: 300,
};

export function entry(offset, changes = {}) {
  return {
    type: "entry",
    offset,
    kind: "message",
    from: "client",
    at: "2026-01-01T00:00:00Z",
    data: { text: `text ${offset}` },
    state: "done",
    ...changes,
  };
}

/** Run the callbacks of settled promises. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));
