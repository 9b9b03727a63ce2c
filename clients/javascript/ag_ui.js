// A session as an agent of AG-UI.
//
//   const agent = new SessionAgent(client);
//   await agent.connectAgent();
//   agent.addMessage({ id: crypto.randomUUID(), role: "user", content: "Hello" });
//   await agent.runAgent();

import { AbstractAgent } from "@ag-ui/client";
import { Observable } from "rxjs";
import { EventWriter, readContent, toMessage } from "./ag_ui_events.js";
import { arrange, catchUp, findAnswer, follow, isFirstAnswer, makeMessage, stopAnswer } from "./answers.js";
import { RequestError } from "./client.js";

/**
 * @typedef {import("@ag-ui/client").AgentConfig} AgentConfig
 * @typedef {import("@ag-ui/client").BaseEvent} Event
 * @typedef {import("@ag-ui/client").RunAgentInput} Input
 * @typedef {import("./ag_ui_events.js").Run} Run
 * @typedef {import("./client.js").Entry} Entry
 * @typedef {import("./client.js").SessionClient} SessionClient
 * @typedef {(entry: Entry) => boolean} Fits
 */

/**
 * An agent whose thread is a session.
 *
 * runAgent() sends the messages that the session lacks, and streams the answer.
 * connectAgent() adds what the agent does not show: the history, and answers to the end.
 */
export class SessionAgent extends AbstractAgent {
  #client;
  /** The offsets of what the agent shows. @type {Set<number>} */ #shown = new Set();
  /** The offsets of the messages that the session has. @type {Map<string, number>} */
  #sent = new Map();
  /** The answers that a run has left. @type {Map<number, EventWriter>} */ #writers = new Map();
  /** Stops the answer of the run. */ #stop = () => {};

  /** @param {SessionClient} client @param {AgentConfig} [config] */
  constructor(client, config) {
    super(config);
    this.#client = client;
  }

  /** @param {Input} input @returns {Observable<Event>} */
  run(input) {
    return this.#observe(input, async (subscriber) => {
      if (this.#client.state === "idle") this.#client.connect();
      let isStopped = false;
      /** @type {Fits | null} */ let fits = null;
      this.#stop = () => {
        isStopped = true;
        if (fits) stopAnswer(this.#client, fits);
      };
      subscriber.next(makeStart(input, input.runId));
      fits = await this.#ask(input);
      if (isStopped) stopAnswer(this.#client, fits);
      await this.#pour(subscriber, fits, input);
    });
  }

  /**
   * @param {import("@ag-ui/client").RunAgentParameters} [parameters]
   * @param {import("@ag-ui/client").AgentSubscriber} [subscriber]
   */
  async runAgent(parameters, subscriber) {
    // An answer that connectAgent() shows goes on after the run.
    if (this.isRunning) await this.detachActiveRun();
    return super.runAgent(parameters, subscriber);
  }

