/** The reason why a message was not recorded: an error code of server or client. */
export class RequestError extends Error {
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
 * @typedef {{id: string, text: string, bytes: number, timeouts: number,
 *   isInFlight: boolean, promise: Promise<Ack>,
 *   resolve: (ack: Ack) => void, reject: (error: RequestError) => void}} Item
 */

/**
 * Queue messages; each is sent until an ack or an error settles it.
 *
 * The ids make resending harmless. The queue is bounded, so that a page that is
 * offline for hours does not grow without limit. With a `storage` (such as
 * sessionStorage) unsettled messages survive a reload.
 */
export class Outbox {
  #limit;
  #prefix;
  #storage;
  #key;
  #count = 0;
  /** @type {Map<string, Item>} */ #items = new Map();

  /**
   * @param {{limit: number, prefix: string, key: string, storage?: Storage | null}}
   *   options `prefix` is unique to the page load, `key` to the session
   */
  constructor({ limit, prefix, key, storage = null }) {
    this.#limit = limit;
    this.#prefix = prefix;
    this.#key = key;
    this.#storage = storage;
    for (const [id, text] of JSON.parse(storage?.getItem(key) ?? "[]")) {
      // No caller waits for restored messages.
      this.#put(id, text).promise.catch(() => {});
    }
  }

  get size() {
    return this.#items.size;
  }

  get inFlight() {
    return [...this.#items.values()].filter((item) => item.isInFlight);
  }

  /** Return the next message to send, the oldest first. */
  get next() {
    return [...this.#items.values()].find((item) => !item.isInFlight);
  }

  /** @param {string} id */
  get(id) {
    return this.#items.get(id);
  }

  /**
   * Throws RequestError `queue_full` or `message_too_big`.
   * @param {unknown} data @param {number} [maxBytes] @returns {Item}
   */
  add(data, maxBytes = Infinity) {
    if (this.#items.size >= this.#limit) {
      throw new RequestError("queue_full", `${this.#limit} messages wait already`);
    }
    this.#count += 1;
    const id = `${this.#prefix}-${this.#count}`;
    const item = this.#put(id, JSON.stringify({ type: "message", id, data }));
    if (item.bytes > maxBytes) {
      this.#items.delete(id);
      throw new RequestError("message_too_big", `${item.bytes} bytes; ${maxBytes} are allowed`);
    }
    this.#keep();
    return item;
  }

  /** Store unsettled messages under another key. @param {string} key */
  move(key) {
    this.#storage?.removeItem(this.#key);
    this.#key = key;
    this.#keep();
  }

  /** @param {string} id @param {number} offset */
  acknowledge(id, offset) {
    this.#take(id)?.resolve({ id, offset });
  }

  /** @param {string} id @param {RequestError} error */
  fail(id, error) {
    this.#take(id)?.reject(error);
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
    const item = { id, text, bytes, timeouts: 0, isInFlight: false, promise, ...settle };
    this.#items.set(id, item);
    return item;
  }

  /** @param {string} id */
  #take(id) {
    const item = this.#items.get(id);
    this.#items.delete(id);
    this.#keep();
    return item;
  }

  #keep() {
    const left = [...this.#items.values()].map(({ id, text }) => [id, text]);
    if (left.length > 0) this.#storage?.setItem(this.#key, JSON.stringify(left));
    else this.#storage?.removeItem(this.#key);
  }
}
