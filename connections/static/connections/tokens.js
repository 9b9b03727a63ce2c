import { backOff } from "./reconnect.js";

/**
 * @typedef {(asked: {isExpired: boolean, previous: string | null})
 *   => string | null | Promise<string | null>} GetToken
 */

/**
 * Thrown by `getToken` to stop: the client stays closed with 4001 until connect().
 */
export class UnauthorizedError extends Error {
  /** @param {string} [message] */
  constructor(message = "no token for the connection") {
    super(message);
    this.name = "UnauthorizedError";
  }
}

/**
 * Return whether a browser can send a token: it becomes a part of a subprotocol,
 * which has the characters of an HTTP token (RFC 9110, section 5.6.2).
 * @param {string} token
 */
export function isSendable(token) {
  return /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(token);
}

/** Renew the token of an open connection, again until the server takes one. */
export class Renewal {
  #clock;
  #refresh;
  #answerMs;
  #random;
  #failures = 0;
  /** @type {any} */ #timer = null;

  /**
   * @param {{clock: import("./heartbeat.js").Clock, refresh: () => Promise<void>,
   *   answerMs: number, random: () => number}} options
   */
  constructor({ clock, refresh, answerMs, random }) {
    this.#clock = clock;
    this.#refresh = refresh;
    this.#answerMs = answerMs;
    this.#random = random;
  }

  /** Begin to renew, when the server says that the token expires. */
  start() {
    this.stop();
    this.#failures = 0;
    void this.#try();
  }

  /** Stop: the server took a token, or the connection has ended. */
  stop() {
    this.#clock.clearTimeout(this.#timer);
    this.#timer = null;
  }

  async #try() {
    const wait = backOff(this.#failures, this.#random);
    this.#failures += 1;
    // Without an answer, as after a refused token, it is asked for again.
    const timer = this.#clock.setTimeout(() => void this.#try(), this.#answerMs + wait);
    this.#timer = timer;
    try {
      await this.#refresh();
    } catch (error) {
      console.warn("The token was not renewed:", error);
      if (this.#timer !== timer) return;
      this.stop();
      if (error instanceof UnauthorizedError) return;
      this.#timer = this.#clock.setTimeout(() => void this.#try(), wait);
    }
  }
}
