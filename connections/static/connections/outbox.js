import { MessageStore } from "./storage.js";

/** The reason why a message was not recorded: an error code of server or client. */
export class RequestError extends Error {
  /**
   * True if the message stays in the client's storage: the next client of the
   * session sends it.
   */
  isStored = false;
  /** When a server that was asked over HTTP wants to be asked again, if it says so. */
  /** @type {number | null} */ retryAfterSeconds = null;

  /** @param {string} code @param {string} message @param {string | null} [ref] */
  constructor(code, message, ref = null) {
    super(message);
    this.name = "RequestError";
    this.code = code;
    this.ref = ref;
  }
}

/**
 * @typedef {{id: string, offset: number}} Ack
 * @typedef {{answer?: boolean, metadata?: Record<string, unknown>}} MessageOptions
 *   with `answer` false no responder answers the message; a responder can read
 *   `metadata`, at most 4096 bytes of JSON, which the log does not keep
 * @typedef {{id: string, text: string, bytes: number, timeouts: number,
 *   isInFlight: boolean, isRestored: boolean, promise: Promise<Ack>,
 *   resolve: (ack: Ack) => void, reject: (error: RequestError) => void}} Item
 * @typedef {{onDropped?: (item: Item, error: RequestError) => void,
 *   onUnstored?: () => void}} Listeners `onDropped` is called for a restored message
 *   that failed, `onUnstored` when the storage is full or forbidden
 */

/** Close codes after which the biggest message is not sent again. */
export const TOO_BIG = [1009, 4013];
const DECISION = /^{"type":"(approve|deny)"/;

/**
 * Queue messages; each is sent until an ack or an error settles it.
 *
 * The ids make resending harmless. The queue is bounded, so that a page that is
 * offline for hours does not grow without limit. With a `storage` (such as
 * sessionStorage) unsettled messages survive a reload and close().
 */
export class Outbox {
  #limit;
  #prefix;
  #listeners;
  #getTraceparent;
  /** @type {MessageStore | null} */ #store = null;
  #isStored = false;
  #count = 0;
  /** @type {Map<string, Item>} */ #items = new Map();

  /**
   * @param {{limit: number, prefix: string, session: string,
   *   storage?: Storage | null, page?: Window | null,
   *   getTraceparent?: () => string | undefined} & Listeners} options
   *   `prefix` is unique to the client
   */
  constructor({ limit, prefix, session, storage, page, getTraceparent, ...listeners }) {
    this.#limit = limit;
    this.#prefix = prefix;
    this.#listeners = listeners;
    this.#getTraceparent = getTraceparent ?? (() => undefined);
    if (storage) this.#store = new MessageStore({ storage, session, id: prefix, page });
    this.#isStored = this.#store !== null;
    this.restore();
  }

  /** Take up the stored messages that no open client has. */
  restore() {
    const stored = this.#store?.adopt() ?? [];
    for (const [id, text] of stored) {
      if (this.#items.has(id)) continue;
      const item = this.#put(id, text);
      item.isRestored = true;
      // No caller waits for restored messages.
      item.promise.catch(() => {});
    }
    if (stored.length > 0) this.#keep();
  }

  get size() {
    return this.#items.size;
  }

  get inFlight() {
    return [...this.#items.values()].filter((item) => item.isInFlight);
  }

  /** Return the next message to send: a decision on a tool call, or else the oldest. */
  get next() {
    const waiting = [...this.#items.values()].filter((item) => !item.isInFlight);
    // The server may refuse an older message for as long as an answer waits for it.
    return waiting.find(({ text }) => DECISION.test(text)) ?? waiting[0];
  }

  /** @param {string} id */
  get(id) {
    return this.#items.get(id);
  }

  /**
   * Throws RequestError `queue_full` or `message_too_big`.
   * @param {Record<string, unknown>} content @param {number} [maxBytes]
   * @returns {Item}
   */
  add(content, maxBytes = Infinity) {
    if (this.#items.size >= this.#limit) {
      throw new RequestError("queue_full", `${this.#limit} messages wait already`);
    }
    this.#count += 1;
    const id = `${this.#prefix}-${this.#count}`;
    // JSON.stringify() leaves out what is undefined.
    const traceparent = this.#getTraceparent();
    const { type, ...fields } = content;
    const item = this.#put(id, JSON.stringify({ type, id, ...fields, traceparent }));
    if (item.bytes > maxBytes) {
      this.#items.delete(id);
      throw new RequestError("message_too_big", `${item.bytes} bytes; ${maxBytes} are allowed`);
    }
    this.#keep();
    return item;
  }

  /** Store unsettled messages for another session. @param {string} session */
  move(session) {
    this.#store?.move(session);
    this.#keep();
  }

  /** Fail all messages, but leave those that are stored to the next client. */
  close(/** @type {RequestError} */ error) {
    error.isStored = this.#isStored;
    const items = [...this.#items.values()];
    this.#items.clear();
    for (const item of items) {
      item.reject(error);
      if (item.isRestored && !error.isStored) this.#listeners.onDropped?.(item, error);
    }
    this.#isStored = this.#store !== null;
    this.#store?.release();
  }

  /** @param {string} id @param {number} offset */
  acknowledge(id, offset) {
    this.#take(id)?.resolve({ id, offset });
  }

  /** @param {string} id @param {RequestError} error */
  fail(id, error) {
    const item = this.#take(id);
    item?.reject(error);
    if (item?.isRestored) this.#listeners.onDropped?.(item, error);
  }

  /** @param {RequestError} error */
  failAll(error) {
    for (const id of [...this.#items.keys()]) this.fail(id, error);
  }

  /** Mark all messages in flight for resending, in order. */
  rewind() {
    for (const item of this.inFlight) item.isInFlight = false;
  }

  /** @param {string} id @param {string} text @returns {Item} */
  #put(id, text) {
    /** @type {any} */ const settle = {};
    /** @type {Promise<Ack>} */
    const promise = new Promise((resolve, reject) => Object.assign(settle, { resolve, reject }));
    const bytes = new TextEncoder().encode(text).length;
    const flags = { isInFlight: false, isRestored: false };
    const item = { id, text, bytes, timeouts: 0, ...flags, promise, ...settle };
    this.#items.set(id, item);
    return item;
  }

  /** @param {string} id */
  #take(id) {
    const item = this.#items.get(id);
    // After close() what is stored is the next client's.
    if (this.#items.delete(id)) this.#keep();
    return item;
  }

  #keep() {
    if (this.#store === null) return;
    const wasStored = this.#isStored;
    this.#isStored = this.#store.save([...this.#items.values()].map(({ id, text }) => [id, text]));
    if (wasStored && !this.#isStored) this.#listeners.onUnstored?.();
  }
}
