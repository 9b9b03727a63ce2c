// Many sessions on one connection; each is a SessionClient.
//
//   const shared = new SharedConnection("/ws/sessions/");
//   const client = shared.session(id);
//   client.addEventListener("entry", ({ detail }) => show(detail.entry));
//   client.connect();

import { AttachedSocket } from "./attached.js";
import { SessionClient } from "./client.js";
import { TypedTarget } from "./events.js";
import { Heartbeat } from "./heartbeat.js";
import { RequestError, TOO_BIG } from "./outbox.js";
import { REAL_CLOCK, ReconnectingSocket } from "./socket.js";
import { Renewal } from "./tokens.js";

/**
 * @typedef {import("./client.js").Options} Options
 * @typedef {Pick<Options, "getToken" | "ackTimeoutMs" | "heartbeatTimeoutMs" | "clock"
 *   | "random" | "page" | "WebSocket">} SharedOptions
 * @typedef {{connection: string, limits: Record<string, any>,
 *   heartbeat_seconds: number}} ConnectionHello
 * @typedef {{state: import("./socket.js").StateChange, hello: ConnectionHello,
 *   refreshed: {expires_at: string | null}, error: RequestError,
 *   notice: {text: string, at: string}, bye: Record<string, any>}} ConnectionEvents
 */

const CLOSED = 1000;
/** No code that a bye explains. */
const GOING_AWAY = 1001;
const TOKEN_EXPIRED = 4100;
const EVICTED = 4005;
/** Ends of a session's own connection after which the next server may know one for many. */
const RETURNING = [4200, 4202];
/** The time after which any session asks for a connection for many again. */
const APART_MS = 600_000;
/** How a server that attaches one session alone ends a connection for many. */
const UNKNOWN = [4002, 4004];

/**
 * One connection that many sessions share. It opens with the first of them.
 *
 * With a server that attaches one session to a connection, and over plain HTTP, each
 * session gets a connection of its own, and `isShared` is false until one of them
 * reconnects after a drain, because it was asked to, or after ten minutes.
 *
 * Events: `state`, `hello`, `refreshed`, `bye` and `notice` as those of a SessionClient,
 * whose sessions get `bye` and `notice` as well; `error` (that is of no session).
 * @extends {TypedTarget<ConnectionEvents>}
 */
export class SharedConnection extends TypedTarget {
  /** False while each session has a connection of its own. */
  isShared = true;
  /** The server's last hello on the connection. @type {ConnectionHello | null} */
  hello = null;

  #url;
  #options;
  #clock;
  #socket;
  #heartbeat;
  #renewal;
  /** A client that is closed, and that nobody holds, is gone. */
  /** @type {WeakRef<SessionClient>[]} */ #refs = [];
  /** Those whose last connection is one of their own, and since when. */
  /** @type {WeakSet<SessionClient>} */ #apart = new WeakSet();
  #apartSince = 0;
  #count = 0;
  /** The sockets without a hello yet, by the id of their attach. */
  /** @type {Map<string, AttachedSocket>} */ #asking = new Map();
  /** The sockets that have it, by session. @type {Map<string, AttachedSocket>} */
  #attached = new Map();
  /** The sessions that the server may still hold as attached. @type {Set<string>} */
  #leaving = new Set();
  /** @type {any} */ #repeat = null;

