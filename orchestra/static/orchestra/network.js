/**
 * A network that a button can cut.
 *
 * `open` stands for WebSocket: while the network is cut every attempt fails as
 * one does without a network, a moment later.
 */
export class CuttableNetwork {
  isCut = false;

  /** To be called with `new`, like WebSocket itself. */
  get WebSocket() {
    const network = this;
    /** @param {string} url @param {string[]} protocols */
    function open(url, protocols) {
      return network.isCut ? new DeadSocket() : new WebSocket(url, protocols);
    }
    return /** @type {any} */ (open);
  }
}

class DeadSocket {
  readyState = 0;
  /** @type {((event: {code: number, reason: string}) => void) | null} */ onclose = null;

  constructor() {
    setTimeout(() => this.onclose?.({ code: 1006, reason: "" }), 50);
  }

  close() {
    this.readyState = 3;
  }
}
