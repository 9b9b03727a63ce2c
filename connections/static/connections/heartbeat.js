/**
 * Here, and not in socket.js: types in comments count as imports for Django's storage
 * with support_js_module_import_aggregation, which bears no cycle.
 * @typedef {{now: () => number, setTimeout: (work: () => void, ms: number) => any,
 *   clearTimeout: (timer: any) => void}} Clock
 */

/**
 * Detect a half-open connection.
 *
 * A lost network sends no close frame: without pings a page would wait for
 * minutes. `ask()` sends a ping; `giveUp()` is called when nothing was received
 * for `timeoutMs` after it.
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
   * @param {{clock: Clock, ask: () => void,
   *   giveUp: () => void, timeoutMs: number}} options
   */
  constructor({ clock, ask, giveUp, timeoutMs }) {
    this.#clock = clock;
    this.#ask = ask;
    this.#giveUp = giveUp;
    this.#timeoutMs = timeoutMs;
  }

  /** Start periodic pings. @param {number} intervalMs */
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

  /** Record that the server sent something. */
  touch() {
    this.#hasHeard = true;
  }

  /** Ping now, after a sleep or when the network returns. */
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
