import { addTexts, merge } from "./parts.js";

/**
 * @typedef {import("./parts.js").Part} Part
 * @typedef {"streaming"|"done"|"cancelled"|"interrupted"|"error"} EntryState
 * @typedef {{offset: number, kind: string, from: "client"|"server", at: string,
 *   data: any, state: EntryState, author?: string, chain?: string, parts?: Part[],
 *   changes?: number, replaces?: number}} Entry
 *   partsOf() returns its parts; `replaces` is the answer in whose place it stands
 * @typedef {{offset: number, at_char?: number, text?: string, at_change?: number,
 *   parts?: Part[]}} Delta
 */

/** The server takes so many commits of acks. */
const MOST_ACKED = 20;

/**
 * The entries of a session that a client holds, and the position to resume from.
 *
 * Offsets count from 1 without holes within an epoch. A repeated entry replaces
 * the former one.
 */
export class Transcript {
  /** @type {string | null} */ epoch = null;
  /** The last offset before the first hole. */ last = 0;
  /** The server's name of the newest commit that it has told of. @type {string | null} */
  chain = null;

  /** Acks of entries that have not arrived. @type {{offset: number, chain: string}[]} */
  #acked = [];

  /** Streaming entries whose end the gap of the last hello took away. @type {Entry[]} */
  lost = [];

  #limit;
  /** Entries up to this offset may be missing: the server trimmed them. */ #trimmedTo = 0;
  /** @type {Map<number, Entry>} */ #entries = new Map();
  /** Code points of each streaming entry. @type {Map<number, number>} */
  #lengths = new Map();

  /** @param {number} limit entries kept; the oldest are dropped first */
  constructor(limit) {
    this.#limit = limit;
  }

  /** The entries in order. */
  get entries() {
    return [...this.#entries.values()].sort((one, other) => one.offset - other.offset);
  }

  /** The position of a reconnecting client, as a query string. */
  get position() {
    if (this.epoch === null) return "";
    const open = [...this.#lengths.keys()].sort((one, other) => one - other);
    const query = new URLSearchParams({ epoch: this.epoch, offset: String(this.last) });
    if (this.chain !== null) query.set("chain", this.chain);
    const acked = this.#acked.filter(({ offset }) => offset > this.last);
    if (acked.length > 0) query.set("acked", acked.map(({ chain }) => chain).join(","));
    if (open.length > 0) query.set("open", open.join(","));
    return query.toString();
  }

  /**
   * Prepare for the entries after a hello; return true if all held ones are void.
   * @param {{epoch: string, offset: number, outcome: string,
   *   gap: [number, number] | null, chain?: string | null}} hello
   */
  begin({ epoch, offset, outcome, gap, chain }) {
    const isKnown = this.epoch !== null;
    const isVoid = isKnown && (outcome === "reset" || epoch !== this.epoch);
    this.#trimmedTo = gap ? gap[1] : 0;
    this.lost = [];
    if (isVoid || !isKnown) {
      this.#entries.clear();
      this.#lengths.clear();
      this.last = 0;
      this.chain = null;
      this.#acked = [];
      this.#trimmedTo = offset;
    } else if (gap) {
      // No entry follows a gap at the end of the log.
      if (gap[1] >= offset) this.last = gap[1];
      for (const lost of this.#lengths.keys()) {
        if (lost < gap[0] || gap[1] < lost) continue;
        const settled = this.settle({ offset: lost, state: "interrupted" });
        if (settled) this.lost.push(settled);
      }
    }
    this.epoch = epoch;
    this.chain = chain ?? this.chain;
    return isVoid;
  }

  /**
   * Keep the commit of an ack until its entry arrives: a log that lost both is another.
   * @param {{offset: number, chain?: string}} ack
   */
  confirm({ offset, chain }) {
    const ahead = this.#acked.filter((one) => one.offset > this.last);
    if (chain && offset > this.last) ahead.push({ offset, chain });
    this.#acked = ahead.slice(-MOST_ACKED);
  }

  /** Add an entry; return false if one before it is missing. @param {Entry} entry */
  put(entry) {
    const { offset } = entry;
    if (offset > this.last) {
      if (offset > Math.max(this.last, this.#trimmedTo) + 1) return false;
      this.last = offset;
    }
    this.#entries.set(offset, entry);
    this.chain = entry.chain ?? this.chain;
    if (entry.state === "streaming") this.#lengths.set(offset, countPoints(textOf(entry)));
    else this.#lengths.delete(offset);
    this.#trim();
    return true;
  }

  /**
   * Append to a streaming entry; return null if the delta does not join on.
   * @param {Delta} delta
   * @returns {Entry | null}
   */
  extend({ offset, at_char: at, text = "", at_change: atChange, parts }) {
    const entry = this.#entries.get(offset);
    const length = this.#lengths.get(offset);
    if (entry === undefined || length === undefined) return null;
    if (parts) {
      const { changes = 0 } = entry;
      if (changes !== atChange) return null;
      const merged = merge(entry.parts ?? [], parts);
      const changed = { ...entry, parts: merged, changes: changes + parts.length };
      this.#entries.set(offset, changed);
      return changed;
    }
    if (length !== at) return null;
    const grown = { ...entry, data: { ...entry.data, text: textOf(entry) + text } };
    this.#entries.set(offset, grown);
    this.#lengths.set(offset, length + countPoints(text));
    return grown;
  }

  /**
   * Record the end of a stream; return null if the entry is unknown or ended so before.
   * @param {{offset: number, state: EntryState, chain?: string}} change
   * @returns {Entry | null}
   */
  settle({ offset, state, chain }) {
    this.chain = chain ?? this.chain;
    const entry = this.#entries.get(offset);
    if (entry === undefined || entry.state === state) return null;
    const settled = { ...entry, state };
    this.#entries.set(offset, settled);
    if (state !== "streaming") this.#lengths.delete(offset);
    return settled;
  }

  #trim() {
    for (const offset of this.#entries.keys()) {
      if (this.#entries.size <= this.#limit) return;
      if (!this.#lengths.has(offset)) this.#entries.delete(offset);
    }
  }
}

/** Return the text of a streaming entry. @param {Entry} entry */
export function textOf(entry) {
  return typeof entry.data?.text === "string" ? entry.data.text : "";
}

/**
 * Return the parts of an answer in their order, its text in those of the type `text`.
 *
 * An answer of text alone, or of a server that knows no parts, has one part.
 * @param {Entry} entry @returns {Part[]}
 */
export function partsOf(entry) {
  return addTexts(entry.parts ?? [], textOf(entry));
}

/** Count Unicode code points, as `at_char` does. @param {string} text */
export function countPoints(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
