// The entries of a session as events of AG-UI: each entry is a run.

import { AnswerReader, ENDED, OpenTexts, describeResult, filesOf, makePartId } from "./answers.js";
import { textOf } from "./client.js";

/**
 * @typedef {import("@ag-ui/client").BaseEvent} Event
 * @typedef {import("./answers.js").Step} Step
 * @typedef {import("./client.js").Entry} Entry
 * @typedef {import("./parts.js").Part} Part
 * @typedef {{threadId: string, runId: string, isPast?: boolean}} Run of which
 *   `isPast` tells that it is shown after its end
 */

/** Parts that AG-UI has no message for. */
const ACTIVITIES = ["source", "file", "error"];

/** The answer to an interrupt, as JSON Schema. */
const RESPONSE = {
  type: "object",
  properties: { approved: { type: "boolean" }, note: { type: "string", maxLength: 1000 } },
  required: ["approved"],
};

/** Translates one answer into events, in one run or in several. */
export class EventWriter {
  #reader = new AnswerReader();
  #texts = new OpenTexts();
  /** The tool calls whose arguments may grow. @type {Set<string>} */ #calls = new Set();
  /** The states of the tool calls. @type {Map<string, string>} */ #states = new Map();
  /** @type {Map<string, Part>} */ #usage = new Map();
  #offset;

  /** @param {number} offset of the answer */
  constructor(offset) {
    this.#offset = offset;
  }

