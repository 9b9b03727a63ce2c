// Whether and when to return after a connection has ended: decisions alone.

import { CODES, HUNDREDS, OTHERS } from "./close_codes.js";

/**
 * How a connection ended.
 * @typedef {{code: number, reason: string, ref: string | null,
 *   reconnect: import("./close_codes.js").Reconnect, afterMs: number | null}} Ending
 */

const SHORTEST_MS = 500;
const LONGEST_MS = 20_000;
const SPREAD_MS = [0, 1000];
const LATER_MS = [5000, 15_000];

/** While a node is being replaced its port refuses; a short wait is enough. */
export const REPLACEMENT_MS = 30_000;
const REPLACEMENT_SPREAD_MS = [250, 2000];

/** Codes that stand for a close frame that never came or said nothing. */
const SILENT = [1000, 1005, 1006];

/**
 * Return how long to wait after so many failures in a row, in milliseconds.
 *
 * Full jitter, applied after the cap: at the cap clients are still spread over
 * the whole span instead of arriving together.
 * @param {number} failures @param {() => number} random
 */
export function backOff(failures, random) {
  const cap = Math.min(LONGEST_MS, SHORTEST_MS * 2 ** Math.min(failures + 1, 16));
  return spread([SHORTEST_MS, cap], random);
}

/**
 * Put together what the close frame and the `bye` before it said.
 * @param {number} code @param {string} reason
 * @param {Record<string, any> | null} bye @returns {Ending}
 */
export function readEnding(code, reason, bye) {
  const isBye = bye !== null && (bye.code === code || SILENT.includes(code));
  const known = isBye ? bye.code : code;
  const advice = CODES[known] ?? HUNDREDS[Math.floor(known / 100)] ?? OTHERS;
  return {
    code: known,
    reason: (isBye && bye.reason) || reason || advice.reason,
    reconnect: known in CODES || !isBye ? advice.reconnect : bye.reconnect,
    afterMs: isBye && typeof bye.after_ms === "number" ? bye.after_ms : null,
    ref: (isBye && bye.ref) || null,
  };
}

/**
 * Return the milliseconds to wait before returning, or null for staying away.
 *
 * `failures` counts the connections in a row that did not last; `elapsedMs` is the
 * time since the bye that named `afterMs`; `sinceDrainMs` the time since a node
 * said that it drains.
 * @param {Ending} ending
 * @param {{failures: number, elapsedMs?: number, sinceDrainMs?: number,
 *   random: () => number}} circumstances
 * @returns {number | null}
 */
export function decide(ending, circumstances) {
  const { failures, elapsedMs = 0, sinceDrainMs = Infinity, random } = circumstances;
  const given = ending.afterMs === null ? null : ending.afterMs - elapsedMs;
  switch (ending.reconnect) {
    case "never":
    case "on_action":
      return null;
    case "later":
      return Math.max(0, given ?? spread(LATER_MS, random));
    case "now":
      if (failures === 0) return Math.max(0, given ?? spread(SPREAD_MS, random));
      // Sent away again and again: "now" would become a loop without a pause.
      return Math.max(given ?? 0, backOff(failures - 1, random));
    case "new_token":
      return backOff(failures, random);
    default:
      if (sinceDrainMs < REPLACEMENT_MS) return spread(REPLACEMENT_SPREAD_MS, random);
      return backOff(failures, random);
  }
}

/** @param {number[]} span @param {() => number} random */
function spread([least, most], random) {
  return least + random() * (most - least);
}
