// The entries of a session as messages of the AI SDK, and its answers as chunks of a
// UI message stream. A message of the history is read from the same chunks.

import { readUIMessageStream } from "ai";
import { AnswerReader, OpenTexts, describeResult, filesOf, makePartId, makeMessage } from "./answers.js";
import { textOf } from "./client.js";

/**
 * @typedef {{offset?: number, at?: string, kind?: string, author?: string,
 *   state?: Entry["state"], usage?: Part[]}} Metadata of a message: the fields of its entry, and the usage parts
 *   of an answer
 * @typedef {import("ai").UIMessage<Metadata>} Message
 * @typedef {import("ai").UIMessageChunk} Chunk
 * @typedef {import("./answers.js").Step} Step
 * @typedef {import("./client.js").Entry} Entry
 * @typedef {import("./parts.js").Part} Part
 */

/** The media type of a file without one. */
const UNKNOWN = "application/octet-stream";

/** Translates one answer into the chunks of a UI message stream. */
export class ChunkWriter {
  #reader = new AnswerReader();
  /** @type {Entry | null} */ #entry = null;
  #texts = new OpenTexts();
  /** @type {Map<string, Part>} */ #calls = new Map();
  /** @type {Map<string, Part>} */ #usage = new Map();

  /** The answer as it was written last. */
  get entry() {
    return this.#entry;
  }

