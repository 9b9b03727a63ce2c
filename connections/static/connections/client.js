// A client of a session: entries arrive complete, in order and once, even if the
// network fails; sent messages are recorded once.
//
//   const client = new SessionClient("/ws/sessions/", { session: "new" });
//   client.addEventListener("entry", ({ detail }) => show(detail.entry));
//   client.connect();
//   await client.request({ text: "Hello" });

import { Cancellations } from "./cancellations.js";
import { TypedTarget } from "./events.js";
import { Heartbeat } from "./heartbeat.js";
import { Outbox, RequestError, TOO_BIG } from "./outbox.js";
import { SessionPresence } from "./presence.js";
import { REAL_CLOCK, ReconnectingSocket } from "./socket.js";
import { Renewal, UnauthorizedError } from "./tokens.js";
import { Transcript } from "./transcript.js";

export { ReconnectingSocket, RequestError, UnauthorizedError };
export { forgetMessages } from "./storage.js";
export { partsOf, textOf } from "./transcript.js";

/**
 * @typedef {import("./transcript.js").Entry} Entry
 * @typedef {import("./outbox.js").Ack} Ack
 * @typedef {"new"|"resumed"|"nothing_missed"|"gap"|"reset"} Outcome
 * @typedef {{connection: string, session: string, epoch: string, offset: number,
 *   outcome: Outcome, gap: [number, number] | null, chain?: string | null,
 *   history_limit: number,
 *   limits: Record<string, any>, heartbeat_seconds: number,
 *   idle_timeout_seconds: number, role?: import("./http.js").Role, author?: string,
 *   member?: string}} Hello
 * @typedef {{session?: string, presence?: boolean, getToken?: import("./socket.js").GetToken,
 *   storage?: Storage | null, queueLimit?: number, entryLimit?: number,
 *   maxInFlight?: number, ackTimeoutMs?: number, heartbeatTimeoutMs?: number,
 *   getTraceparent?: () => string | undefined,
 *   clock?: import("./socket.js").Clock, random?: () => number,
 *   WebSocket?: typeof WebSocket, page?: Window | null}} Options
 * @typedef {{state: import("./socket.js").StateChange, hello: Hello,
 *   entry: {entry: Entry, isReplay: boolean},
 *   delta: {entry: Entry, text: string, changes: import("./parts.js").Part[]},
 *   ended: {entry: Entry}, gap: {from: number, to: number}, reset: Hello,
 *   refreshed: {expires_at: string | null}, error: RequestError,
 *   dropped: {id: string, data: unknown, error: RequestError},
 *   present: {members: Map<string, object>},
 *   typing: import("./presence.js").Typing, notice: {text: string, at: string}, bye: Record<string, any>}} SessionEvents
 */

/** Older servers know the second alone, and send no parts. */
const SUBPROTOCOLS = ["orchestra.v2", "orchestra.v1"];
/** Missing acks after which a message is given up. */
const MAX_TIMEOUTS = 4;
/** The server sends missing entries within five seconds by itself. */
const BEHIND_MS = 6000;
const EVICTED = 4005;
const TEMPORARY = ["rate_limited", "unavailable"];

/**
 * Events, each a CustomEvent: `state` {from, to, ending, delayMs}, `hello` (the
 * server's, with its outcome), `entry` {entry, isReplay}, `delta` {entry, text, changes},
 * `ended` {entry}, `gap` {from, to}, `reset`, `refreshed`, `error` (that
 * settles no message), `dropped` {id, data, error} (a message of an earlier page
 * that was not recorded), `notice` {text, at} from staff, `bye`;
 * with the option `presence`: `present` {members}, `typing` {member, connection, isTyping}.
 * @extends {TypedTarget<SessionEvents>}
 */
export class SessionClient extends TypedTarget {
  /** @type {Hello | null} */ hello = null;

  #url;
  #session;
  #clock;
  #socket;
  #heartbeat;
  #transcript;
  #outbox;
  #cancellations;
  #presence;
  #asksPresence;
  #renewal;
  #getToken;
  #maxInFlight;
  #ackTimeoutMs;
  /** @type {any} */ #resend = null;
  /** Until the timer fires, which by the clock may be a moment early. */ #isPaused = false;
  /** The first pong ahead of the transcript, and where the transcript was. */
  #behind = { offset: 0, last: 0, at: 0 };

