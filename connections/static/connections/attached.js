const PING = '{"type":"ping"';
const MESSAGE_ID = /^\{"type":"\w+","id":"([\w-]+)"/;
const LOST = 1006;
/** The close codes that stand for an attach refused with a code; others are final. */
/** @type {Record<string, number>} */
const CODES = { not_found: 4004, forbidden: 4003, unavailable: 4104 };
const NEVER = 1008;

/**
 * What looks like a WebSocket of one session, on a connection that many share.
 *
 * The URL that the client would open says what to attach to, and from where.
 */
export class AttachedSocket {
  readyState = 0;
  /** @type {((event: any) => void) | null} */ onopen = null;
  /** @type {((event: any) => void) | null} */ onmessage = null;
  /** @type {((event: any) => void) | null} */ onclose = null;
  /** The session's id; empty before its hello. */ session = "";
  /** The bytes of each message that was sent and not answered. @type {Map<string, number>} */
  unanswered = new Map();
  /** The message that attaches to the session. */ attach;

  #send;
  #onLeave;
  #offset = 0;
  #mostBytes = Infinity;

  /**
   * @param {string} url @param {string} id of the attach
   * @param {{send: (text: string) => void, onLeave: (socket: AttachedSocket) => void}} owner
   */
  constructor(url, id, { send, onLeave }) {
    this.attach = readAttach(new URL(url), id);
    this.#send = send;
    this.#onLeave = onLeave;
  }

  /** @param {string} text */
  send(text) {
    if (text.startsWith(PING)) {
      // The shared connection has a heartbeat of its own.
      queueMicrotask(() => this.take({ type: "pong", offset: this.#offset }));
      return;
    }
    const named = `{"session":"${this.session}",${text.slice(1)}`;
    const [, id] = MESSAGE_ID.exec(text) ?? [];
    if (id) {
      const bytes = new TextEncoder().encode(named).length;
      if (bytes > this.#mostBytes) {
        // The name of the session makes it so: it would end all sessions.
        const message = `${bytes} bytes with the session; ${this.#mostBytes} are allowed`;
        const error = { type: "error", code: "message_too_big", message, id };
        queueMicrotask(() => this.take(error));
        return;
      }
      this.unanswered.set(id, bytes);
    }
    this.#send(named);
  }

  /** The bytes of the biggest message without an answer. */
  get biggest() {
    return Math.max(0, ...this.unanswered.values());
  }

  /** Detach from the session. */
  close() {
    this.readyState = 3;
    this.#onLeave(this);
  }

  /** Hand on a message of the server. @param {any} message */
  take(message) {
    if (this.readyState === 3) return;
    if (message.type === "pong") this.#offset = message.offset;
    if (message.type === "hello") {
      this.session = message.session;
      this.#mostBytes = message.limits?.max_message_size ?? Infinity;
      this.readyState = 1;
      this.onopen?.({});
    }
    this.unanswered.delete(message.id);
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  /** End the session, as a close frame would. @param {number} [code] @param {string} [reason] */
  end(code = LOST, reason = "") {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  /** End the session that was not attached, as the error advises. @param {any} error */
  refuse({ code: reason, retry_after_seconds: seconds }) {
    if (reason === "already_attached") return this.end();
    const code = CODES[reason] ?? NEVER;
    this.take({ type: "bye", code, reason, after_ms: seconds && seconds * 1000 });
    this.end(code, reason);
  }
}

/** @param {URL} url @param {string} id */
function readAttach({ pathname, searchParams }, id) {
  const session = decodeURIComponent(pathname.split("/").at(-2) ?? "");
  const open = searchParams.get("open")?.split(",").map(Number);
  const epoch = searchParams.get("epoch") ?? undefined;
  const offset = epoch && Number(searchParams.get("offset"));
  const chain = searchParams.get("chain") ?? undefined;
  const acked = searchParams.get("acked")?.split(",");
  const presence = searchParams.get("presence") === "1" || undefined;
  // JSON.stringify() leaves out what is undefined.
  return { type: "attach", session, id, epoch, offset, chain, acked, open, presence };
}