  /** Return the chunks for what is new of an answer. @param {Entry} entry @returns {Chunk[]} */
  write(entry) {
    const { offset, at, kind, state } = entry;
    /** @type {Chunk[]} */ const chunks = [];
    if (this.#entry === null) {
      const messageMetadata = { offset, at, kind, state };
      chunks.push({ type: "start", messageId: makeId(offset), messageMetadata });
      if (!isText(entry)) chunks.push(makeEntryPart(entry));
    }
    this.#entry = entry;
    for (const step of this.#reader.read(entry)) {
      chunks.push(...this.#endTexts(step.part), ...this.#translate(step));
    }
    if (state !== "streaming") chunks.push(...this.#end(entry));
    return chunks;
  }

  /** Return the end of a stream that leaves its answer to a person. @returns {Chunk[]} */
  suspend() {
    return [...this.#endTexts(), { type: "finish", finishReason: "tool-calls" }];
  }

  /** @param {Part} [next] @returns {Chunk[]} */
  #endTexts(next) {
    const ended = this.#texts.close(next);
    return ended.map(({ id, type }) => /** @type {Chunk} */ ({ type: `${type}-end`, id }));
  }

  /** @param {Step} step @returns {Iterable<Chunk>} */
  *#translate({ part, isNew, text }) {
    const { id, type, url = "" } = part;
    if (type === "text" || type === "reasoning") {
      if (this.#texts.open(part)) yield { type: `${type}-start`, id, ...describe(part) };
      if (text) yield { type: `${type}-delta`, id, delta: text };
    } else if (type === "tool_call") {
      yield* this.#translateCall(part, isNew, text);
    } else if (type === "source" && isNew) {
      yield { type: "source-url", sourceId: id, url, title: part.title, ...describe(part) };
    } else if (type === "file" && isNew) {
      yield { type: "file", url, mediaType: part.media_type ?? UNKNOWN, ...describe(part) };
    } else if (type === "usage") {
      this.#usage.set(id, part);
      const messageMetadata = { usage: [...this.#usage.values()] };
      yield { type: "message-metadata", messageMetadata };
    } else if (type === "error") {
      // The chunk `error` ends a stream, and the answer goes on.
      yield { type: "data-error", id, data: { message: part.message, author: part.author } };
    } else if (type === "custom") {
      yield { type: `data-${part.name ?? type}`, id, data: part.data };
    }
  }

  /** @param {Part} part @param {boolean} isNew @param {string} text @returns {Iterable<Chunk>} */
  *#translateCall(part, isNew, text) {
    const { name, state, result, approval } = part;
    const toolCallId = this.#name(part);
    const call = { toolCallId, toolName: name ?? "tool", providerExecuted: true, ...describe(part) };
    const input = () => /** @type {const} */ ({ type: "tool-input-available", ...call, input: parse(part.arguments) });
    const held = this.#calls.get(part.id);
    const before = held?.state ?? "streaming";
    this.#calls.set(part.id, part);
    if (isNew) yield { type: "tool-input-start", ...call };
    if (text && before === "streaming") yield { type: "tool-input-delta", toolCallId, inputTextDelta: text };
    if (state === "running" && held?.result !== result && before === state) {
      yield { type: "tool-output-available", toolCallId, output: result, preliminary: true };
    }
    if (state === before) return;
    if (before === "streaming") yield input();
    const wasAsked = before === "awaiting_approval";
    const isDecided = state !== "awaiting_approval" && approval && (wasAsked || !held?.approval);
    if (state === "awaiting_approval" || (isDecided && !wasAsked)) {
      yield { type: "tool-approval-request", toolCallId, approvalId: toolCallId };
    }
    if (isDecided) yield { type: "tool-approval-response", approvalId: toolCallId, ...describeDecision(approval) };
    if (state === "running" && (isDecided || before !== "streaming")) yield input();
    if (state === "done") yield { type: "tool-output-available", toolCallId, output: result ?? null };
    if (state === "denied") yield { type: "tool-output-denied", toolCallId };
    if (state === "error") {
      yield { type: "tool-output-error", toolCallId, errorText: describeResult(result) };
    }
  }

  /** @param {Entry} entry @returns {Iterable<Chunk>} */
  *#end({ state, data }) {
    yield* this.#endTexts();
    for (const part of this.#calls.values()) {
      if (part.state !== "awaiting_approval") continue;
      yield { type: "tool-output-error", toolCallId: this.#name(part), errorText: "the answer has ended" };
    }
    yield { type: "message-metadata", messageMetadata: { state } };
    if (state === "done") yield { type: "finish", finishReason: "stop" };
    else if (state === "cancelled") yield { type: "abort", reason: state };
    else yield { type: "error", errorText: data?.error ?? "the answer was interrupted" };
  }

  /** @param {Part} part */
  #name(part) {
    return makePartId(/** @type {Entry} */ (this.#entry).offset, part);
  }
}

/**
 * Return an entry as a message, which its writer has then written.
 * @param {Entry} entry @param {ChunkWriter} [writer] @returns {Promise<Message>}
 */
export async function toMessage(entry, writer = new ChunkWriter()) {
  const { offset, at, kind, author, state } = entry;
  if (entry.from === "client") {
    const metadata = { offset, at, kind, author, state };
    return { id: makeId(offset), role: "user", metadata, parts: fromData(entry) };
  }
  const chunks = writer.write(entry).filter(({ type }) => type !== "error");
  if (state === "streaming") chunks.push(...writer.suspend());
  const stream = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
  /** @type {any} */ let message;
  for await (message of readUIMessageStream({ stream }));
  return message;
}

/** Return what a session stores of a message. @param {import("ai").UIMessage<any, any, any>} message */
export function toData({ parts }) {
  const texts = parts.flatMap((part) => (part.type === "text" ? [part.text] : []));
  const files = parts.flatMap((part) => {
    if (part.type !== "file") return [];
    return [{ url: part.url, name: part.filename, media_type: part.mediaType }];
  });
  return makeMessage(texts.join(""), files);
}

/** @param {Entry} entry @returns {Message["parts"]} */
function fromData(entry) {
  if (!isText(entry)) return [/** @type {any} */ (makeEntryPart(entry))];
  return [
    ...filesOf(entry).map(({ url, name, media_type: mediaType = UNKNOWN }) => {
      return /** @type {const} */ ({ type: "file", url, filename: name, mediaType });
    }),
    { type: "text", text: textOf(entry) },
  ];
}

/** @param {Entry} entry */
function isText({ data }) {
  return typeof data?.text === "string";
}

/** What the application appended, in whatever form. @param {Entry} entry */
function makeEntryPart({ data }) {
  return /** @type {const} */ ({ type: "data-entry", data });
}

/** Return the id of the message of an entry. @param {number} offset */
export function makeId(offset) {
  return `entry-${offset}`;
}

/** Return what the AI SDK has no field for. @param {Part} part */
function describe({ author, type, name }) {
  const orchestra = { ...(author && { author }), ...(type === "file" && name && { name }) };
  return Object.keys(orchestra).length > 0 ? { providerMetadata: { orchestra } } : {};
}

/** Return what a person decided. @param {{state: string, note?: string}} decision */
function describeDecision({ state, note }) {
  const reason = note ?? (state === "expired" ? "nobody decided in time" : undefined);
  return { approved: state === "approved", ...(reason && { reason }) };
}

/** Return the arguments of a tool call, which a model may write wrongly. @param {string} [text] */
function parse(text) {
  if (!text) return {};
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
