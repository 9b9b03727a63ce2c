// The answers of a session, read step by step as they grow. The adapters to other
// protocols translate the steps; this module knows none of them.

import { RequestError, textOf } from "./client.js";

/**
 * @typedef {import("./client.js").SessionClient} SessionClient
 * @typedef {import("./client.js").Entry} Entry
 * @typedef {import("./parts.js").Part} Part
 * @typedef {{part: Part, isNew: boolean, text: string}} Step a part that began or
 *   changed; `text` is what is new of its text, or of the arguments of a tool call
 * @typedef {{url: string, name?: string, media_type?: string}} File of a message
 * @typedef {(entry: Entry) => boolean} Fits
 * @typedef {{next: (entry: Entry) => void, fail: (error: Error) => void}} Follower
 */

const FIRST_TEXT = { id: "text", type: "text" };

/** Tells what is new of one answer since it was read last. */
export class AnswerReader {
  #text = "";
  /** Code points of the text, which `at_char` counts. */ #points = 0;
  /** @type {Map<string, Part>} */ #parts = new Map();

  /**
   * Return what is new, in the order of the parts; nothing while another producer
   * writes again what was read. Throws RequestError `replaced` if it writes other text.
   * @param {Entry} entry @returns {Step[]}
   */
  read(entry) {
    const text = textOf(entry);
    const parts = entry.parts ?? [];
    const growth = getGrowth(this.#text, text);
    if (growth === null) return [];
    let rest = growth;
    this.#text = text;
    /** @type {Step[]} */ const steps = [];
    const starts = parts.filter(({ type }) => type === "text").map((part) => part.at_char);
    const readText = (/** @type {Part} */ { at_char: _, ...part }) => {
      const end = starts.shift() ?? Infinity;
      let length = 0;
      for (const point of rest) {
        if (this.#points >= end) break;
        this.#points += 1;
        length += point.length;
      }
      const isNew = !this.#parts.has(part.id);
      if (length === 0 && (!isNew || part.id === FIRST_TEXT.id)) return;
      this.#parts.set(part.id, part);
      steps.push({ part, isNew, text: rest.slice(0, length) });
      rest = rest.slice(length);
    };
    readText(FIRST_TEXT);
    for (const part of parts) {
      if (part.type === "text") readText(part);
      else this.#readPart(part, steps);
    }
    return steps;
  }

  /** @param {Part} part @param {Step[]} steps */
  #readPart(part, steps) {
    const held = this.#parts.get(part.id);
    if (held && isSame(held, part)) return;
    const name = part.type === "tool_call" ? "arguments" : "text";
    const text = getGrowth(held?.[name] ?? "", part[name] ?? "");
    if (text === null) return;
    this.#parts.set(part.id, part);
    steps.push({ part, isNew: held === undefined, text });
  }
}

/** The texts and reasoning of an answer that may grow, for protocols that tell their ends. */
export class OpenTexts {
  /** @type {Map<string, Part>} */ #parts = new Map();

  /** Open a part; return whether it was closed. @param {Part} part */
  open(part) {
    const isNew = !this.#parts.has(part.id);
    this.#parts.set(part.id, part);
    return isNew;
  }

  /**
   * Close and return the parts that end because their author goes on with another part,
   * or because another text begins; without a part close all.
   * @param {Part} [next] @returns {Part[]}
   */
  close(next) {
    const ended = [...this.#parts.values()].filter((part) => {
      if (next === undefined) return true;
      if (part.id === next.id) return false;
      return part.author === next.author || (part.type === "text" && next.type === "text");
    });
    for (const { id } of ended) this.#parts.delete(id);
    return ended;
  }
}

/**
 * What persons decide on tool calls, for protocols whose answers end while they ask, and
 * go on with the next request.
 */
export class Decisions {
  #client;
  /** The calls of which the session knows, and the answer does not. @type {Set<string>} */
  #made = new Set();

  /** @param {SessionClient} client */
  constructor(client) {
    this.#client = client;
  }

