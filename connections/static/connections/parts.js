// The parts of an answer, assembled from their changes. The first change of a part
// names its type; a later one adds to its `text` and `arguments`, and replaces its
// other fields. The text of an answer stays apart: a text part begins at a character.

/**
 * @typedef {{id: string, type: string, author?: string, text?: string, [name: string]: any}}
 *   Part with the fields of its type: docs/topics/protocol.md
 */

const GROWING = ["text", "arguments"];
/** The id of the part with the text before the first text part. */
const FIRST_TEXT = "text";

/**
 * Return the parts after some changes; the given ones stay as they are.
 * @param {Part[]} parts @param {Part[]} changes @returns {Part[]}
 */
export function merge(parts, changes) {
  const merged = new Map(parts.map((part) => [part.id, part]));
  for (const change of changes) {
    const held = merged.get(change.id);
    /** @type {Part} */ const part = { ...held, ...change };
    for (const name of GROWING) {
      if (held && name in held && name in change) part[name] = held[name] + change[name];
    }
    merged.set(change.id, part);
  }
  return [...merged.values()];
}

/**
 * Return merged parts in which each text part has its text.
 * @param {Part[]} parts @param {string} text @returns {Part[]}
 */
export function addTexts(parts, text) {
  const points = Array.from(text);
  const starts = parts.filter(({ type }) => type === "text").map((part) => part.at_char);
  const end = starts[0] ?? points.length;
  const found = end > 0 ? [{ id: FIRST_TEXT, type: "text", text: points.slice(0, end).join("") }] : [];
  let number = 0;
  for (const { at_char: at, ...part } of parts) {
    if (part.type === "text") {
      number += 1;
      part.text = points.slice(at, starts[number]).join("");
    }
    found.push(/** @type {any} */ (part));
  }
  return found;
}
