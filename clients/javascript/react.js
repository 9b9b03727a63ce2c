// A session as the state of a React component.
//
//   const { state, entries, request } = useSession("/ws/sessions/");
//   const { state, entries, request } = useSession(shared, { session });

import { useEffect, useMemo, useSyncExternalStore } from "react";
import { SessionClient } from "./client.js";

/**
 * @typedef {import("./client.js").Entry} Entry
 * @typedef {import("./client.js").Options} Options
 * @typedef {Pick<import("./shared.js").SharedConnection, "session">} Shared a connection
 *   of which each session is a part
 * @typedef {{state: string, session: string, entries: readonly Entry[],
 *   pending: number, ending: SessionClient["ending"],
 *   hello: SessionClient["hello"], members: SessionClient["members"],
 *   gap: {from: number, to: number} | null, error: Error | null}} Snapshot `gap` is
 *   the last one, `error` the last one that belongs to no message
 * @typedef {"request" | "regenerate" | "approve" | "deny"} Asking
 * @typedef {Pick<SessionClient, Asking | "cancel" | "setTyping" | "connect">} Actions
 */

const EVENTS = /** @type {const} */ ([
  ...["state", "hello", "entry", "delta", "ended", "reset", "present"],
  ...["gap", "error", "dropped"],
]);

/** @param {string} session @returns {Snapshot} */
const makeFirst = (session) => ({
  state: "idle",
  session,
  entries: [],
  pending: 0,
  ending: null,
  hello: null,
  members: new Map(),
  gap: null,
  error: null,
});

/** How many stores use a client: those of a shared connection may use the same one. */
/** @type {WeakMap<SessionClient, number>} */
const users = new WeakMap();

/** @param {SessionClient} client @param {number} change */
function count(client, change) {
  const left = (users.get(client) ?? 0) + change;
  users.set(client, left);
  return left;
}

/**
 * One client, and its state as a value that is the same until something happens.
 *
 * React may render a component and drop it, so the client begins with the first
 * subscriber or action. StrictMode subscribes, unsubscribes and subscribes again: the
 * client closes only if nobody is subscribed a moment later.
 */
class SessionStore {
  #source;
  /** The options of the last render. */ options;
  /** @type {SessionClient | null} */ #client = null;
  /** @type {Set<() => void>} */ #listeners = new Set();
  /** @type {Snapshot | null} */ #snapshot;
  #first;
  /** @type {Pick<Snapshot, "gap" | "error">} */ #last = { gap: null, error: null };

  /** Ends the listening; null while nobody is subscribed. @type {AbortController | null} */
  #listening = null;

  /** @param {string | Shared} source @param {Options} options */
  constructor(source, options) {
    this.#source = source;
    this.options = options;
    this.#snapshot = this.#first = makeFirst(options.session ?? "new");
  }

  /** @type {Actions} */
  actions = {
    request: (data, options) => this.#ask(this.#open().request(data, options)),
    regenerate: (offset, options) => this.#ask(this.#open().regenerate(offset, options)),
    approve: (...asked) => this.#ask(this.#open().approve(...asked)),
    deny: (...asked) => this.#ask(this.#open().deny(...asked)),
    cancel: (offset) => this.#open().cancel(offset),
    setTyping: (isTyping) => this.#open().setTyping(isTyping),
    connect: () => this.#open().connect(),
  };

  /** @param {() => void} listener */
  subscribe = (listener) => {
    this.#listeners.add(listener);
    const client = this.#open();
    if (!this.#listening) this.#listen(client);
    if (this.#listeners.size === 1) client.connect();
    return () => {
      this.#listeners.delete(listener);
      setTimeout(() => {
        if (this.#listeners.size > 0 || !this.#listening) return;
        if (count(client, -1) === 0) client.close();
        this.#listening.abort();
        this.#listening = null;
      });
    };
  };

  getSnapshot = () => (this.#snapshot ??= this.#read());

  getServerSnapshot = () => this.#first;

  /** @template T @param {Promise<T>} asked */
  async #ask(asked) {
    this.#change();
    return asked.finally(() => this.#change());
  }

  #open() {
    if (this.#client) return this.#client;
    const { getToken } = this.options;
    const source = this.#source;
    const client =
      typeof source === "object"
        ? source.session(this.options.session, this.options)
        : new SessionClient(source, {
            ...this.options,
            getToken: getToken && ((asked) => (this.options.getToken ?? getToken)(asked)),
          });
    return (this.#client = client);
  }

  /** @param {SessionClient} client that other stores may listen to as well */
  #listen(client) {
    const { signal } = (this.#listening = new AbortController());
    count(client, 1);
    for (const type of EVENTS) {
      client.addEventListener(type, ({ detail }) => this.#take(type, detail), { signal });
    }
    this.#snapshot = null;
  }

  /** @param {string} type @param {any} detail */
  #take(type, detail) {
    if (type === "gap") this.#last = { ...this.#last, gap: detail };
    if (type === "reset") this.#last = { ...this.#last, gap: null };
    if (type === "error") this.#last = { ...this.#last, error: detail };
    if (type === "dropped") this.#last = { ...this.#last, error: detail.error };
    this.#change();
  }

  #change() {
    this.#snapshot = null;
    for (const listener of this.#listeners) listener();
  }

  /** @returns {Snapshot} */
  #read() {
    if (!this.#client) return this.#first;
    const { state, session, entries, pending, ending, hello, members } = this.#client;
    return { state, session, entries, pending, ending, hello, members, ...this.#last };
  }
}

/**
 * Attach to a session while the component is mounted, and return its state.
 *
 * Another URL, `session` or `presence` is another client, with a connection of its
 * own; the sessions of a SharedConnection are clients of one connection. `getToken` is
 * the one of the last render; other options count at the first. An entry that changes
 * is a new object, and the others stay.
 * @param {string | URL | Shared} source the URL of all sessions, or their connection
 * @param {Options} [options]
 * @returns {Snapshot & Actions}
 */
export function useSession(source, options = {}) {
  const { session, presence } = options;
  const from = typeof source === "object" && "session" in source ? source : String(source);
  const store = useMemo(() => new SessionStore(from, options), [from, session, presence]);
  useEffect(() => {
    store.options = options;
  });
  const { subscribe, getSnapshot, getServerSnapshot } = store;
  const snapshot = useSyncExternalStore(subscribe, getSnapshot, getServerSnapshot);
  return useMemo(() => ({ ...snapshot, ...store.actions }), [snapshot, store]);
}