  /**
   * @param {string | URL} url of all sessions
   * @param {SharedOptions} [options]
   */
  constructor(url, options = {}) {
    super();
    this.#url = url;
    this.#options = options;
    const clock = (this.#clock = options.clock ?? REAL_CLOCK);
    this.#renewal = new Renewal({
      clock,
      refresh: () => this.refresh(),
      answerMs: options.ackTimeoutMs ?? 15_000,
      random: options.random ?? Math.random,
    });
    this.#heartbeat = new Heartbeat({
      clock,
      timeoutMs: options.heartbeatTimeoutMs ?? 5000,
      ask: () => this.#socket.send({ type: "ping" }),
      giveUp: () => this.#socket.drop(),
    });
    this.#socket = new ReconnectingSocket(() => this.#makeUrl(), {
      ...options,
      protocols: ["orchestra.v2"],
      isReadyAtOnce: false,
    });
    this.#socket.addEventListener("message", ({ detail }) => this.#receive(detail));
    this.#socket.addEventListener("state", ({ detail }) => this.#changeState(detail));
    this.#socket.addEventListener("bye", ({ detail }) => this.#tellAll("bye", detail));
    this.#socket.addEventListener("probe", () => this.#heartbeat.check());
  }

  get state() {
    return this.#socket.state;
  }

  /** The end of the last shared connection. */
  get ending() {
    return this.#socket.ending;
  }

  /**
   * Return the client of a session, the same one for each id; `new` is a new session
   * at each call. The options of the first call count, without `getToken`.
   * @param {string} [session] @param {Options} [options]
   */
  session(session = "new", options = {}) {
    const found = this.#clients.find((client) => client.session === session);
    if (found && session !== "new") return found;
    const { getToken } = this.#options;
    /** @type {SessionClient} */
    const client = new SessionClient(this.#url, {
      ...this.#options,
      ...options,
      session,
      getToken: getToken && ((asked) => (this.isShared ? null : getToken(asked))),
      WebSocket: this.#makeWebSocket(() => client),
    });
    this.#refs = this.#refs.filter((ref) => ref.deref());
    this.#refs.push(new WeakRef(client));
    return client;
  }

  get #clients() {
    return this.#refs.flatMap((ref) => ref.deref() ?? []);
  }

  /** Close the clients of all sessions, and the connection. */
  close() {
    for (const client of this.#clients) client.close();
    this.#socket.close();
  }

  /** Drop the connection as if the network had failed, and reconnect. */
  drop() {
    this.#socket.drop();
  }

  /** Send a new token on the open connection; `refreshed` answers. */
  async refresh() {
    const token = await this.#options.getToken?.({ isExpired: true, previous: null });
    if (token) this.#socket.send({ type: "refresh", token });
  }

  #makeUrl() {
    const url = new URL(this.#url, globalThis.location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.pathname = `${url.pathname.replace(/\/+$/, "")}/many/`;
    url.hash = "";
    if (this.hello) url.searchParams.set("replaces", this.hello.connection);
    return url.toString();
  }

  /**
   * Return what a SessionClient takes for the class of its sockets.
   * @param {() => SessionClient} find @returns {any}
   */
  #makeWebSocket(find) {
    const open = (/** @type {string} */ url, /** @type {string[]} */ protocols) => {
      const client = find();
      this.isShared ||=
        this.#clock.now() - this.#apartSince >= APART_MS ||
        (this.#apart.has(client) && RETURNING.includes(client.ending?.code ?? 0));
      this.#apart[this.isShared ? "delete" : "add"](client);
      return this.isShared
        ? this.#attach(url)
        : new (this.#options.WebSocket ?? globalThis.WebSocket)(url, protocols);
    };
    return /** @param {string} url @param {string[]} protocols */ function (url, protocols) {
      return open(url, protocols);
    };
  }

  /** @param {string} url */
  #attach(url) {
    const id = `${++this.#count}`;
    const socket = new AttachedSocket(url, id, {
      send: (text) => this.#socket.send(text),
      onLeave: (left) => this.#leave(left),
    });
    this.#asking.set(id, socket);
    // The client listens to the socket once it has it.
    queueMicrotask(() => {
      if (this.state === "open") this.#socket.send(socket.attach);
      else if (this.state !== "waiting") this.#socket.connect();
    });
    return socket;
  }

  /** @param {AttachedSocket} socket */
  #leave(socket) {
    this.#asking.delete(socket.attach.id);
    if (this.#attached.get(socket.session) !== socket) return;
    this.#attached.delete(socket.session);
    this.#detach(socket.session);
  }

  /** @param {string} session */
  #detach(session) {
    this.#leaving.add(session);
    this.#socket.send({ type: "detach", session });
  }

  /** @param {import("./socket.js").StateChange} change */
  #changeState(change) {
    const { to, ending } = change;
    if (to === "closed" && UNKNOWN.includes(ending?.code ?? 0)) {
      this.isShared = false;
      this.#apartSince = this.#clock.now();
    }
    this.emit("state", change);
    if (to === "open") {
      for (const { attach } of this.#asking.values()) this.#socket.send(attach);
      for (const client of this.#clients) {
        if (client.state === "waiting" || this.#wasEvicted(client)) client.connect();
      }
      return;
    }
    this.#heartbeat.stop();
    this.#renewal.stop();
    this.#clock.clearTimeout(this.#repeat);
    if (to === "connecting") return;
    const ended = [...this.#attached.values()];
    if (to === "closed") ended.push(...this.#asking.values());
    this.#attached.clear();
    this.#leaving.clear();
    if (to === "closed") this.#asking.clear();
    // The shared connection returns with a new token by itself.
    const isPassedOn = this.isShared && ending && ending.code !== TOKEN_EXPIRED;
    // One message was too big, and the others are sent again.
    const isOne = TOO_BIG.includes(ending?.code ?? 0);
    const [first] = ended.sort((one, other) => other.biggest - one.biggest);
    for (const one of ended) {
      if (!isPassedOn) one.end();
      else if (isOne && one !== first) one.end(GOING_AWAY);
      else one.end(ending.code, ending.reason);
    }
  }

  /** Whether it lost a slot of its own, and now needs none. @param {SessionClient} client */
  #wasEvicted(client) {
    const { state, ending } = client;
    return state === "closed" && ending?.code === EVICTED && this.#apart.has(client);
  }

  /** @param {any} message */
  #receive(message) {
    this.#heartbeat.touch();
    switch (message.type) {
      case "hello":
        return this.#greet(message);
      case "detached":
        return this.#takeDetached(message);
      case "error":
        return this.#takeError(message);
      case "pong":
        for (const [session, offset] of Object.entries(message.offsets ?? {})) {
          this.#attached.get(session)?.take({ type: "pong", offset });
        }
        return;
      case "expiring":
        return void (this.#options.getToken && this.#renewal.start());
      case "refreshed":
        this.#renewal.stop();
        return this.emit("refreshed", message);
      case "notice":
        return this.#tellAll("notice", { ...message, text: String(message.text) });
      default:
        this.#attached.get(message.session)?.take(message);
    }
  }

  /** @param {any} hello */
  #greet(hello) {
    if (hello.session === undefined) {
      this.hello = hello;
      this.#heartbeat.start(hello.heartbeat_seconds * 1000);
      this.#socket.markReady();
      return this.emit("hello", hello);
    }
    const socket = this.#asking.get(hello.id);
    // A client that left before its hello.
    if (!socket) return this.#attached.has(hello.session) || this.#detach(hello.session);
    this.#asking.delete(hello.id);
    this.#attached.set(hello.session, socket);
    socket.take(hello);
  }

  /** @param {any} message */
  #takeDetached(message) {
    const { session, code, reason } = message;
    this.#leaving.delete(session);
    const socket = this.#attached.get(session);
    this.#attached.delete(session);
    if (code === CLOSED) return socket?.end();
    socket?.take({ ...message, type: "bye" });
    socket?.end(code, reason);
  }

  /** @param {any} error */
  #takeError(error) {
    const { code, session, id } = error;
    const asked = this.#asking.get(id);
    if (asked) {
      this.#asking.delete(id);
      // Its detach was over the rate.
      if (code === "already_attached") this.#detach(session);
      return asked.refuse(error);
    }
    if (code === "not_attached") {
      const socket = this.#attached.get(session);
      this.#leaving.delete(session);
      this.#attached.delete(session);
      return socket?.end();
    }
    // The answer to an attach that was sent twice.
    if (code === "already_attached") return;
    if (session !== undefined) return this.#attached.get(session)?.take(error);
    const sockets = [...this.#attached.values()];
    const sender = sockets.find(({ unanswered }) => unanswered.has(id));
    if (sender) return sender.take(error);
    if (code !== "rate_limited") {
      return this.emit("error", new RequestError(code, error.message, error.ref));
    }
    // What was over the rate may be of any session, or an attach or detach.
    for (const one of sockets) one.take(error);
    const wait = Math.max(0.2, error.retry_after_seconds ?? 1) * 1000;
    this.#clock.clearTimeout(this.#repeat);
    this.#repeat = this.#clock.setTimeout(() => this.#askAgain(), wait);
  }

  /** Send each attach and detach without an answer once more. */
  #askAgain() {
    const asked = [...this.#asking.values()].map(({ attach }) => attach);
    for (const session of this.#leaving) {
      if (!asked.some((attach) => attach.session === session)) this.#detach(session);
    }
    for (const attach of asked) this.#socket.send(attach);
  }

  /** @param {"bye" | "notice"} type @param {any} message */
  #tellAll(type, message) {
    this.emit(type, message);
    for (const one of [...this.#attached.values()]) one.take({ ...message, type });
  }
}
