// A WebSocket that reconnects; its close code decides whether and when. It is
// independent of sessions, and works with any JSON consumer.

import { decide, readEnding } from "./reconnect.js";

/**
 * @typedef {"idle"|"connecting"|"open"|"waiting"|"closed"} State
 * @typedef {import("./reconnect.js").Ending} Ending
 * @typedef {{now: () => number, setTimeout: (work: () => void, ms: number) => any,
 *   clearTimeout: (timer: any) => void}} Clock
 * @typedef {(asked: {isExpired: boolean, previous: string | null})
 *   => string | null | Promise<string | null>} GetToken
 */

/** @type {Clock} */
export const REAL_CLOCK = {
  now: () => performance.now(),
  setTimeout: (work, ms) => globalThis.setTimeout(work, ms),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
};

/** A connection that lasts so many milliseconds resets the failures. */
const LASTING_MS = 10_000;
const OPENING_MS = 10_000;
/** Milliseconds to wait for the close frame that a bye announced. */
const BYE_GRACE_MS = 3000;
/** The longest Retry-After that a client obeys. */
const LONGEST_RETRY_MS = 3_600_000;
const LOST = 1006;
const DRAINING = 4200;
const TOKEN_EXPIRED = 4100;

/**
 * Events: `state` {from, to, ending, delayMs, failures}, `opened`, `message`
 * (parsed if it is JSON), `bye`, `probe` (the network may have changed: check that
 * the server still answers).
 */
export class ReconnectingSocket extends EventTarget {
  /** @type {State} */ state = "idle";
  /** The end of the last connection. @type {Ending | null} */ ending = null;

  #url;
  #protocols;
  #getToken;
  #clock;
  #random;
  #WebSocket;
  #isReadyAtOnce;
  #page;
  /** @type {AbortController | null} */ #watching = null;
  /** @type {WebSocket | null} */ #socket = null;
  /** @type {any} */ #timer = null;
  /** @type {any} */ #closeTimer = null;
  /** @type {Record<string, any> | null} */ #bye = null;
  #byeAt = 0;
  #attempt = 0;
  #failures = 0;
  /** @type {number | null} */ #readyAt = null;
  #drainedAt = -Infinity;
  /** @type {string | null} */ #token = null;
  #isExpired = false;
  #hasRenewed = false;

  /**
   * @param {() => string} url read at each attempt
   * @param {{protocols?: string[], getToken?: GetToken, clock?: Clock,
   *   random?: () => number, WebSocket?: typeof WebSocket, isReadyAtOnce?: boolean,
   *   page?: Window | null}} [options] with `isReadyAtOnce: false` a
   *   connection is established once markReady() is called
   */
  constructor(url, options = {}) {
    super();
    this.#url = url;
    this.#protocols = options.protocols ?? [];
    this.#getToken = options.getToken;
    this.#clock = options.clock ?? REAL_CLOCK;
    this.#random = options.random ?? Math.random;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    this.#isReadyAtOnce = options.isReadyAtOnce ?? true;
    this.#page = options.page === undefined ? globalThis.window : options.page;
  }

  /** Connect now, unless a connection is open or being opened. */
  connect() {
    if (this.state !== "connecting" && this.state !== "open") void this.#open();
  }

  /** Report user activity; reconnects after an idle close. */
  wake() {
    if (this.state === "closed" && this.ending?.reconnect === "on_action") this.connect();
  }

  /** Close for good; connect() starts again. */
  close() {
    this.#watching?.abort();
    this.#watching = null;
    this.#abandon(1000);
    this.#stay(readEnding(1000, "", null));
  }