  /** @param {string | URL} url of all sessions @param {Options} [options] */
  constructor(url, options = {}) {
    super();
    this.#url = new URL(url, globalThis.location?.href);
    this.#session = options.session ?? "new";
    this.#clock = options.clock ?? REAL_CLOCK;
    this.#getToken = options.getToken;
    // One message at a time keeps the order when the server refuses one temporarily.
    this.#maxInFlight = options.maxInFlight ?? 1;
    this.#ackTimeoutMs = options.ackTimeoutMs ?? 15_000;
    this.#transcript = new Transcript(options.entryLimit ?? 1000);
    this.#outbox = new Outbox({
      limit: options.queueLimit ?? 100,
      prefix: makePrefix(),
      session: this.#session,
      storage: options.storage,
      page: options.page ?? globalThis.window,
      getTraceparent: options.getTraceparent,
      onDropped: ({ id, text }, error) =>
        this.emit("dropped", { id, data: JSON.parse(text).data, error }),
      onUnstored: () =>
        this.emit("error", new RequestError("not_stored", "the storage is full or forbidden")),
    });
    const cancel = (/** @type {number} */ offset) =>
      this.#socket.send({ type: "cancel", offset, epoch: this.#transcript.epoch });
    this.#cancellations = new Cancellations(cancel, this.#clock);
    this.#asksPresence = options.presence ?? false;
    this.#presence = new SessionPresence({
      clock: this.#clock,
      send: (message) => this.#socket.send(message),
      onChange: () => this.emit("present", { members: this.members }),
      onTyping: (typing) => this.emit("typing", typing),
    });
    this.#renewal = new Renewal({
      clock: this.#clock,
      refresh: () => this.refresh(),
      answerMs: this.#ackTimeoutMs,
      random: options.random ?? Math.random,
    });
    this.#heartbeat = new Heartbeat({
      clock: this.#clock,
      timeoutMs: options.heartbeatTimeoutMs ?? 5000,
      ask: () => this.#socket.send({ type: "ping", t: Math.round(this.#clock.now()) }),
      giveUp: () => this.#socket.drop(),
    });
    this.#socket = new ReconnectingSocket(() => this.#makeUrl(), {
      ...options,
      protocols: SUBPROTOCOLS,
      isReadyAtOnce: false,
    });
    this.#socket.addEventListener("message", ({ detail }) => this.#receive(detail));
    this.#socket.addEventListener("state", ({ detail }) => this.#changeState(detail));
    this.#socket.addEventListener("bye", ({ detail }) => this.emit("bye", detail));
    this.#socket.addEventListener("probe", () => this.#heartbeat.check());
  }

  get state() {
    return this.#socket.state;
  }

  /** The end of the last connection. */
  get ending() {
    return this.#socket.ending;
  }

  /** The session's id, or `new` before the first hello. */
  get session() {
    return this.#session;
  }

  get entries() {
    return this.#transcript.entries;
  }

  /** Who is present, each with its public data; empty without the option `presence`. */
  get members() {
    return new Map(this.#presence.members);
  }

  /** The number of messages that are not yet recorded. */
  get pending() {
    return this.#outbox.size;
  }

  /** Connect, even after a final close ("use here"). */
  connect() {
    this.#outbox.restore();
    this.#socket.connect();
  }

  /**
   * Close for good; unrecorded messages fail with `closed`, and stay in the storage
   * for the next client of the session.
   */
  close() {
    this.#outbox.close(new RequestError("closed", "the client was closed"));
    this.#socket.close();
  }

  /** Drop the connection as if the network had failed, and reconnect. */
  drop() {
    this.#socket.drop();
  }

  /** Report user activity; reconnects after an idle close. */
  wake() {
    this.#socket.wake();
  }

  /**
   * Send a message; the promise resolves with its ack when it is recorded.
   *
   * The message is resent after a reconnect until the server settles it. Rejects
   * with a RequestError; an aborted `signal` withdraws the message.
   * @param {unknown} data
   * @param {{signal?: AbortSignal} & import("./outbox.js").MessageOptions} [options]
   * @returns {Promise<Ack>}
   */
  request(data, { signal, answer, metadata } = {}) {
    return this.#ask({ type: "message", data, answer, metadata }, signal);
  }

  /**
   * Answer a message again: the new entry names this answer in `replaces`.
   *
   * Older servers do not know it.
   * @param {number} offset of an answer that has ended
   * @param {{signal?: AbortSignal, metadata?: Record<string, unknown>}} [options]
   * @returns {Promise<Ack>} with the offset of the new answer
   */
  regenerate(offset, { signal, metadata } = {}) {
    const { epoch } = this.#transcript;
    return this.#ask({ type: "regenerate", offset, epoch, metadata }, signal);
  }

  /**
   * Approve a tool call, a part in the state `awaiting_approval`.
   *
   * Rejects with `conflict` if it was decided otherwise, with `not_found` if it no
   * longer waits. The part has who decided in `approval`.
   * @param {number} offset of the answer @param {string} part id of the call
   * @param {{note?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<Ack>}
   */
  approve(offset, part, options) {
    return this.#decide("approve", offset, part, options);
  }

  /**
   * Deny a tool call, as `approve()` approves it.
   * @param {number} offset @param {string} part
   * @param {{note?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<Ack>}
   */
  deny(offset, part, options) {
    return this.#decide("deny", offset, part, options);
  }

  /**
   * @param {string} type @param {number} offset @param {string} part
   * @param {{note?: string, signal?: AbortSignal}} [options]
   */
  #decide(type, offset, part, { note, signal } = {}) {
    const { epoch } = this.#transcript;
    return this.#ask({ type, offset, part, note, epoch }, signal);
  }

  /**
   * @param {Record<string, unknown>} content @param {AbortSignal} [signal]
   * @returns {Promise<Ack>}
   */
  async #ask(content, signal) {
    signal?.throwIfAborted();
    const { ending } = this;
    if (this.state === "closed" && isFinal(ending)) throw makeClosed(ending);
    const item = this.#outbox.add(content, this.hello?.limits.max_message_size);
    const stop = () => this.#fail(item.id, new RequestError("aborted", "given up"));
    signal?.addEventListener("abort", stop);
    this.#presence.setTyping(false);
    this.#socket.wake();
    this.#flush();
    try {
      return await item.promise;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  /**
   * Send a message; a failure becomes an `error` event.
   * @param {unknown} data @param {import("./outbox.js").MessageOptions} [options]
   */
  send(data, options) {
    this.request(data, options).catch((error) => this.emit("error", error));
  }

  /** Stop a stream, after the next reconnect if need be. @param {number} offset */
  cancel(offset) {
    return this.#cancellations.add(offset);
  }

  /** Report that the user types, at each input, or no longer. @param {boolean} isTyping */
  setTyping(isTyping) {
    this.#presence.setTyping(isTyping);
  }

  /** Delete the session, whose connections then close; false without a connection. */
  delete() {
    return this.#socket.send({ type: "delete" });
  }

  /** Send a new token on the open connection; `refreshed` answers. */
  async refresh() {
    const token = await this.#getToken?.({ isExpired: true, previous: null });
    if (token) this.#socket.send({ type: "refresh", token });
  }

  #makeUrl() {
    const url = new URL(this.#url);
    url.protocol = url.protocol.replace("http", "ws");
    url.pathname = `${url.pathname.replace(/\/+$/, "")}/${encodeURIComponent(this.#session)}/`;
    url.hash = "";
    const position = new URLSearchParams(this.#transcript.position);
    if (this.#asksPresence) position.set("presence", "1");
    if (this.hello) position.set("replaces", this.hello.connection);
    for (const [name, value] of position) url.searchParams.set(name, value);
    return url.toString();
  }

  /** @param {import("./socket.js").StateChange} change */
  #changeState(change) {
    if (change.to !== "open") {
      this.#heartbeat.stop();
      this.#renewal.stop();
      this.#presence.stop();
      this.#clock.clearTimeout(this.#resend);
      this.#settleTooBig();
      this.#outbox.rewind();
    }
    if (change.to === "closed" && isFinal(this.ending)) {
      this.#outbox.failAll(makeClosed(this.ending));
    }
    this.emit("state", change);
  }

  /** Fail the largest message in flight, which was too big to resend. */
  #settleTooBig() {
    if (!TOO_BIG.includes(this.ending?.code ?? 0)) return;
    const [biggest] = this.#outbox.inFlight.sort((one, other) => other.bytes - one.bytes);
    if (biggest) this.#fail(biggest.id, new RequestError("message_too_big", "too big"));
  }

  /** @param {any} message */
  #receive(message) {
    this.#heartbeat.touch();
    switch (message.type) {
      case "hello":
        return this.#greet(message);
      case "entry":
        return this.#takeEntry(message);
      case "delta":
        return this.#takeDelta(message);
      case "state":
        return this.#takeState(message);
      case "ack":
        this.#transcript.confirm(message);
        this.#outbox.acknowledge(message.id, message.offset);
        return this.#flush();
      case "pong":
        return this.#comparePositions(message.offset);
      case "error":
        return this.#takeError(message);
      case "expiring":
        return void (this.#getToken && this.#renewal.start());
      case "refreshed":
        this.#renewal.stop();
        return this.emit("refreshed", message);
      case "notice":
        return this.emit("notice", { text: String(message.text), at: message.at });
      default:
        return this.#presence.take(message);
    }
  }

  /** @param {Hello} hello */
  #greet(hello) {
    const isReturning = this.#transcript.epoch !== null;
    const isVoid = this.#transcript.begin(hello);
    this.hello = hello;
    this.#behind = { offset: 0, last: 0, at: 0 };
    this.#isPaused = false;
    if (this.#session !== hello.session) this.#outbox.move(hello.session);
    this.#session = hello.session;
    if (isVoid) this.#cancellations.clear();
    if (isVoid) this.emit("reset", hello);
    else if (isReturning && hello.gap) {
      this.emit("gap", { from: hello.gap[0], to: hello.gap[1] });
    }
    this.#socket.markReady();
    this.#heartbeat.start(hello.heartbeat_seconds * 1000);
    this.#presence.begin(hello.member);
    this.emit("hello", hello);
    for (const entry of this.#transcript.lost) {
      this.#cancellations.discard(entry.offset);
      this.emit("ended", { entry });
    }
    this.#cancellations.sendAll();
    this.#flush();
  }

  /** @param {Entry} entry */
  #takeEntry(entry) {
    if (!this.#transcript.put(entry)) return this.#socket.drop();
    if (entry.state !== "streaming") this.#cancellations.discard(entry.offset);
    const isReplay = entry.offset <= (this.hello?.offset ?? 0);
    this.emit("entry", { entry, isReplay });
  }

  /** @param {import("./transcript.js").Delta} delta */
  #takeDelta(delta) {
    const entry = this.#transcript.extend(delta);
    // Text is missing: after a reconnect the server sends the whole entry.
    if (entry === null) return this.#socket.drop();
    this.emit("delta", { entry, text: delta.text ?? "", changes: delta.parts ?? [] });
  }

  /** @param {Parameters<Transcript["settle"]>[0]} change */
  #takeState(change) {
    if (change.state !== "streaming") this.#cancellations.discard(change.offset);
    const entry = this.#transcript.settle(change);
    if (entry) this.emit("ended", { entry });
  }

  /** Reconnect if the log stays ahead of the transcript. @param {number} offset */
  #comparePositions(offset) {
    const { last } = this.#transcript;
    const now = this.#clock.now();
    // A long replay moves the transcript; one that stands still lacks an entry.
    if (this.#behind.offset > last && this.#behind.last === last) {
      if (now - this.#behind.at >= BEHIND_MS) this.#socket.drop();
    } else {
      this.#behind = { offset, last, at: now };
    }
  }

  /** @param {any} message */
  #takeError({ code, message, id, offset, ref, retry_after_seconds: seconds }) {
    const wait = Math.max(0.2, seconds ?? 1) * 1000;
    if (offset !== undefined) {
      // The answer to a cancel.
      if (TEMPORARY.includes(code)) this.#cancellations.retry(wait);
      else this.#cancellations.discard(offset);
      return;
    }
    if (TEMPORARY.includes(code)) {
      // The dropped message may be unknown, so all in flight are resent.
      this.#outbox.rewind();
      this.#isPaused = true;
      return this.#later(wait);
    }
    const error = new RequestError(code, message, ref);
    if (id === null || id === undefined || !this.#outbox.get(id)) this.emit("error", error);
    else this.#fail(id, error);
  }

  #fail(/** @type {string} */ id, /** @type {RequestError} */ error) {
    this.#outbox.fail(id, error);
    this.#flush();
  }

  #flush() {
    if (this.state !== "open" || this.#isPaused) return;
    while (this.#outbox.inFlight.length < this.#maxInFlight) {
      const item = this.#outbox.next;
      if (item === undefined) break;
      item.isInFlight = true;
      this.#socket.send(item.text);
      this.#later(this.#ackTimeoutMs);
    }
    if (this.#outbox.size === 0) this.#clock.clearTimeout(this.#resend);
  }

  /** @param {number} ms */
  #later(ms) {
    this.#clock.clearTimeout(this.#resend);
    this.#resend = this.#clock.setTimeout(() => {
      this.#isPaused = false;
      for (const item of this.#outbox.inFlight) {
        item.timeouts += 1;
        const error = new RequestError("timeout", "the server does not answer");
        if (item.timeouts > MAX_TIMEOUTS) this.#outbox.fail(item.id, error);
      }
      this.#outbox.rewind();
      this.#flush();
    }, ms);
  }
}

/** @param {import("./socket.js").Ending | null} ending */
function isFinal(ending) {
  return ending?.reconnect === "never" && ending.code !== EVICTED;
}

/** @param {import("./socket.js").Ending | null} ending */
function makeClosed(ending) {
  return new RequestError("closed", `the connection has ended: ${ending?.reason}`);
}

/** Return 16 random characters, so that ids of two tabs never collide. */
function makePrefix() {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => (byte % 36).toString(36)).join("");
}