  /** @protected @param {Input} input @returns {Observable<Event>} */
  connect(input) {
    return this.#observe(input, async (subscriber) => {
      await catchUp(this.#client);
      for (;;) {
        const entry = this.#findNew();
        if (entry === undefined || subscriber.closed) return;
        const run = { threadId: input.threadId, runId: `entry-${entry.offset}` };
        await this.#show(subscriber, entry, run, input);
      }
    });
  }

  /** Stop the answer of the run, for everyone. */
  abortRun() {
    this.#stop();
  }

  /**
   * Add what the agent does not show as it comes: messages and answers of other tabs and
   * people. The returned function stops that.
   * @returns {() => void}
   */
  follow() {
    const leaving = new AbortController();
    const { signal } = leaving;
    const take = async () => {
      // The run of another message has to end before.
      await null;
      if (!signal.aborted && !this.isRunning && this.#findNew()) await this.connectAgent();
    };
    this.#client.addEventListener("entry", take, { signal });
    const { unsubscribe } = this.subscribe({ onRunFinalized: () => void setTimeout(take) });
    signal.addEventListener("abort", unsubscribe);
    void take();
    return () => leaving.abort();
  }

  clone() {
    const cloned = Object.assign(new SessionAgent(this.#client), super.clone());
    cloned.#shown = new Set(this.#shown);
    cloned.#sent = new Map(this.#sent);
    return cloned;
  }

  #findNew() {
    return arrange(this.#client.entries).find(({ offset }) => !this.#shown.has(offset));
  }

  /**
   * Send the user's messages that the session lacks, or else ask for the last answer anew.
   * @param {Input} input @returns {Promise<Fits>} that tells the answer
   */
  async #ask({ messages, forwardedProps }) {
    const metadata = forwardedProps;
    const from = messages.findLastIndex(({ role }) => role !== "user") + 1;
    const unsent = messages.slice(from).filter(({ id }) => !this.#sent.has(id));
    const last = unsent.pop();
    if (last === undefined) {
      const known = this.#sent.get(messages.at(-1)?.id ?? "");
      if (known === undefined || from === messages.length) {
        throw new RequestError("unsupported", "a run begins with a message of the user");
      }
      const { offset } = findAnswer(this.#client, known);
      const ack = await this.#client.regenerate(offset, { metadata });
      return (entry) => entry.offset === ack.offset;
    }
    for (const message of unsent) await this.#send(message, { answer: false });
    const sent = await this.#send(last, { answer: true, metadata });
    return (entry) => isFirstAnswer(entry) && entry.offset > sent;
  }

  /**
   * @param {Input["messages"][number]} message
   * @param {import("./outbox.js").MessageOptions} options
   */
  async #send({ id, content }, options) {
    const { text, files } = readContent(content);
    const { offset } = await this.#client.request(makeMessage(text, files), options);
    this.#sent.set(id, offset);
    this.#shown.add(offset);
    return offset;
  }

  /**
   * @param {import("rxjs").Subscriber<Event>} subscriber @param {Entry} entry
   * @param {Run} run @param {Input} input
   */
  async #show(subscriber, entry, run, input) {
    const { offset, from, state } = entry;
    if (from !== "client") {
      const fits = (/** @type {Entry} */ one) => one.offset === offset;
      this.#stop = () => stopAnswer(this.#client, fits);
      subscriber.next(makeStart(run, run.runId));
      return this.#pour(subscriber, fits, { ...run, isPast: state !== "streaming" });
    }
    this.#shown.add(offset);
    const message = toMessage(entry);
    this.#sent.set(message.id, offset);
    subscriber.next(makeStart(run, run.runId, { ...input, ...run, messages: [message] }));
    subscriber.next(/** @type {any} */ ({ type: "RUN_FINISHED", ...run }));
  }

  /**
   * Pass on an answer to its end, or until the subscriber leaves.
   * @param {import("rxjs").Subscriber<Event>} subscriber @param {Fits} fits @param {Run} run
   * @returns {Promise<void>}
   */
  #pour(subscriber, fits, run) {
    return new Promise((resolve, reject) => {
      /** @type {Entry | null} */ let last = null;
      const leave = follow(this.#client, fits, {
        next: (entry) => {
          const { offset, state } = entry;
          last = entry;
          this.#shown.add(offset);
          const writer = this.#writers.get(offset) ?? new EventWriter(offset);
          this.#writers.set(offset, writer);
          for (const event of writer.write(entry, run)) subscriber.next(event);
          if (state === "streaming") return;
          this.#writers.delete(offset);
          resolve();
        },
        fail: reject,
      });
      subscriber.add(() => {
        leave();
        if (last?.state === "streaming") {
          // The next connectAgent() goes on with it.
          this.#shown.delete(last.offset);
          this.#writers.get(last.offset)?.suspend();
        }
        resolve();
      });
    });
  }

  /**
   * @param {Input} input
   * @param {(subscriber: import("rxjs").Subscriber<Event>) => Promise<void>} work
   * @returns {Observable<Event>}
   */
  #observe(input, work) {
    return new Observable((subscriber) => {
      work(subscriber)
        .catch(({ message, code }) => subscriber.next(/** @type {any} */ ({ type: "RUN_ERROR", message, code })))
        .finally(() => subscriber.complete());
    });
  }
}

/** @param {Run} run @param {string} runId @param {Input} [input] @returns {any} */
function makeStart({ threadId }, runId, input) {
  return { type: "RUN_STARTED", threadId, runId, input };
}
