/**
 * Streams that a client stopped and that have not ended yet.
 *
 * They are sent at once, after each reconnect, and again when the server could not
 * stop a stream for the moment.
 */
export class Cancellations {
  #send;
  #clock;
  /** @type {Set<number>} */ #offsets = new Set();
  /** @type {any} */ #timer = null;

  /**
   * @param {(offset: number) => boolean} send returns false without a connection
   * @param {import("./socket.js").Clock} clock
   */
  constructor(send, clock) {
    this.#send = send;
    this.#clock = clock;
  }

  /** Stop a stream; return false if it has to wait. @param {number} offset */
  add(offset) {
    this.#offsets.add(offset);
    return this.#send(offset);
  }

  /** Record that a stream has ended or is unknown. @param {number} offset */
  discard(offset) {
    this.#offsets.delete(offset);
  }

  /** Forget all streams, which are void. */
  clear() {
    this.#offsets.clear();
  }

  /** Send all on a new connection. */
  sendAll() {
    this.#clock.clearTimeout(this.#timer);
    for (const offset of this.#offsets) this.#send(offset);
  }

  /** Send all again after a pause. @param {number} ms */
  retry(ms) {
    this.#clock.clearTimeout(this.#timer);
    this.#timer = this.#clock.setTimeout(() => this.sendAll(), ms);
  }
}
