// A session as the transport of a chat of the AI SDK.
//
//   const transport = new SessionTransport(client);
//   const chat = new Chat({ transport, messages: await transport.messages() });
//   const useConversation = () => useChat({ chat, resume: true });

import { readUIMessageStream } from "ai";
import { ChunkWriter, makeId, toData, toMessage } from "./ai_sdk_chunks.js";
import { Decisions, arrange, catchUp, findAnswer, follow, isAnswerTo, isAt, offsetOf, stopAnswer } from "./answers.js";
import { RequestError } from "./client.js";

/**
 * @typedef {import("./ai_sdk_chunks.js").Message} Message
 * @typedef {import("ai").UIMessage<any, any, any>} AnyMessage of whatever type a chat has
 * @typedef {import("ai").UIMessageChunk} Chunk
 * @typedef {import("./client.js").Entry} Entry
 * @typedef {import("./client.js").SessionClient} SessionClient
 * @typedef {(update: (messages: any[]) => any[]) => void} SetMessages
 */

/**
 * The transport of a chat whose messages are those of a session.
 *
 * A stop of the chat stops the answer for everyone, and so does the unmounting of a
 * component whose useChat() made the chat. An answer goes on when its page is closed, and
 * over any loss of the connection. A stream that asks for an approval ends; the response
 * to it opens the next one.
 */
export class SessionTransport {
  /** A stream that is taken up begins with the beginning of its answer. */
  resumeStreamIsReplay = true;

  #client;
  /** The offsets of what the chat shows already. @type {Set<number>} */ #shown = new Set();
  /** The messages without an ack. @type {Set<Promise<unknown>>} */ #asked = new Set();
  /** The offsets of the messages that the chat sent, by id. @type {Map<string, number>} */
  #sent = new Map();
  /** How often a chat resumed. */ #resumptions = 0;
  #decisions;
  /** The answers that the chat has left to a person. @type {Map<number, ChunkWriter>} */
  #left = new Map();
  /** Each shows an entry to a chat that follows. @type {Set<(entry: Entry) => void>} */
  #followers = new Set();

  /** @param {SessionClient} client whose session the chat shows */
  constructor(client) {
    this.#client = client;
    this.#decisions = new Decisions(client);
    client.addEventListener("reset", () => {
      this.#decisions = new Decisions(client);
      this.#shown = new Set();
      this.#sent.clear();
      this.#left.clear();
    });
  }

