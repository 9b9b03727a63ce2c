// A session as an agent of AG-UI.
//
//   const agent = new SessionAgent(client);
//   await agent.connectAgent();
//   agent.addMessage({ id: crypto.randomUUID(), role: "user", content: "Hello" });
//   await agent.runAgent();

import { AbstractAgent } from "@ag-ui/client";
import { Observable } from "rxjs";
import { EventWriter, readContent, toMessage } from "./ag_ui_events.js";
import { Decisions, arrange, catchUp, findAnswer, follow, isAnswerTo, isAt, makeMessage, makePartId, offsetOf, stopAnswer } from "./answers.js";
import { RequestError } from "./client.js";

/**
 * @typedef {import("@ag-ui/client").AgentConfig} AgentConfig
 * @typedef {import("@ag-ui/client").BaseEvent} Event
 * @typedef {import("@ag-ui/client").RunAgentInput} Input
 * @typedef {import("./ag_ui_events.js").Run} Run
 * @typedef {import("./client.js").Entry} Entry
 * @typedef {import("./client.js").SessionClient} SessionClient
 * @typedef {import("./answers.js").Fits} Fits
 */

/**
 * An agent whose thread is a session.
 *
 * runAgent() sends the messages that the session lacks, and streams the answer. A run
 * that asks for approvals ends as interrupted; `resume` decides, and the next run goes on.
 * connectAgent() adds what the agent does not show: the history, and answers to the end.
 */
export class SessionAgent extends AbstractAgent {
  #client;
  /** The offsets of what the agent shows. @type {Set<number>} */ #shown = new Set();
  /** The offsets of the messages that the session has. @type {Map<string, number>} */
  #sent = new Map();
  /** What is sent and has no ack, by the ids of the messages. @type {Map<string, Promise<{offset: number}>>} */
  #sending = new Map();
  /** The answers that a run has left. @type {Map<number, EventWriter>} */ #writers = new Map();
  /** Stops the answer of the run. */ #stop = () => {};
  #decisions;
  /** The offsets of the answers that a run has left to a person. @type {Set<number>} */
  #left = new Set();

  /** @param {SessionClient} client @param {AgentConfig} [config] */
  constructor(client, config) {
    super(config);
    this.#client = client;
    this.#decisions = new Decisions(client);
    // A runtime may drop its clones, and keep the client.
    const ref = new WeakRef(this);
    client.addEventListener("reset", () => {
      const agent = ref.deref();
      if (agent) agent.#forget();
    });
  }

