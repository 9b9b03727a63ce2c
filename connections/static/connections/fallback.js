// Sockets that become plain HTTP where a proxy breaks WebSockets: server-sent events
// to receive, and requests to send.
//
//   const WebSocket = withFallback("/api/sessions/");
//   const client = new SessionClient("/ws/sessions/", { WebSocket });

import { listenForEnd } from "./socket.js";

/**
 * @typedef {{csrfToken?: string, fetch?: typeof fetch, WebSocket?: any,
 *   random?: () => number, returnMs?: number}} FallbackOptions
 */

const MOST_FAILURES = 2;
/** The least milliseconds until a client tries a socket again, and half of the most. */
const RETURN_MS = 300_000;
/** Without a byte for so long, the response counts as dead; comments come each 30 s. */
const SILENT_MS = 75_000;
/** The types of messages that need no socket. */
const POSTED = ["message", "cancel", "regenerate", "approve", "deny", "typing"];
/** A GET that asks whether the server is there must not keep sockets from being tried. */
const ASK_MS = 3000;
/** With an error of the server's own: the plain request then gets a close code. */
const REFUSED = [401, 403, 404];
const LOST = 1006;
const NOT_FOUND = 4004;
const RETURNING = 4202;
/** In the place of a session: the connection that many share, which HTTP has not. */
const MANY = "many";

/**
 * Return a class in the place of WebSocket, for the clients of one page.
 *
 * It falls back once two handshakes in a row have failed, the server answers a GET of
 * the session without Retry-After, and one more handshake fails before it answers the
 * next GET: then the server is there, and what is between breaks sockets. After five to
 * ten minutes a socket is tried again. The sessions of a SharedConnection fall back one
 * by one, and share a socket again.
 * @param {string | URL} url of all sessions over HTTP @param {FallbackOptions} [options]
 * @returns {any}
 */
export function withFallback(url, options = {}) {
  const root = new URL(url, globalThis.location?.href);
  root.pathname = root.pathname.replace(/\/*$/, "/");
  // `answeredAt`: the failures before the server was found to answer; it has to again.
  const shared = { ...options, root, failures: 0, answeredAt: Infinity, until: 0 };
  return class FallbackSocket extends PlainSocket {
    /** @param {string} address @param {string[]} protocols */
    constructor(address, protocols) {
      super(shared, address, protocols);
    }
  };
}

/** The part of a WebSocket that the clients use. */
class PlainSocket {
  readyState = 0;
  /** @type {any} */ onopen = null;
  /** @type {any} */ onmessage = null;
  /** @type {any} */ onclose = null;
  #shared;
  #address;
  #protocols;
  #token;
  #session;
  /** @type {string | undefined} */ #connection;
  #ended = new AbortController();
  #heardAt = 0;
  /** @type {any} */ #bye = null;
  /** @type {any} */ #native = null;
  /** @type {any} */ #timer;

  /** @param {any} shared @param {string} address @param {string[]} protocols */
  constructor(shared, address, protocols) {
    this.#shared = shared;
    this.#address = new URL(address);
    this.#session = this.#address.pathname.split("/").filter(Boolean).at(-1) ?? "";
    this.#protocols = protocols;
    this.#token = protocols.find((one) => one.startsWith("bearer."))?.slice(7);
    void this.#open();
  }

