// A WebSocket that reconnects; its close code decides whether and when. It is
// independent of sessions, and works with any JSON consumer.

import { TypedTarget } from "./events.js";
import { decide, readEnding } from "./reconnect.js";
import { UnauthorizedError, isSendable } from "./tokens.js";

/**
 * @typedef {"idle"|"connecting"|"open"|"waiting"|"closed"} State
 * @typedef {import("./reconnect.js").Ending} Ending
 * @typedef {import("./tokens.js").GetToken} GetToken
 * @typedef {import("./heartbeat.js").Clock} Clock
 * @typedef {{from: State, to: State, ending: Ending | null, delayMs: number | null,
 *   failures: number}} StateChange
 * @typedef {{state: StateChange, opened: null, message: any, bye: any,
 *   probe: null}} SocketEvents
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
const UNAUTHENTICATED = 4001;
const TOKEN_EXPIRED = 4100;

/**
 * Events: `state` {from, to, ending, delayMs, failures}, `opened`, `message`
 * (parsed if it is JSON), `bye`, `probe` (the network may have changed: check that
 * the server still answers).
 * @extends {TypedTarget<SocketEvents>}
 */
export class ReconnectingSocket extends TypedTarget {
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
    const token = this.#getToken ? await this.#askToken(this.#getToken, attempt) : null;
    if (attempt !== this.#attempt || token === undefined) return;
    const protocols = token ? [...this.#protocols, `bearer.${token}`] : [...this.#protocols];
    let socket;
    try {
      socket = new this.#WebSocket(this.#url(), protocols);
    } catch (error) {
      this.#fail("invalid_url", error);
      return;
    }
    this.#listen(socket);
  }

  /**
   * Return the token of a new connection; undefined if the attempt has ended.
   * @param {GetToken} getToken @param {number} attempt
   * @returns {Promise<string | null | undefined>}
   */
  async #askToken(getToken, attempt) {
    let token;
    /** @type {any} */ let failure = null;
    try {
      token = await getToken({ isExpired: this.#isExpired, previous: this.#token });
    } catch (error) {
      console.warn("No token for the connection:", error);
      failure = error;
    }
    if (attempt !== this.#attempt) return undefined;
    if (failure instanceof UnauthorizedError) {
      this.#lose(readEnding(UNAUTHENTICATED, "", null));
    } else if (token === undefined) {
      const afterMs = readRetryAfter(failure?.retryAfterSeconds);
      this.#lose({ ...readEnding(LOST, "no_token", null), afterMs });
    } else if (this.#isExpired && token === this.#token) {
      this.#lose(readEnding(TOKEN_EXPIRED, "token_expired", null));
    } else if (token && !isSendable(token)) {
      this.#fail("invalid_token", "a token may hold letters, digits and !#$%&'*+-.^_`|~ alone");
    } else {
      this.#token = token;
      return token;
    }
    return undefined;
  }

  /** Stay closed: a retry changes nothing. @param {string} reason @param {unknown} error */
  #fail(reason, error) {
    console.error("The connection cannot be opened:", error);
    this.#lose({ ...readEnding(LOST, reason, null), reconnect: "never" });
  }

  /** @param {WebSocket} socket */
  #listen(socket) {
    this.#socket = socket;
    this.#bye = null;
    const isOurs = () => this.#socket === socket;
    socket.onopen = () => {
      if (!isOurs()) return;
      this.emit("opened", null);
      if (this.#isReadyAtOnce) this.markReady();
    };
    socket.onmessage = (event) => {
      if (isOurs()) this.#take(event.data);
    };
    listenForEnd(socket, ({ code, reason }) => {
      if (!isOurs()) return;
      this.#socket = null;
      this.#lose(readEnding(code, reason, this.#bye));
    });
  }

  /** @param {string} text */
  #take(text) {
    const message = parse(text);
    if (message?.type !== "bye") {
      this.emit("message", message);
      return;
    }
    this.#bye = message;
    this.#byeAt = this.#clock.now();
    this.emit("bye", message);
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
    if (ending.reconnect === "never") {
      // The page would hold what nobody else does.
      this.#watching?.abort();
      this.#watching = null;
    }
    this.#move("closed");
  }

  /** @param {State} to @param {number | null} [delayMs] */
  #move(to, delayMs = null) {
    const from = this.state;
    if (from === to) return;
    this.state = to;
    const { ending } = this;
    this.emit("state", { from, to, ending, delayMs, failures: this.#failures });
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
    if (this.state === "open") this.emit("probe", null);
    else if (this.state === "waiting" && reconnect === "backoff") void this.#open();
    else this.wake();
  }
}

/**
 * Call back when a WebSocket has ended. Node 20 reports a refused handshake as an error
 * while it connects, and never closes; browsers close after each error.
 * @param {WebSocket} socket @param {(end: {code: number, reason: string}) => void} onEnd
 */
export function listenForEnd(socket, onEnd) {
  socket.onclose = onEnd;
  socket.onerror = () => {
    if (socket.readyState === 0) onEnd({ code: LOST, reason: "" });
  };
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
