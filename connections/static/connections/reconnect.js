// Decide whether and when to reconnect after a connection ended; no side effects.

import { CODES, HUNDREDS, OTHERS } from "./close_codes.js";

/**
 * The end of a connection.
 * @typedef {{code: number, reason: string, ref: string | null,
 *   reconnect: import("./close_codes.js").Reconnect, afterMs: number | null}} Ending
 */

const SHORTEST_MS = 500;
const LONGEST_MS = 20_000;
const SPREAD_MS = [0, 1000];
const LATER_MS = [5000, 15_000];

/** A port refuses connections while its node is replaced, which takes a moment. */
export const REPLACEMENT_MS = 30_000;
const REPLACEMENT_SPREAD_MS = [250, 2000];

/** Codes for a close frame that is missing or has no code. */
const SILENT = [1000, 1005, 1006];

/**
 * Return the milliseconds to wait after a number of consecutive failures.
 *
 * Full jitter is applied after the cap, so that clients at the cap are still
 * spread over the whole span.
 * @param {number} failures @param {() => number} random
 */
export function backOff(failures, random) {
  const cap = Math.min(LONGEST_MS, SHORTEST_MS * 2 ** Math.min(failures + 1, 16));
  return spread([SHORTEST_MS, cap], random);
}

/**
 * Combine the close frame and the `bye` before it.
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
 * Return the milliseconds to wait before reconnecting, or null to stay closed.
 *
 * `failures` counts consecutive connections that did not last; `elapsedMs` is the
 * time since the server named `afterMs`; `sinceDrainMs` the time since a node
 * announced its drain.
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
      // After repeated closes, reconnecting at once would be a busy loop.
      return Math.max(given ?? 0, backOff(failures - 1, random));
    case "new_token":
      return backOff(failures, random);
    default: {
      const isReplacing = sinceDrainMs < REPLACEMENT_MS;
      const wait = isReplacing ? spread(REPLACEMENT_SPREAD_MS, random) : backOff(failures, random);
      // The jitter comes on top: all that were refused together got the same time.
      return Math.max(0, given ?? 0) + wait;
    }
  }
}

/** @param {number[]} span @param {() => number} random */
function spread([least, most], random) {
  return least + random() * (most - least);
}