  /**
   * Return the calls on which a person decides, once the answer waits for nothing else.
   * @param {Entry} entry @returns {Part[]}
   */
  findAsked({ offset, state, parts = [] }) {
    const open = parts.filter((part) => part.type === "tool_call" && !ENDED.includes(part.state));
    const asked = open.filter((part) => {
      const id = makePartId(offset, part);
      if (part.state !== "awaiting_approval") this.#made.delete(id);
      return part.state === "awaiting_approval" && !this.#made.has(id);
    });
    return state === "streaming" && asked.length === open.length ? asked : [];
  }

  /**
   * Decide on the call of an id that makePartId() made. Rejects with a RequestError.
   * @param {string} callId @param {boolean} isApproved
   * @param {{note?: string, signal?: AbortSignal}} options
   */
  async decide(callId, isApproved, options) {
    const part = callId.slice(callId.indexOf("-") + 1);
    const offset = offsetOf(callId);
    if (isApproved) await this.#client.approve(offset, part, options);
    else await this.#client.deny(offset, part, options);
    this.#made.add(callId);
  }
}

/** The states of a tool call that has ended. */
export const ENDED = ["done", "error", "denied"];

/** Return the id of a part among those of all answers. @param {number} offset @param {Part} part */
export function makePartId(offset, { id }) {
  return `${offset}-${id}`;
}

/** Return the offset in such an id. @param {string} id */
export function offsetOf(id) {
  const found = id.match(/^(\d+)-/);
  if (!found) throw new RequestError("unsupported", `${id} is of no answer of this session`);
  return Number(found[1]);
}

/** @param {Part} held @param {Part} part */
function isSame(held, part) {
  if (held === part) return true;
  const { stringify } = JSON;
  const isEqual = (/** @type {string} */ name) =>
    held[name] === part[name] ||
    (typeof part[name] === "object" && stringify(held[name]) === stringify(part[name]));
  return Object.keys(part).every(isEqual);
}

/** @param {string} before @param {string} after @returns {string | null} */
function getGrowth(before, after) {
  if (after.startsWith(before)) return after.slice(before.length);
  if (before.startsWith(after)) return null;
  throw new RequestError("replaced", "the answer was written anew: load the session again");
}

/** Return what tells the entry at an offset. @param {number} wanted @returns {Fits} */
export function isAt(wanted) {
  return ({ offset }) => offset === wanted;
}

/** Return what tells the first answer to the message at an offset. @param {number} asked @returns {Fits} */
export function isAnswerTo(asked) {
  return ({ from, kind, replaces, offset }) =>
    from === "server" && kind === "message" && replaces === undefined && offset > asked;
}

/**
 * Return the entries as a client shows them: the newest answer in the place of those
 * that it replaces.
 * @param {readonly Entry[]} entries @returns {Entry[]}
 */
export function arrange(entries) {
  /** @type {Map<number, number>} */ const places = new Map();
  /** @type {Map<number, Entry>} */ const shown = new Map();
  for (const entry of entries) {
    const place = places.get(entry.replaces ?? entry.offset) ?? entry.offset;
    places.set(entry.offset, place);
    shown.set(place, entry);
  }
  return [...shown.values()];
}

/**
 * Return the newest answer to a message, of which an offset is known: its own, or that of
 * one of its answers.
 * @param {SessionClient} client @param {number} offset @returns {Entry}
 */
export function findAnswer(client, offset) {
  const all = client.entries;
  let found = all.find(isAt(offset));
  if (found?.from === "client") found = all.find(isAnswerTo(offset));
  for (const entry of all) if (found && entry.replaces === found.offset) found = entry;
  if (found === undefined) throw new RequestError("not_found", "the session has no such answer");
  return found;
}

/**
 * Follow the first entry that fits, now or later, from what it is to its end.
 *
 * `next` gets the entry each time that it has grown; `fail` the reason why no more can
 * follow. The returned function leaves it.
 * @param {SessionClient} client @param {Fits} fits
 * @param {Follower} follower @returns {() => void}
 */