  /** Forget what the former log had. */
  #forget() {
    this.#decisions = new Decisions(this.#client);
    this.#shown.clear();
    this.#sent.clear();
    this.#writers.clear();
    this.#left.clear();
  }

  /** @param {Input} input @returns {Observable<Event>} */
  run(input) {
    return this.#observe(async (subscriber) => {
      if (this.#client.state === "idle") this.#client.connect();
      let isStopped = false;
      /** @type {Fits | null} */ let fits = null;
      this.#stop = () => {
        isStopped = true;
        if (fits) stopAnswer(this.#client, fits);
      };
      subscriber.next(makeStart(input));
      const decided = await this.#decide(input);
      const last = input.messages.at(-1);
      const isNew = last?.role === "user" && !this.#sent.has(last.id);
      fits = decided === null || isNew ? await this.#ask(input) : decided;
      if (isStopped) stopAnswer(this.#client, fits);
      // connectAgent() shows the answer of a run that was left before.
      if (!subscriber.closed) await this.#pour(subscriber, fits, input);
    });
  }

  /**
   * @param {import("@ag-ui/client").RunAgentParameters} [parameters]
   * @param {import("@ag-ui/client").AgentSubscriber} [subscriber]
   */
  async runAgent(parameters, subscriber) {
    // An answer that connectAgent() shows goes on after the run.
    if (this.isRunning) await this.detachActiveRun();
    this.#forgetDecided();
    return super.runAgent(parameters, subscriber);
  }

  /**
   * Add what the agent does not show, and go on with an answer that grows.
   * @param {import("@ag-ui/client").RunAgentParameters} [parameters]
   * @param {import("@ag-ui/client").AgentSubscriber} [subscriber]
   */
  async connectAgent(parameters, subscriber) {
    this.#forgetDecided();
    return super.connectAgent(parameters, subscriber);
  }

  /** @protected @param {Input} input @returns {Observable<Event>} */
  connect(input) {
    return this.#observe(async (subscriber) => {
      await catchUp(this.#client);
      for (;;) {
        const entry = this.#findNew();
        if (entry === undefined || subscriber.closed) return;
        const run = { threadId: input.threadId, runId: `entry-${entry.offset}` };
        await this.#show(subscriber, entry, run, input);
        // The run that ends last tells what is asked.
        if (this.#left.has(entry.offset)) return;
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
      if (signal.aborted || this.isRunning) return;
      this.#forgetDecided();
      if (this.pendingInterrupts.length === 0 && this.#findNew()) await this.connectAgent();
    };
    this.#client.addEventListener("reset", () => this.setMessages([]), { signal });
    this.#client.addEventListener("entry", take, { signal });
    for (const type of /** @type {const} */ (["delta", "ended"])) {
      const takeLeft = (/** @type {{detail: {entry: Entry}}} */ { detail }) => {
        if (this.#left.has(detail.entry.offset)) void take();
      };
      this.#client.addEventListener(type, takeLeft, { signal });
    }
    const { unsubscribe } = this.subscribe({ onRunFinalized: () => void setTimeout(take) });
    signal.addEventListener("abort", unsubscribe);
    void take();
    return () => leaving.abort();
  }

  clone() {
    const cloned = Object.assign(new SessionAgent(this.#client), super.clone());
    cloned.#shown = new Set(this.#shown);
    cloned.#sent = new Map(this.#sent);
    cloned.#left = new Set(this.#left);
    return cloned;
  }

  #findNew() {
    return arrange(this.#client.entries).find((entry) => {
      const { offset } = entry;
      return this.#left.has(offset) ? this.#decisions.findAsked(entry).length === 0 : !this.#shown.has(offset);
    });
  }

  /** Drop the interrupts on which somebody has decided elsewhere, or whose answer has ended. */
  #forgetDecided() {
    const pendingInterrupts = this.pendingInterrupts.filter(({ id }) => this.#isAsked(id));
    // To the compiler an assignment would declare a field.
    Object.assign(this, { pendingInterrupts });
  }

  /** Tell whether a person has yet to decide on a tool call. @param {string} id */
  #isAsked(id) {
    return this.#client.entries.some((entry) =>
      this.#decisions.findAsked(entry).some((part) => makePartId(entry.offset, part) === id),
    );
  }

  /**
   * Pass on the answers to interrupts.
   * @param {Input} input @returns {Promise<Fits | null>} that tells the answer that goes on
   */
  async #decide({ resume = [], ...run }) {
    if (resume.length === 0) return null;
    const offset = offsetOf(resume[0].interruptId);
    const fits = isAt(offset);
    if (!this.#writers.has(offset)) {
      // The thread has what another agent showed.
      await catchUp(this.#client);
      const writer = new EventWriter(offset);
      for (const entry of this.#client.entries.filter(fits)) writer.write(entry, run);
      writer.suspend();
      this.#writers.set(offset, writer);
    }
    for (const { interruptId, status, payload } of resume) {
      const { approved, note } = payload ?? {};
      const isResolved = status === "resolved";
      if (isResolved && typeof approved !== "boolean") {
        throw new RequestError("unsupported", "an interrupt is resolved with {approved: boolean, note}");
      }
      if (isResolved || this.#isAsked(interruptId)) {
        await this.#decisions.decide(interruptId, isResolved && approved, { note });
      }
    }
    return fits;
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
      return isAt(ack.offset);
    }
    for (const message of unsent) await this.#send(message, { answer: false });
    const sent = await this.#send(last, { answer: true, metadata });
    return isAnswerTo(sent);
  }

  /**
   * @param {Input["messages"][number]} message
   * @param {import("./outbox.js").MessageOptions} options
   */
  async #send({ id, content }, options) {
    const { text, files } = readContent(content);
    // A run that was left may have sent it.
    const asked = this.#sending.get(id) ?? this.#client.request(makeMessage(text, files), options);
    this.#sending.set(id, asked);
    try {
      const { offset } = await asked;
      this.#sent.set(id, offset);
      this.#shown.add(offset);
      return offset;
    } finally {
      this.#sending.delete(id);
    }
  }

  /**
   * @param {import("rxjs").Subscriber<Event>} subscriber @param {Entry} entry
   * @param {Run} run @param {Input} input
   */
  async #show(subscriber, entry, run, input) {
    const { offset, from, state } = entry;
    if (from !== "client") {
      const fits = isAt(offset);
      this.#stop = () => stopAnswer(this.#client, fits);
      subscriber.next(makeStart(run));
      return this.#pour(subscriber, fits, { ...run, isPast: state !== "streaming" });
    }
    this.#shown.add(offset);
    const message = toMessage(entry);
    this.#sent.set(message.id, offset);
    subscriber.next(makeStart(run, { ...input, ...run, messages: [message] }));
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
      let isOver = false;
      const leave = follow(this.#client, fits, {
        next: (entry) => {
          if (isOver) return;
          const { offset, state } = entry;
          last = entry;
          this.#shown.add(offset);
          this.#left.delete(offset);
          const writer = this.#writers.get(offset) ?? new EventWriter(offset);
          this.#writers.set(offset, writer);
          const events = writer.write(entry, run);
          const asked = this.#decisions.findAsked(entry);
          if (asked.length > 0) {
            events.push(...writer.interrupt(asked, run));
            this.#left.add(offset);
          }
          isOver = asked.length > 0 || state !== "streaming";
          for (const event of events) subscriber.next(event);
          if (state !== "streaming") this.#writers.delete(offset);
          if (isOver) resolve();
        },
        fail: reject,
      });
      subscriber.add(() => {
        leave();
        if (last?.state === "streaming" && !this.#left.has(last.offset)) {
          // The next connectAgent() goes on with it.
          this.#shown.delete(last.offset);
          this.#writers.get(last.offset)?.suspend();
        }
        resolve();
      });
    });
  }

  /**
   * @param {(subscriber: import("rxjs").Subscriber<Event>) => Promise<void>} work
   * @returns {Observable<Event>}
   */
  #observe(work) {
    return new Observable((subscriber) => {
      work(subscriber)
        .catch(({ message, code }) => subscriber.next(/** @type {any} */ ({ type: "RUN_ERROR", message, code })))
        .finally(() => subscriber.complete());
    });
  }
}

/** @param {Run} run @param {Input} [input] @returns {any} */
function makeStart({ threadId, runId }, input) {
  return { type: "RUN_STARTED", threadId, runId, input };
}