  /**
   * Return the messages of the session, without the answers that grow: those come from
   * the option `resume` of the chat.
   * @returns {Promise<Message[]>}
   */
  async messages() {
    await catchUp(this.#client);
    const { entries } = this.#client;
    for (const { offset, state } of entries) if (state !== "streaming") this.#shown.add(offset);
    const ended = arrange(entries).filter(({ state }) => state !== "streaming");
    // An entry that cannot be shown hides no other.
    const messages = ended.map((entry) => toMessage(entry).catch(() => []));
    return (await Promise.all(messages)).flat();
  }

  /**
   * Send the last message of the chat or the responses to approvals, or ask for an answer
   * anew; return the answer, or the rest of it.
   *
   * `body` reaches the responder as the metadata of the message. Rejects with a
   * RequestError.
   * @param {{trigger: string, messages: AnyMessage[], messageId?: string,
   *   abortSignal?: AbortSignal, body?: object}} options
   * @returns {Promise<ReadableStream<Chunk>>}
   */
  async sendMessages({ trigger, messages, messageId, abortSignal, body }) {
    const metadata = /** @type {any} */ (body);
    if (trigger === "regenerate-message") {
      const { offset } = this.#findAnswer(messageId);
      return this.#ask(this.#client.regenerate(offset, { metadata }), abortSignal);
    }
    const message = messages.findLast(({ id }) => messageId === undefined || id === messageId);
    if (message?.role === "assistant") return this.#goOn(message, abortSignal);
    if (message?.role !== "user" || messageId !== undefined) {
      throw new RequestError("unsupported", "the messages of a session stay as they are: send a new one");
    }
    if (this.#client.state === "idle") this.#client.connect();
    const asked = this.#client.request(toData(message), { answer: true, metadata });
    return this.#ask(asked, abortSignal, message.id);
  }

  /**
   * Return the first answer that grows, from its beginning, or null if none does.
   * @param {{abortSignal?: AbortSignal}} [options]
   * @returns {Promise<ReadableStream<Chunk> | null>}
   */
  async reconnectToStream({ abortSignal } = {}) {
    this.#resumptions += 1;
    const number = this.#resumptions;
    await catchUp(this.#client);
    const found = this.#client.entries.find(({ state }) => state === "streaming");
    if (found === undefined || abortSignal?.aborted) return null;
    const fits = isAt(found.offset);
    whenAborted(abortSignal, async () => {
      await null;
      // A chat that resumes again, as in StrictMode, has aborted its former request.
      if (number === this.#resumptions) stopAnswer(this.#client, fits);
    });
    return this.#open(fits);
  }

  /**
   * Add to a chat what it does not show: messages and answers of other tabs and people.
   * The returned function stops that.
   * @param {SetMessages} setMessages @returns {() => void}
   */
  follow(setMessages) {
    const leaving = new AbortController();
    const { signal } = leaving;
    const show = async (/** @type {Entry} */ { offset }) => {
      // Whether a message is one of this chat is known with its ack.
      await Promise.all(this.#asked);
      if (signal.aborted) return;
      const left = this.#left.get(offset);
      if (left) return refresh(offset, left);
      if (this.#shown.has(offset)) return;
      this.#shown.add(offset);
      const entry = this.#client.entries.find(isAt(offset));
      if (entry === undefined) return;
      if (entry.state === "streaming") void grow(entry);
      else put(setMessages, await toMessage(entry), entry.replaces);
    };
    const grow = async (/** @type {Entry} */ { offset, replaces }) => {
      const stream = this.#open(isAt(offset));
      for await (const message of readUIMessageStream({ stream })) {
        if (signal.aborted) return;
        put(setMessages, message, replaces);
      }
    };
    const refresh = async (/** @type {number} */ offset, /** @type {ChunkWriter} */ left) => {
      const entry = this.#client.entries.find(isAt(offset));
      if (entry === undefined || entry === left.entry) return;
      const writer = new ChunkWriter();
      const message = await toMessage(entry, writer);
      if (signal.aborted || this.#left.get(offset) !== left) return;
      this.#left.delete(offset);
      if (entry.state === "streaming") this.#left.set(offset, writer);
      put(setMessages, message, entry.replaces);
    };
    const begin = async () => {
      await catchUp(this.#client);
      if (signal.aborted) return;
      let shown = Promise.resolve();
      const take = (/** @type {Entry} */ entry) => {
        shown = shown.then(() => show(entry)).catch(() => {});
      };
      this.#followers.add(take);
      signal.addEventListener("abort", () => this.#followers.delete(take));
      this.#client.addEventListener("reset", () => setMessages(() => []), { signal });
      this.#client.addEventListener("entry", ({ detail }) => take(detail.entry), { signal });
      for (const type of /** @type {const} */ (["delta", "ended"])) {
        const takeLeft = (/** @type {{detail: {entry: Entry}}} */ { detail: { entry } }) => {
          if (this.#left.has(entry.offset)) take(entry);
        };
        this.#client.addEventListener(type, takeLeft, { signal });
      }
      this.#client.entries.forEach(take);
    };
    begin().catch(() => {
      // The state of the client tells why it is closed.
    });
    return () => leaving.abort();
  }

  /** @param {string} [messageId] of a message or an answer; without it the last answer */
  #findAnswer(messageId) {
    const last = arrange(this.#client.entries).findLast(({ from }) => from === "server");
    const known = messageId === undefined ? last?.offset : this.#sent.get(messageId);
    return findAnswer(this.#client, known ?? Number(messageId?.match(/^entry-(\d+)$/)?.[1]));
  }

  /**
   * @param {Promise<{offset: number}>} asked
   * @param {AbortSignal} [signal]
   * @param {string} [messageId] of a new message
   */
  #ask(asked, signal, messageId) {
    const shown = this.#shown;
    const opening = asked.then(({ offset }) => {
      // After a reset the message is shown with the other log.
      shown.add(offset);
      if (messageId !== undefined) this.#sent.set(messageId, offset);
      const fits = messageId === undefined ? isAt(offset) : isAnswerTo(offset);
      whenAborted(signal, () => stopAnswer(this.#client, fits));
      return this.#open(fits);
    });
    const settled = opening.then(() => {}, () => {});
    this.#asked.add(settled);
    settled.finally(() => this.#asked.delete(settled));
    // A message in flight may be recorded all the same: its answer is then stopped.
    const aborted = new Promise((_, reject) => whenAborted(signal, () => reject(makeAbort())));
    return Promise.race([opening, /** @type {Promise<never>} */ (aborted)]);
  }

  /**
   * Pass on what the chat responded to approvals, and go on with the answer.
   * @param {AnyMessage} message @param {AbortSignal} [signal]
   */
  async #goOn({ parts }, signal) {
    const responses = parts.flatMap((/** @type {any} */ { state, approval }) =>
      state === "approval-responded" ? [approval] : [],
    );
    if (responses.length === 0) {
      throw new RequestError("unsupported", "no tool call of the answer has a response to its approval");
    }
    const offset = offsetOf(responses[0].id);
    const fits = isAt(offset);
    const writer = this.#left.get(offset) ?? (await this.#pass(fits));
    this.#left.delete(offset);
    whenAborted(signal, () => stopAnswer(this.#client, fits));
    try {
      for (const { id, approved, reason: note } of responses) {
        await this.#decisions.decide(id, approved, { note, signal });
      }
    } catch (error) {
      this.#left.set(offset, writer);
      // What has come meanwhile was not shown.
      for (const entry of this.#client.entries.filter(fits)) this.#followers.forEach((take) => take(entry));
      throw error;
    }
    return this.#open(fits, writer);
  }

  /**
   * Return the writer of an answer that the chat shows, though not from this transport.
   * @param {import("./answers.js").Fits} fits
   */
  async #pass(fits) {
    await catchUp(this.#client);
    const entry = this.#client.entries.find(fits);
    const writer = new ChunkWriter();
    if (entry) await toMessage(entry, writer);
    return writer;
  }

  /**
   * @param {import("./answers.js").Fits} fits
   * @param {ChunkWriter} [writer] of the chunks that the chat has
   * @returns {ReadableStream<Chunk>}
   */
  #open(fits, writer = new ChunkWriter()) {
    let leave = () => {};
    return new ReadableStream({
      start: (controller) => {
        let isOver = false;
        leave = follow(this.#client, fits, {
          next: (entry) => {
            if (isOver) return;
            const { offset, state } = entry;
            this.#shown.add(offset);
            this.#left.delete(offset);
            const chunks = writer.write(entry);
            const isLeft = this.#decisions.findAsked(entry).length > 0;
            if (isLeft) {
              chunks.push(...writer.suspend());
              this.#left.set(offset, writer);
            }
            for (const chunk of chunks) controller.enqueue(chunk);
            isOver = isLeft || state !== "streaming";
            if (!isOver) return;
            leave();
            controller.close();
          },
          fail: (error) => controller.error(error),
        });
        if (isOver) leave();
      },
      cancel: () => leave(),
    });
  }
}

/** @param {AbortSignal | undefined} signal @param {() => void} work */
function whenAborted(signal, work) {
  if (signal?.aborted) work();
  else signal?.addEventListener("abort", work, { once: true });
}

function makeAbort() {
  return new DOMException("The chat was stopped", "AbortError");
}

/** @param {SetMessages} setMessages @param {AnyMessage} message @param {number} [replaces] */
function put(setMessages, message, replaces = 0) {
  setMessages((messages) => {
    const isIts = (/** @type {AnyMessage} */ { id }) => id === message.id || id === makeId(replaces);
    const isNew = !messages.some(isIts);
    return isNew ? [...messages, message] : messages.map((one) => (isIts(one) ? keepResponses(message, one) : one));
  });
}

/**
 * Return a message with the responses to approvals that the chat has not sent yet.
 * @param {AnyMessage} message @param {AnyMessage} shown
 */
function keepResponses(message, shown) {
  const parts = message.parts.map((/** @type {any} */ part) => {
    const isIts = (/** @type {any} */ { toolCallId, state }) =>
      toolCallId === part.toolCallId && state === "approval-responded";
    return (part.state === "approval-requested" && shown.parts.find(isIts)) || part;
  });
  return { ...message, parts };
}
