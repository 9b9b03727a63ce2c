// Where entries stand: an answer that was given again stands in place of the former.
// It uses no document, so that node tests it.

/** @typedef {import("../connections/client.js").Entry} Entry */

/** The places of entries: each is the offset of the first answer that stood there. */
export class Places {
  /** @type {Map<number, number>} */ #places = new Map();

  /** @param {Entry} entry those before it were given earlier */
  find({ offset, replaces }) {
    if (replaces === undefined) return offset;
    const place = this.#places.get(replaces) ?? replaces;
    this.#places.set(offset, place);
    return place;
  }

  /**
   * Return the entries by their places, in order; the last one of each is the valid one.
   * @param {Entry[]} entries in order @returns {[number, Entry[]][]}
   */
  arrange(entries) {
    /** @type {Map<number, Entry[]>} */ const found = new Map();
    for (const entry of entries) {
      const place = this.find(entry);
      const there = found.get(place);
      if (there) there.push(entry);
      else found.set(place, [entry]);
    }
    return [...found].sort(([one], [other]) => one - other);
  }

  clear() {
    this.#places.clear();
  }
}