  /** @param {string} text */
  send(text) {
    if (this.#native) this.#native.send(text);
    else void this.#post(JSON.parse(text));
  }

  /** @param {number} [code] */
  close(code = 1000) {
    // A handshake without an answer is given up with this code.
    if (this.#native && this.readyState === 0 && code === 4000) this.#shared.failures += 1;
    this.#native?.close(code);
    this.#end(code, "");
  }

  async #open() {
    const shared = this.#shared;
    const isDue = () => Date.now() >= shared.until;
    if (isDue() && shared.failures >= MOST_FAILURES) await this.#probe();
    if (this.readyState > 1) return;
    if (isDue()) this.#connect();
    else if (this.#session === MANY) queueMicrotask(() => this.#end(NOT_FOUND, "not_found"));
    else await this.#follow();
  }

  /** Fall back if a handshake has failed between two answers of the server. */
  async #probe() {
    const shared = this.#shared;
    const isServed = await this.#isServed().catch(() => false);
    const isBroken = isServed && shared.failures > shared.answeredAt;
    // A server that does not answer restarts, perhaps: the failures before say nothing.
    shared.answeredAt = isServed && !isBroken ? shared.failures : Infinity;
    if (!isBroken) return;
    const { random = Math.random, returnMs = RETURN_MS } = shared;
    shared.failures = 0;
    shared.until = Date.now() + returnMs * (1 + random());
  }

  /** Return whether the server answers, and asks for no patience. */
  async #isServed() {
    const path = ["new", MANY].includes(this.#session) ? "?limit=1" : `${this.#session}/`;
    const signal = AbortSignal.timeout(ASK_MS);
    const response = await this.#ask("GET", path, { signal });
    if (response.headers.has("Retry-After")) return false;
    if (response.status === 200) return true;
    return REFUSED.includes(response.status) && "code" in (await response.json()).error;
  }

  #connect() {
    const WebSocket = this.#shared.WebSocket ?? globalThis.WebSocket;
    const socket = (this.#native = new WebSocket(this.#address.href, this.#protocols));
    socket.onopen = () => {
      Object.assign(this.#shared, { failures: 0, answeredAt: Infinity });
      this.#begin();
    };
    socket.onmessage = (/** @type {any} */ event) => this.onmessage?.(event);
    listenForEnd(socket, ({ code, reason }) => {
      if (this.readyState === 0) this.#shared.failures += 1;
      this.#end(code, reason);
    });
  }

  /** Receive by server-sent events until they end. */
  async #follow() {
    const query = new URLSearchParams(this.#address.search);
    query.set("live", "sse");
    query.set("protocol", this.#protocols[0]);
    try {
      const response = await this.#ask("GET", `${this.#session}/stream/?${query}`);
      if (!response.ok || !response.body) {
        const { error } = await response.json();
        return this.#end(error.close_code ?? LOST, error.code);
      }
      this.#begin();
      this.#timer = setTimeout(
        () => this.#end(RETURNING, "asked_to_reconnect"),
        Math.max(0, this.#shared.until - Date.now()),
      );
      await this.#read(response.body.pipeThrough(new TextDecoderStream()));
    } catch {
      // The network, or close().
    }
    this.#end(this.#bye?.code ?? LOST, this.#bye?.reason ?? "");
  }

  /** @param {ReadableStream<string>} stream */
  async #read(stream) {
    const reader = stream.getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.#heardAt = Date.now();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) this.#take(block);
    }
  }

  /** @param {string} block */
  #take(block) {
    // Other than `$` and `.` of a RegExp, the format ends no line with U+2028.
    const lines = block.split("\n");
    const data = lines.find((one) => one.startsWith("data: "))?.slice(6);
    // Another token needs another request, when the server ends this one.
    if (data === undefined || /^\{"type": ?"expiring"/.test(data)) return;
    if (lines.includes("event: bye")) this.#bye = JSON.parse(data);
    // A new session has its id now, which the first message needs.
    if (/^\{"type": ?"hello"/.test(data)) {
      ({ session: this.#session, connection: this.#connection } = JSON.parse(data));
    }
    this.onmessage?.({ data });
  }

  /** @param {any} message */
  async #post(message) {
    const { type, id = null, offset } = message;
    if (type === "ping") {
      // The server's comments show that it is there.
      if (Date.now() - this.#heardAt < SILENT_MS) this.#answer({ type: "pong", t: message.t });
    } else if (type === "delete") {
      await this.#ask("DELETE", `${this.#session}/`).catch(() => null);
    } else if (POSTED.includes(type)) {
      const path = `${this.#session}/messages/`;
      const body = { ...message, connection: this.#connection };
      const response = await this.#ask("POST", path, { body }).catch(() => null);
      // Lost typing is of no account, and servers of older releases take none.
      if (type === "typing") return;
      const content = response?.status === 204 ? null : await response?.json().catch(() => null);
      if (response?.ok) return content && this.#answer(content);
      const { status = 503 } = response ?? {};
      const { code: reason, message: text } = content?.error ?? {
        code: `http_${status}`,
        message: "",
      };
      // A message whose token has expired is sent again with the next one.
      const isTemporary = reason === "unauthenticated" || reason.startsWith("http_5");
      const code = isTemporary ? "unavailable" : reason;
      const seconds = Number(response?.headers.get("Retry-After") ?? NaN) || null;
      const error = { type: "error", code, message: text, id, ref: null };
      this.#answer({
        ...error,
        retry_after_seconds: seconds,
        ...(type === "cancel" && { offset }),
      });
    }
  }

  /** @param {object} message */
  #answer(message) {
    if (this.readyState === 1) this.onmessage?.({ data: JSON.stringify(message) });
  }

  #begin() {
    this.#heardAt = Date.now();
    this.readyState = 1;
    this.onopen?.({});
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    if (this.readyState === 3) return;
    this.readyState = 3;
    clearTimeout(this.#timer);
    this.#ended.abort();
    this.onclose?.({ code, reason });
  }

  /**
   * @param {string} method @param {string} path
   * @param {{body?: object, signal?: AbortSignal}} [options]
   */
  #ask(method, path, { body, signal = this.#ended.signal } = {}) {
    const { csrfToken, fetch = globalThis.fetch, root } = this.#shared;
    /** @type {Record<string, string>} */ const headers = {};
    if (body) headers["Content-Type"] = "application/json";
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    else if (method !== "GET") headers["X-CSRFToken"] = csrfToken ?? readCookie();
    return fetch(new URL(path, root), {
      method,
      headers,
      body: body && JSON.stringify(body),
      credentials: "same-origin",
      // What changes something is not withdrawn: it may be recorded already.
      signal: method === "GET" ? signal : undefined,
    });
  }
}

/** Return the CSRF token in Django's cookie; empty without one. */
export function readCookie() {
  const cookies = globalThis.document?.cookie ?? "";
  return /(?:^|; )csrftoken=([^;]*)/.exec(cookies)?.[1] ?? "";
}
