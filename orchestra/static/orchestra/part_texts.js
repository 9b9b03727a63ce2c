// What the page says of the parts of an answer. It uses no document, so that node tests it.

/** @typedef {import("../connections/parts.js").Part} Part */

/** Parts and sources that one answer shows at most; it may have more. */
export const MOST_PARTS = 100;
/** Characters of one argument, result or thought that are shown. */
export const MOST_CHARACTERS = 20_000;

const SHOWN = ["text", "reasoning", "tool_call", "file", "error", "custom"];
const CALL_STATES = {
  streaming: "prepares",
  waiting: "waits",
  awaiting_approval: "asks for approval",
  running: "runs",
  done: "done",
  error: "failed",
  denied: "denied",
};
const UNFINISHED = ["streaming", "waiting", "awaiting_approval", "running"];

/**
 * Sort the parts of an answer into its body, its sources and its usage.
 *
 * A source that is named twice is listed once; parts of unknown types are left out.
 * @param {Part[]} parts
 */
export function sortParts(parts) {
  const body = parts.filter(({ type }) => SHOWN.includes(type));
  /** @type {Map<string, Part>} */ const sources = new Map();
  for (const part of parts) {
    if (part.type === "source") sources.set(part.url ?? part.title ?? part.id, part);
  }
  const shown = body.slice(0, MOST_PARTS);
  const cited = [...sources.values()].slice(0, MOST_PARTS);
  return {
    body: shown,
    sources: cited,
    usage: parts.filter(({ type }) => type === "usage"),
    hidden: body.length - shown.length + sources.size - cited.length,
  };
}

/** Return an address that a page may link, else null. @param {unknown} text */
export function readAddress(text) {
  const url = typeof text === "string" && URL.canParse(text) ? new URL(text) : null;
  return url && ["http:", "https:"].includes(url.protocol) ? url.href : null;
}

/** Return the host of a source. @param {string} href */
export function nameHost(href) {
  return new URL(href).hostname.replace(/^www\./, "");
}

/** @param {string | undefined} author */
export function nameAgent(author = "") {
  return author ? author[0].toUpperCase() + author.slice(1) : "";
}

/**
 * Return the state of a tool call; one that an ended answer left has no result.
 * @param {Part} part @param {boolean} isEnded
 */
export function describeCall({ state = "streaming" }, isEnded) {
  if (isEnded && UNFINISHED.includes(state)) return { state: "lost", label: "no result" };
  const label = CALL_STATES[/** @type {keyof typeof CALL_STATES} */ (state)];
  return { state, label: label ?? String(state) };
}

/**
 * Return who decided on a tool call, and what they wrote.
 * @param {{state?: string, by?: string, note?: string} | undefined} approval
 * @param {(author: string | undefined) => string} name
 */
export function describeApproval(approval, name) {
  if (!approval) return "";
  if (approval.state === "expired") return "Nobody decided in time.";
  const by = approval.by ? ` by ${name(approval.by).replace(/^You$/, "you")}` : "";
  const note = approval.note ? `: ${approval.note}` : "";
  return `${nameAgent(approval.state)}${by}${note}`;
}

/** Lay out JSON, which may be unfinished while it grows. @param {string} text */
export function formatArguments(text) {
  try {
    const value = JSON.parse(text);
    const isPlain = value !== null && typeof value === "object" && !Array.isArray(value);
    if (!isPlain) return clip(JSON.stringify(value, null, 2));
    const lines = Object.entries(value).map(([name, one]) => `${name}: ${JSON.stringify(one)}`);
    return clip(lines.join("\n"));
  } catch {
    return clip(text);
  }
}

/** @param {unknown} result */
export function formatResult(result) {
  return clip(typeof result === "string" ? result : JSON.stringify(result, null, 2) ?? "");
}

/** @param {unknown} result */
export function describeResult(result) {
  if (!Array.isArray(result)) return "Result";
  return result.length === 1 ? "Result: 1 item" : `Result: ${result.length} items`;
}

/** Return the sum of what models counted. @param {Part[]} usage */
export function describeUsage(usage) {
  const sum = (/** @type {string} */ name) =>
    usage.reduce((total, part) => total + (Number(part[name]) || 0), 0);
  const models = [...new Set(usage.map(({ model }) => model).filter(Boolean))];
  const counted = `${sum("input_tokens")} tokens read, ${sum("output_tokens")} written`;
  return [counted, ...models].join(" · ");
}

/** Return the beginning of a text, and how much is left out. @param {string} text */
export function clip(text) {
  const left = text.length - MOST_CHARACTERS;
  return left > 0 ? `${text.slice(0, MOST_CHARACTERS)}\n… and ${left} characters more` : text;
}
