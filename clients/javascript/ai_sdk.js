// A session as the transport of a chat of the AI SDK.
//
//   const transport = new SessionTransport(client);
//   const chat = useChat({ transport, messages: await transport.messages(), resume: true });

import { readUIMessageStream } from "ai";
import { ChunkWriter, makeId, toData, toMessage } from "./ai_sdk_chunks.js";
import { arrange, catchUp, findAnswer, follow, isFirstAnswer, stopAnswer } from "./answers.js";
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
 * A stop of the chat stops the answer for everyone. An answer goes on when its reader
 * goes away, over any loss of the connection.
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

  /** @param {SessionClient} client whose session the chat shows */
  constructor(client) {
    this.#client = client;
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
    return Promise.all(ended.map(toMessage));
  }

  /**
   * Send the last message of the chat, or ask for an answer anew; return the answer.
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
    const message = messages.at(-1);
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
    const fits = (/** @type {Entry} */ { offset }) => offset === found.offset;
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
      if (signal.aborted || this.#shown.has(offset)) return;
      this.#shown.add(offset);
      const entry = this.#client.entries.find((one) => one.offset === offset);
      if (entry === undefined) return;
      if (entry.state === "streaming") void grow(entry);
      else put(setMessages, await toMessage(entry), entry.replaces);
    };
    const grow = async (/** @type {Entry} */ { offset, replaces }) => {
      const stream = this.#open((one) => one.offset === offset);
      for await (const message of readUIMessageStream({ stream })) {
        if (signal.aborted) return;
        put(setMessages, message, replaces);
      }
    };
    const begin = async () => {
      await catchUp(this.#client);
      if (signal.aborted) return;
      let shown = Promise.resolve();
      const take = (/** @type {Entry} */ entry) => {
        shown = shown.then(() => show(entry));
      };
      this.#client.addEventListener("entry", ({ detail }) => take(detail.entry), { signal });
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
    const opening = asked.then(({ offset }) => {
      this.#shown.add(offset);
      if (messageId !== undefined) this.#sent.set(messageId, offset);
      const fits = (/** @type {Entry} */ entry) =>
        messageId === undefined ? entry.offset === offset : isFirstAnswer(entry) && entry.offset > offset;
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

  /** @param {(entry: Entry) => boolean} fits @returns {ReadableStream<Chunk>} */
  #open(fits) {
    const writer = new ChunkWriter();
    let leave = () => {};
    return new ReadableStream({
      start: (controller) => {
        leave = follow(this.#client, fits, {
          next: (entry) => {
            this.#shown.add(entry.offset);
            for (const chunk of writer.write(entry)) controller.enqueue(chunk);
            if (entry.state !== "streaming") controller.close();
          },
          fail: (error) => controller.error(error),
        });
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
    return isNew ? [...messages, message] : messages.map((one) => (isIts(one) ? message : one));
  });
}