  /** Drop the socket as if the network had failed, and reconnect. */
  drop() {
    if (this.#socket === null) return;
    this.#abandon(4000);
    this.#lose(readEnding(LOST, "", this.#bye));
  }

  /** Send a message as JSON; return false without an open connection. */
  send(/** @type {unknown} */ message) {
    if (this.state !== "open" && !this.#isOpening) return false;
    this.#socket?.send(typeof message === "string" ? message : JSON.stringify(message));
    return true;
  }

  get #isOpening() {
    return this.state === "connecting" && this.#socket?.readyState === 1;
  }

  /** Mark the connection as established, for example after a hello. */
  markReady() {
    if (this.state !== "connecting") return;
    this.#clock.clearTimeout(this.#timer);
    this.#readyAt = this.#clock.now();
    this.#isExpired = this.#hasRenewed = false;
    this.ending = null;
    this.#move("open");
  }

  async #open() {
    const attempt = ++this.#attempt;
    this.#watch();
    this.#clock.clearTimeout(this.#timer);
    this.#move("connecting");
    this.#timer = this.#clock.setTimeout(() => this.#giveUp(attempt), OPENING_MS);
    const protocols = [...this.#protocols];
    if (this.#getToken) {
      const asked = { isExpired: this.#isExpired, previous: this.#token };
      let token;
      /** @type {number | null} */ let afterMs = null;
      try {
        token = await this.#getToken(asked);
      } catch (/** @type {any} */ error) {
        console.warn("No token for the connection:", error);
        token = undefined;
        afterMs = readRetryAfter(error?.retryAfterSeconds);
      }
      if (attempt !== this.#attempt) return;
      const isSame = this.#isExpired && token === this.#token;
      if (token === undefined || isSame) {
        const reason = isSame ? "token_expired" : "no_token";
        this.#lose({ ...readEnding(isSame ? TOKEN_EXPIRED : LOST, reason, null), afterMs });
        return;
      }
      this.#token = token;
      if (token) protocols.push(`bearer.${token}`);
    }
    this.#listen(new this.#WebSocket(this.#url(), protocols));
  }

  /** @param {WebSocket} socket */
  #listen(socket) {
    this.#socket = socket;
    this.#bye = null;
    const isOurs = () => this.#socket === socket;
    socket.onopen = () => {
      if (!isOurs()) return;
      this.dispatchEvent(new Event("opened"));
      if (this.#isReadyAtOnce) this.markReady();
    };
    socket.onmessage = (event) => {
      if (isOurs()) this.#take(event.data);
    };
    socket.onclose = (event) => {
      if (!isOurs()) return;
      this.#socket = null;
      this.#lose(readEnding(event.code, event.reason, this.#bye));
    };
  }

  /** @param {string} text */
  #take(text) {
    const message = parse(text);
    if (message?.type !== "bye") {
      this.dispatchEvent(new CustomEvent("message", { detail: message }));
      return;
    }
    this.#bye = message;
    this.#byeAt = this.#clock.now();
    this.dispatchEvent(new CustomEvent("bye", { detail: message }));
    // The close frame follows at that time, unless the network fails before.
    const wait = (message.after_ms ?? 0) + BYE_GRACE_MS;
    this.#clock.clearTimeout(this.#closeTimer);
    this.#closeTimer = this.#clock.setTimeout(() => this.drop(), wait);
  }

  /** @param {number} attempt */
  #giveUp(attempt) {
    if (attempt !== this.#attempt || this.state !== "connecting") return;
    this.#abandon(4000);
    this.#lose(readEnding(LOST, "timeout", null));
  }

  /** Abandon the socket without waiting for its close frame. @param {number} code */
  #abandon(code) {
    this.#attempt += 1;
    const socket = this.#socket;
    this.#socket = null;
    // A close handshake without a peer takes browsers minutes.
    socket?.close(code);
  }

  /** @param {Ending} ending */
  #lose(ending) {
    const now = this.#clock.now();
    this.#clock.clearTimeout(this.#timer);
    this.#clock.clearTimeout(this.#closeTimer);
    if (this.#readyAt !== null && now - this.#readyAt >= LASTING_MS) this.#failures = 0;
    this.#readyAt = null;
    if (ending.code === DRAINING) this.#drainedAt = now;
    let delayMs = decide(ending, {
      failures: this.#failures,
      elapsedMs: this.#bye ? now - this.#byeAt : 0,
      sinceDrainMs: now - this.#drainedAt,
      random: this.#random,
    });
    if (ending.reconnect === "new_token") {
      if (this.#getToken && !this.#hasRenewed) delayMs = 0;
      this.#isExpired = this.#hasRenewed = true;
    }
    this.#bye = null;
    if (delayMs === null) {
      this.#stay(ending);
      return;
    }
    this.#failures += 1;
    this.ending = ending;
    this.#timer = this.#clock.setTimeout(() => void this.#open(), delayMs);
    this.#move("waiting", delayMs);
  }

  /** @param {Ending} ending */
  #stay(ending) {
    this.#clock.clearTimeout(this.#timer);
    this.#clock.clearTimeout(this.#closeTimer);
    this.#failures = 0;
    this.ending = ending;
    this.#move("closed");
  }

  /** @param {State} to @param {number | null} [delayMs] */
  #move(to, delayMs = null) {
    const from = this.state;
    if (from === to) return;
    this.state = to;
    const detail = { from, to, ending: this.ending, delayMs, failures: this.#failures };
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }

  /** React to network and visibility events of the page. */
  #watch() {
    const page = this.#page;
    if (!page || this.#watching) return;
    this.#watching = new AbortController();
    const { signal } = this.#watching;
    const nudge = () => {
      if (page.document.visibilityState === "visible") this.#nudge();
    };
    page.addEventListener("online", () => this.#nudge(), { signal });
    page.addEventListener("pageshow", (event) => event.persisted && nudge(), { signal });
    page.document.addEventListener("visibilitychange", nudge, { signal });
  }

  #nudge() {
    const reconnect = this.ending?.reconnect;
    if (this.state === "open") this.dispatchEvent(new Event("probe"));
    else if (this.state === "waiting" && reconnect === "backoff") void this.#open();
    else this.wake();
  }
}

/** Return the milliseconds of a Retry-After header. @param {unknown} seconds */
function readRetryAfter(seconds) {
  const ms = 1000 * Number(seconds ?? NaN);
  return ms >= 0 ? Math.min(ms, LONGEST_RETRY_MS) : null;
}

/** @param {string} text @returns {any} */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text; // A consumer that speaks no JSON.
  }
}
