const PREFIX = "orchestra.outbox.";

/** Keys of the open clients of each page, which no other client of it adopts. */
/** @type {WeakMap<object, Set<string>>} */
const ownedByPage = new WeakMap();

/** @typedef {[id: string, text: string]} StoredMessage */

/**
 * Keep the unsettled messages of one client in a Storage, under a key of its own.
 *
 * A client adopts the messages of earlier clients of its session that are closed or
 * whose page is gone. A storage that is full or forbidden throws nothing here.
 */
export class MessageStore {
  #storage;
  #session;
  #id;
  #owned;

  /**
   * @param {{storage: Storage, session: string, id: string, page?: object | null}}
   *   options `id` is unique to the client
   */
  constructor({ storage, session, id, page }) {
    this.#storage = storage;
    this.#session = session;
    this.#id = id;
    this.#owned = findOwned(page ?? globalThis);
  }

  get #key() {
    return `${PREFIX}${this.#session}.${this.#id}`;
  }

  /**
   * Take the messages that earlier clients left; the caller saves them.
   * @returns {StoredMessage[]}
   */
  adopt() {
    this.#owned.add(this.#key);
    const keys = this.#findLeft();
    const messages = keys.flatMap((key) => this.#read(key));
    // A full storage has no room for them twice.
    for (const key of keys) if (key !== this.#key) this.#remove(key);
    return messages;
  }

  /**
   * Replace what is stored; if there is no room, nothing is stored, and it returns false.
   * @param {StoredMessage[]} messages
   */
  save(messages) {
    if (messages.length === 0) return this.#remove(this.#key);
    try {
      this.#storage.setItem(this.#key, JSON.stringify(messages));
      return true;
    } catch {
      // What is settled or rejected would be sent by the next client.
      this.#remove(this.#key);
      return false;
    }
  }

  /** Store what follows for another session. @param {string} session */
  move(session) {
    this.#remove(this.#key);
    this.#owned.delete(this.#key);
    this.#session = session;
    this.#owned.add(this.#key);
  }

  /** Leave the messages to the next client of the session. */
  release() {
    this.#owned.delete(this.#key);
  }

  #findLeft() {
    // Before 0.3 all clients of a session had the key without a last part.
    const base = PREFIX + this.#session;
    try {
      const count = this.#storage.length;
      const keys = Array.from({ length: count }, (_, index) => this.#storage.key(index) ?? "");
      return keys
        .filter((key) => key === base || key.startsWith(`${base}.`))
        .filter((key) => key === this.#key || !this.#owned.has(key));
    } catch {
      return [];
    }
  }

  /** @param {string} key @returns {StoredMessage[]} */
  #read(key) {
    try {
      const stored = JSON.parse(this.#storage.getItem(key) ?? "[]");
      return stored.filter(isMessage);
    } catch {
      return [];
    }
  }

  /** @param {string} key */
  #remove(key) {
    try {
      this.#storage.removeItem(key);
      return true;
    } catch {
      return false;
    }
  }
}

/**
 * Remove the messages of all sessions from a storage, as at a sign-out: the next client
 * of `new` would send those of a new session, whoever signs in. Close the clients first.
 * @param {Storage} storage
 */
export function forgetMessages(storage) {
  const keys = Array.from({ length: storage.length }, (_, index) => storage.key(index) ?? "");
  for (const key of keys) if (key.startsWith(PREFIX)) storage.removeItem(key);
}

/** @param {object} page */
function findOwned(page) {
  const owned = ownedByPage.get(page) ?? new Set();
  ownedByPage.set(page, owned);
  return owned;
}

/** @param {unknown} stored */
function isMessage(stored) {
  return (
    Array.isArray(stored) &&
    stored.length === 2 &&
    stored.every((part) => typeof part === "string")
  );
}
