/**
 * Finds a connection that only looks open.
 *
 * A network that is gone sends no close: without asking, a page would wait for
 * minutes. `ask()` sends a ping; `giveUp()` is called when nothing at all was
 * heard for `timeoutMs` after it.
 */
export class Heartbeat {
  #clock;
  #ask;
  #giveUp;
  #timeoutMs;
  #intervalMs = 0;
  #hasHeard = false;
  /** @type {any} */ #next = null;
  /** @type {any} */ #deadline = null;

  /**
   * @param {{clock: import("./socket.js").Clock, ask: () => void,
   *   giveUp: () => void, timeoutMs: number}} options
   */
  constructor({ clock, ask, giveUp, timeoutMs }) {
    this.#clock = clock;
    this.#ask = ask;
    this.#giveUp = giveUp;
    this.#timeoutMs = timeoutMs;
  }

  /** Begin to ask every so often. @param {number} intervalMs */
  start(intervalMs) {
    this.stop();
    this.#intervalMs = intervalMs;
    this.#next = this.#clock.setTimeout(() => this.check(), intervalMs);
  }

  stop() {
    this.#clock.clearTimeout(this.#next);
    this.#clock.clearTimeout(this.#deadline);
    this.#next = this.#deadline = null;
    this.#intervalMs = 0;
  }

  /** Note that something came from the other side. */
  heard() {
    this.#hasHeard = true;
  }

  /** Ask now: after a sleep, or when the network is back. */
  check() {
    if (this.#intervalMs === 0 || this.#deadline !== null) return;
    this.#clock.clearTimeout(this.#next);
    this.#hasHeard = false;
    this.#deadline = this.#clock.setTimeout(() => this.#judge(), this.#timeoutMs);
    this.#ask();
  }

  #judge() {
    this.#deadline = null;
    if (!this.#hasHeard) {
      this.#giveUp();
      return;
    }
    const rest = Math.max(0, this.#intervalMs - this.#timeoutMs);
    this.#next = this.#clock.setTimeout(() => this.check(), rest);
  }
}