export function follow(client, fits, { next, fail }) {
  const leaving = new AbortController();
  const { signal } = leaving;
  /** @type {number | null} */ let offset = null;
  const stop = (/** @type {Error} */ error) => {
    leaving.abort();
    fail(error);
  };
  const begin = () => {
    if (offset !== null) return;
    const known = client.entries.find(fits);
    const [from, to] = client.hello?.gap ?? [1, 0];
    // An entry after those that are lost may be the answer to another message.
    for (let lost = from; lost <= to && lost !== known?.offset; lost += 1) {
      if (fits(/** @type {any} */ ({ from: "server", kind: "message", offset: lost }))) {
        return stop(new RequestError("gap", "the answer was trimmed"));
      }
    }
    if (known) take(known);
  };
  const take = (/** @type {Entry} */ entry) => {
    if (signal.aborted) return;
    if (offset === null ? !fits(entry) : entry.offset !== offset) return;
    offset = entry.offset;
    if (entry.state !== "streaming") leaving.abort();
    try {
      next(entry);
    } catch (error) {
      stop(/** @type {Error} */ (error));
    }
  };
  for (const type of /** @type {const} */ (["entry", "delta", "ended"])) {
    client.addEventListener(type, ({ detail }) => take(detail.entry), { signal });
  }
  client.addEventListener("gap", begin, { signal });
  const reset = () => stop(new RequestError("reset", "the log was replaced: load the session again"));
  client.addEventListener("reset", reset, { signal });
  whenClosed(client, stop, signal);
  begin();
  return () => leaving.abort();
}

/**
 * Stop an answer, which may not have arrived yet.
 * @param {SessionClient} client @param {Fits} fits
 */
export function stopAnswer(client, fits) {
  let isStopped = false;
  follow(client, fits, {
    next: ({ offset, state }) => {
      if (state === "streaming" && !isStopped) client.cancel(offset);
      isStopped = true;
    },
    // Nothing is left to stop.
    fail: () => {},
  });
}

/**
 * Connect if need be, and wait until all entries of the session have arrived.
 * @param {SessionClient} client @returns {Promise<void>}
 */
export async function catchUp(client) {
  if (client.state === "idle") client.connect();
  const isThere = () => {
    const { state, hello, entries } = client;
    if (state !== "open" || !hello) return false;
    // No entry follows where none is kept.
    const last = Math.max(entries.at(-1)?.offset ?? 0, hello.gap?.[1] ?? 0);
    return hello.outcome === "nothing_missed" || last >= hello.offset;
  };
  const leaving = new AbortController();
  const { signal } = leaving;
  try {
    await new Promise((resolve, reject) => {
      const check = () => isThere() && resolve(null);
      client.addEventListener("hello", check, { signal });
      client.addEventListener("entry", check, { signal });
      whenClosed(client, reject, signal);
      check();
    });
  } finally {
    leaving.abort();
  }
}

/**
 * @param {SessionClient} client @param {(error: Error) => void} report
 * @param {AbortSignal} signal
 */
function whenClosed(client, report, signal) {
  const check = () => {
    if (client.state !== "closed") return;
    report(new RequestError("closed", `the connection has ended: ${client.ending?.reason}`));
  };
  client.addEventListener("state", check, { signal });
  check();
}

/** Return what a session stores of a message. @param {string} text @param {File[]} files */
export function makeMessage(text, files) {
  return files.length > 0 ? { text, files } : { text };
}

/**
 * Return the files of a message, whose data is its author's: what is no file is left out.
 * @param {Entry} entry @returns {File[]}
 */
export function filesOf({ data }) {
  const files = Array.isArray(data?.files) ? data.files : [];
  return files.flatMap((/** @type {any} */ file) => {
    const [url, name, media_type] = ["url", "name", "media_type"].map((field) => {
      return typeof file?.[field] === "string" ? file[field] : undefined;
    });
    return url === undefined ? [] : [{ url, name, media_type }];
  });
}

/** Return the text of a result. @param {unknown} result */
export function describeResult(result) {
  return typeof result === "string" ? result : JSON.stringify(result ?? null);
}