  /**
   * Return the events for what is new of an answer, after the beginning of a run. Events
   * are plain: the client of AG-UI checks them against its schemas.
   * @param {Entry} entry @param {Run} run @returns {any[]}
   */
  write(entry, run) {
    const { kind, data } = entry;
    const steps = this.#reader.read(entry);
    const events = steps.flatMap((step) => [...this.#endTexts(step.part), ...this.#translate(step)]);
    if (typeof data?.text !== "string") {
      // What the application appended, in whatever form.
      const messageId = `entry-${this.#offset}`;
      const content = { kind, data };
      events.push({ type: "ACTIVITY_SNAPSHOT", messageId, activityType: "entry", content });
    }
    if (entry.state !== "streaming") events.push(...this.suspend(), this.#end(entry, run));
    return events;
  }

  /** Return the ends of what is open: a run may not end before them. @returns {any[]} */
  suspend() {
    const calls = [...this.#calls].map((toolCallId) => ({ type: "TOOL_CALL_END", toolCallId }));
    this.#calls.clear();
    return [...this.#endTexts(), ...calls];
  }

  /**
   * Return the end of a run that leaves its answer to a person.
   * @param {Part[]} asked the calls on which a person decides @param {Run} run @returns {any[]}
   */
  interrupt(asked, { threadId, runId }) {
    const interrupts = asked.map((part) => ({
      id: this.#makeId(part),
      reason: "tool_call",
      message: `May ${part.name ?? "the tool"} run?`,
      toolCallId: this.#makeId(part),
      responseSchema: RESPONSE,
      metadata: this.#describe(part),
    }));
    const outcome = { type: "interrupt", interrupts };
    const usage = this.#takeUsage();
    return [...this.suspend(), { type: "RUN_FINISHED", threadId, runId, outcome, usage }];
  }

  /** @param {Part} [next] @returns {any[]} */
  #endTexts(next) {
    return this.#texts.close(next).flatMap((part) => {
      const messageId = this.#makeId(part);
      if (part.type === "text") return [{ type: "TEXT_MESSAGE_END", messageId }];
      return [{ type: "REASONING_MESSAGE_END", messageId }, { type: "REASONING_END", messageId }];
    });
  }

  /** @param {Step} step @returns {Iterable<any>} */
  *#translate({ part, text }) {
    const { id, type, author: name, ...fields } = part;
    const messageId = this.#makeId(part);
    const metadata = this.#describe(part);
    if (type === "text") {
      const start = { type: "TEXT_MESSAGE_START", messageId, role: "assistant", name, metadata };
      if (this.#texts.open(part)) yield start;
      if (text) yield { type: "TEXT_MESSAGE_CONTENT", messageId, delta: text };
    } else if (type === "reasoning") {
      if (this.#texts.open(part)) {
        yield { type: "REASONING_START", messageId };
        yield { type: "REASONING_MESSAGE_START", messageId, role: "reasoning", metadata };
      }
      if (text) yield { type: "REASONING_MESSAGE_CONTENT", messageId, delta: text };
    } else if (type === "tool_call") {
      yield* this.#translateCall(part, text);
    } else if (ACTIVITIES.includes(type)) {
      yield { type: "ACTIVITY_SNAPSHOT", messageId, activityType: type, content: fields, metadata };
    } else if (type === "usage") {
      this.#usage.set(id, part);
    } else if (type === "custom") {
      yield { type: "CUSTOM", name: part.name ?? type, value: part.data ?? null, metadata };
    }
  }

  /** @param {Part} part @param {string} text @returns {Iterable<any>} */
  *#translateCall(part, text) {
    const { id, name = "tool", state, result, approval } = part;
    const toolCallId = this.#makeId(part);
    const before = this.#states.get(id) ?? "streaming";
    this.#states.set(id, state);
    if (before === "streaming" && !this.#calls.has(toolCallId)) {
      this.#calls.add(toolCallId);
      const metadata = this.#describe(part);
      yield { type: "TOOL_CALL_START", toolCallId, toolCallName: name, metadata };
    }
    if (text && this.#calls.has(toolCallId)) yield { type: "TOOL_CALL_ARGS", toolCallId, delta: text };
    if (state !== "streaming" && this.#calls.delete(toolCallId)) yield { type: "TOOL_CALL_END", toolCallId };
    if (state === before || !ENDED.includes(state)) return;
    const content = state === "denied" ? "denied" : describeResult(result);
    const metadata = { orchestra: { state, ...(approval && { approval }) } };
    yield { type: "TOOL_CALL_RESULT", messageId: `${toolCallId}-result`, toolCallId, content, metadata };
  }

  /** @param {Entry} entry @param {Run} run @returns {any} */
  #end({ state, data }, { threadId, runId, isPast }) {
    const usage = this.#takeUsage();
    const message = data?.error ?? "the answer was interrupted";
    const hasFailed = state === "error" || state === "interrupted";
    if (hasFailed && !isPast) return { type: "RUN_ERROR", message, code: state };
    const outcome = { type: state === "cancelled" ? state : "success" };
    const result = hasFailed ? { state, message } : undefined;
    return { type: "RUN_FINISHED", threadId, runId, outcome, usage, result };
  }

  /** Return the usage that no run has told yet. */
  #takeUsage() {
    const usage = [...this.#usage.values()].map((part) => ({
      model: part.model,
      inputTokens: part.input_tokens,
      outputTokens: part.output_tokens,
    }));
    this.#usage.clear();
    return usage;
  }

  /** @param {Part} part */
  #makeId(part) {
    return makePartId(this.#offset, part);
  }

  /** @param {Part} part */
  #describe({ author }) {
    return { orchestra: { offset: this.#offset, ...(author && { author }) } };
  }
}

/** Return the message of a client as one of AG-UI. @param {Entry} entry @returns {any} */
export function toMessage(entry) {
  const { offset, author, data } = entry;
  const text = typeof data?.text === "string" ? textOf(entry) : JSON.stringify(data);
  const files = filesOf(entry).map(({ url, name, media_type: mimeType }) => ({
    type: ["image", "audio", "video"].find((kind) => mimeType?.startsWith(`${kind}/`)) ?? "document",
    source: { type: "url", value: url, mimeType },
    metadata: name && { name },
  }));
  const content = files.length > 0 ? [{ type: "text", text }, ...files] : text;
  return { id: `entry-${offset}`, role: "user", content, metadata: { orchestra: { offset, author } } };
}

/** Return the text and the files of a message of AG-UI. @param {any} content */
export function readContent(content) {
  if (typeof content === "string") return { text: content, files: [] };
  const texts = content.flatMap((/** @type {any} */ { type, text }) => (type === "text" ? [text] : []));
  const files = content.flatMap((/** @type {any} */ { source, metadata }) => {
    if (!source) return [];
    const { type, value, mimeType } = source;
    const url = type === "data" ? `data:${mimeType};base64,${value}` : value;
    return [{ url, name: metadata?.name, media_type: mimeType }];
  });
  return { text: texts.join(""), files };
}
