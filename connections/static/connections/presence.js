/**
 * @typedef {{type: "present", members: {member: string, data: object}[] | null}
 *   | {type: "presence.joined", members: {member: string, data: object}[]}
 *   | {type: "presence.left", members: {member: string}[]}
 *   | {type: "presence.gap"}
 *   | {type: "typing", member: string, connection: string, active: boolean}} Message
 * @typedef {{member: string, connection: string, isTyping: boolean}} Typing
 */

/** A server that does not know who is present is asked again after this. */
const ASK_AGAIN_MS = 5000;
/** Typing that is not repeated for so long has ended: its end may be lost. */
const FORGET_MS = 6000;
const REPEAT_MS = 3000;

/** Who is present in a session, and who types on its other connections. */
export class SessionPresence {
  /** The public data of each member. @type {Map<string, object>} */
  members = new Map();

  #clock;
  #send;
  #onChange;
  #onTyping;
  #isOpen = false;
  /** @type {any} */ #asking = null;
  /** The other connections that type, each with its timer. @type {Map<string, any>} */
  #others = new Map();
  #isTyping = false;
  #sentAt = -Infinity;
  /** @type {any} */ #ending = null;

  /**
   * @param {{clock: import("./socket.js").Clock, send: (message: object) => void,
   *   onChange: () => void, onTyping: (typing: Typing) => void}} options
   */
  constructor({ clock, send, onChange, onTyping }) {
    this.#clock = clock;
    this.#send = send;
    this.#onChange = onChange;
    this.#onTyping = onTyping;
  }

  /** Ask a server that has presence. @param {string | undefined} member of this client */
  begin(member) {
    this.#isOpen = member !== undefined;
    this.#ask();
  }

  /** Forget who types: the connection has ended. */
  stop() {
    this.#isOpen = false;
    this.#isTyping = false;
    this.#clock.clearTimeout(this.#asking);
    this.#clock.clearTimeout(this.#ending);
    for (const { typing } of [...this.#others.values()]) {
      this.take({ type: "typing", ...typing, active: false });
    }
  }

  /** Send that the user types, or no longer; nothing for a while ends it. */
  setTyping(/** @type {boolean} */ isTyping) {
    if (!this.#isOpen) return;
    this.#clock.clearTimeout(this.#ending);
    if (isTyping) {
      this.#ending = this.#clock.setTimeout(() => this.setTyping(false), FORGET_MS);
    }
    const now = this.#clock.now();
    const isOld = isTyping && now - this.#sentAt >= REPEAT_MS;
    if (isTyping === this.#isTyping && !isOld) return;
    this.#isTyping = isTyping;
    this.#sentAt = now;
    this.#send({ type: "typing", active: isTyping });
  }

  /** @param {Message} message */
  take(message) {
    switch (message.type) {
      case "present":
        if (message.members === null) return this.#askLater();
        this.members = new Map(message.members.map((one) => [one.member, one.data]));
        return this.#onChange();
      case "presence.joined":
        for (const one of message.members) this.members.set(one.member, one.data);
        return this.#onChange();
      case "presence.left":
        for (const one of message.members) this.members.delete(one.member);
        return this.#onChange();
      case "presence.gap":
        return this.#ask();
      case "typing":
        return this.#takeTyping(message);
    }
  }

  /** @param {{member: string, connection: string, active: boolean}} message */
  #takeTyping({ member, connection, active }) {
    const known = this.#others.get(connection);
    this.#clock.clearTimeout(known?.timer);
    this.#others.delete(connection);
    if (active) {
      const end = () => this.#takeTyping({ member, connection, active: false });
      const timer = this.#clock.setTimeout(end, FORGET_MS);
      this.#others.set(connection, { timer, typing: { member, connection } });
    }
    if (active !== (known !== undefined)) {
      this.#onTyping({ member, connection, isTyping: active });
    }
  }

  #ask() {
    if (this.#isOpen) this.#send({ type: "present" });
  }

  #askLater() {
    this.#clock.clearTimeout(this.#asking);
    this.#asking = this.#clock.setTimeout(() => this.#ask(), ASK_AGAIN_MS);
  }
}
