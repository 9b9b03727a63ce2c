// Test SessionTransport with the real AI SDK and React against a live server, whose
// responder is tests.packaging.responder.Everything.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { ODD_ENTRIES, PAUSE_SECONDS, closeClients, makeClient, until, window } from "./chats.mjs";

const { StrictMode, act, createElement, useEffect } = await import("react");
const { createRoot } = await import("react-dom/client");
const { lastAssistantMessageIsCompleteWithApprovalResponses: isAnswered } = await import("ai");
const { Chat, useChat } = await import("@ai-sdk/react");
const { SessionTransport } = await import("orchestra-websocket-client/ai-sdk");
const { Bench, entry, settle } = await import(process.env.FAKES);

const by = (author) => ({ orchestra: { author } });
const PARTS = [
  { type: "text", text: "Wait. ", state: "done" },
  { type: "reasoning", id: "r", text: "I look it up.", providerMetadata: by("researcher"), state: "done" },
  {
    type: "tool-search",
    toolCallId: "2-c",
    state: "output-available",
    input: { q: "tides" },
    output: ["the moon"],
    providerExecuted: true,
    callProviderMetadata: by("researcher"),
  },
  {
    type: "tool-weigh",
    toolCallId: "2-d",
    state: "output-error",
    input: {},
    errorText: "no scales",
    providerExecuted: true,
  },
  { type: "text", text: "The moon 🌊 does.", providerMetadata: by("writer"), state: "done" },
  { type: "source-url", sourceId: "s", url: "https://example.org/tides", title: "Tides" },
  {
    type: "file",
    url: "https://example.org/moon.png",
    mediaType: "image/png",
    providerMetadata: { orchestra: { name: "moon.png" } },
  },
  { type: "data-error", id: "e", data: { message: "no second source", author: "critic" } },
  { type: "data-mood", id: "k", data: { calm: true } },
];
const USAGE = { id: "u", type: "usage", author: "writer", input_tokens: 7, output_tokens: 9, model: "m" };
const SLOWLY = { body: { pause_seconds: PAUSE_SECONDS } };

/** Leave out what is undefined, as JSON does. */
const plain = (value) => JSON.parse(JSON.stringify(value));

/** A page with a chat; `chat` is what useChat() returned last. */
class Page {
  chat = null;

  constructor(client) {
    this.client = client;
    this.transport = new SessionTransport(client);
  }

  /** Show the session, as a page that is loaded. */
  async show({ sendAutomaticallyWhen = isAnswered } = {}) {
    const { transport } = this;
    const chat = new Chat({ transport, messages: await transport.messages(), sendAutomaticallyWhen });
    this.View = () => {
      this.chat = useChat({ chat, resume: true });
      const { setMessages } = this.chat;
      useEffect(() => transport.follow(setMessages), [setMessages]);
    };
    await this.mount();
    return this;
  }

  async mount() {
    this.root = createRoot(window.document.createElement("div"));
    await act(async () => this.root.render(createElement(StrictMode, null, createElement(this.View))));
  }

  async unmount() {
    await act(async () => this.root.unmount());
  }

  send(text, options) {
    return act(async () => void this.chat.sendMessage({ text }, options));
  }

  get answer() {
    return this.chat.messages.at(-1);
  }

  get isReady() {
    return this.chat.status === "ready";
  }

  /** Tell whether the chat has been asked for approvals, and can respond. */
  get isAsked() {
    return this.isReady && this.statesOf("approval-requested").length > 0;
  }

  /** Respond to the approvals of some calls of the last answer. */
  async respond(approved, ...calls) {
    for (const call of calls) {
      const response = { id: `${this.answer.metadata.offset}-${call}`, approved, reason: "so be it" };
      await act(() => this.chat.addToolApprovalResponse(response));
    }
  }

  /** The tool calls of the last answer, all or those in a state. */
  statesOf(wanted) {
    const calls = this.answer?.parts.filter(({ type }) => type.startsWith("tool-")) ?? [];
    return calls.map(({ state }) => state).filter((state) => wanted === undefined || state === wanted);
  }

  /** Tell whether an answer has begun to show something. */
  get isAmid() {
    return this.answer?.role === "assistant" && this.answer.parts.length > 1;
  }

  checkAnswer(state = "done") {
    assert.equal(this.answer.metadata.state, state);
    assert.deepEqual(plain(this.answer.parts), PARTS);
    assert.deepEqual(this.answer.metadata.usage, [USAGE]);
  }
}

let pages;
async function load(session, options) {
  const page = await new Page(makeClient(session)).show(options);
  pages.push(page);
  return page;
}

beforeEach(() => {
  pages = [];
});

afterEach(async () => {
  for (const page of pages) await page.unmount();
  closeClients();
});

test("a chat shows an answer of all parts, and its history is the same", async () => {
  const page = await load();
  assert.deepEqual(page.chat.messages, []);
  await page.send("why are there tides?");
  await until(() => page.isReady);
  assert.deepEqual(page.chat.messages.map(({ role }) => role), ["user", "assistant"]);
  page.checkAnswer();
  const [question, answer] = await new SessionTransport(page.client).messages();
  assert.deepEqual(question.parts, [{ type: "text", text: "why are there tides?" }]);
  assert.deepEqual(plain(answer), plain(page.answer));
});

test("an answer goes on over lost connections, each part once", async () => {
  const page = await load();
  await page.send("?", SLOWLY);
  for (const length of [1, 2, 4, 6]) {
    await until(() => page.answer.role === "assistant" && page.answer.parts.length >= length);
    page.client.drop();
  }
  await until(() => page.isReady);
  page.checkAnswer();
});

test("a page that is loaded amid an answer resumes it", async () => {
  const first = await load();
  await first.send("?", SLOWLY);
  await until(() => first.isAmid);
  first.client.close();
  const second = await load(first.client.session);
  await until(() => second.isAmid);
  assert.equal(second.chat.status, "streaming");
  await until(() => second.isReady);
  assert.equal(second.chat.messages.length, 2);
  second.checkAnswer();
});

test("a view that is unmounted stops nothing, and shows the answer when it is back", async () => {
  const page = await load();
  await page.send("?", SLOWLY);
  await until(() => page.isAmid);
  await page.unmount();
  await page.mount();
  await until(() => page.isReady);
  page.checkAnswer();
  assert.equal(page.chat.messages.length, 2);
});

test("a second tab shows what the first asks, and a stop stops it for both", async () => {
  const first = await load();
  await first.send("?");
  await until(() => first.isReady);
  const second = await load(first.client.session);
  assert.deepEqual(second.chat.messages.length, 2);
  await first.send("and why?", SLOWLY);
  await until(() => second.chat.messages.length === 4 && second.isAmid);
  await act(() => first.chat.stop());
  await until(() => second.answer.metadata.state === "cancelled");
  assert.deepEqual(second.chat.messages[2].parts, [{ type: "text", text: "and why?" }]);
  assert.equal(first.chat.status, "ready");
  assert.equal(first.chat.messages.length, 4);
  await second.send("once more");
  await until(() => second.isReady && first.chat.messages.length === 6 && first.answer.metadata.state === "done");
  assert.equal(second.chat.messages.length, 6);
  assert.deepEqual(plain(first.answer.parts), plain(second.answer.parts));
});

test("a stop after a resume stops the answer", async () => {
  const first = await load();
  await first.send("?", SLOWLY);
  await until(() => first.isAmid);
  const second = await load(first.client.session);
  await until(() => second.isAmid);
  await act(() => second.chat.stop());
  await until(() => first.isReady);
  assert.equal(first.answer.metadata.state, "cancelled");
});

test("a failed answer is an error of the chat, and the next one is none", async () => {
  const page = await load();
  await page.send("fail");
  await until(() => page.chat.status === "error");
  assert.equal(page.chat.error.message, "out of luck");
  page.checkAnswer("error");
  await page.send("?");
  await until(() => page.isReady);
  assert.equal(page.chat.messages.length, 4);
  const history = await new SessionTransport(page.client).messages();
  assert.deepEqual(history.map(({ metadata }) => metadata.state), ["done", "error", "done", "done"]);
});

test("an answer that is regenerated stands in its place, in a second tab too", async () => {
  const first = await load();
  await first.send("?");
  await until(() => first.isReady);
  const second = await load(first.client.session);
  for (const [id, messageId] of [["entry-3", undefined], ["entry-4", "entry-3"]]) {
    await act(async () => void first.chat.regenerate({ messageId }));
    await until(() => first.isReady && first.answer.id === id);
    await until(() => second.answer.id === id && second.answer.metadata.state === "done");
    const history = await new SessionTransport(first.client).messages();
    for (const messages of [first.chat.messages, second.chat.messages, history]) {
      assert.equal(messages.length, 2);
      const parts = JSON.parse(JSON.stringify(PARTS).replaceAll('"2-', `"${id.slice(-1)}-`));
      assert.deepEqual(plain(messages[1].parts), parts);
    }
  }
  await act(async () => void first.chat.regenerate({ messageId: first.chat.messages[0].id }));
  await until(() => first.isReady && first.answer.id === "entry-5");
});

test("a message that the session refuses is an error of the chat", async () => {
  const page = await load();
  await until(() => page.client.state === "open");
  await page.send("x".repeat(3_000_000));
  await until(() => page.chat.status === "error");
  assert.equal(page.chat.error.code, "message_too_big");
});

/** The parts of an answer to "pay a", once it is approved or denied. */
function makePaid(approved, offset = 2) {
  const approval = { id: `${offset}-a`, approved, reason: "so be it" };
  const call = { type: "tool-pay", toolCallId: `${offset}-a`, input: { to: "a" }, providerExecuted: true, approval };
  return [
    { type: "text", text: "May I? ", state: "done" },
    approved ? { ...call, state: "output-available", output: "paid a" } : { ...call, state: "output-denied" },
    { type: "text", text: approved ? "approved" : "denied", state: "done" },
  ];
}

for (const approved of [true, false]) {
  test(`addToolApprovalResponse() ${approved ? "approves" : "denies"} a call, and the answer goes on`, async () => {
    const page = await load();
    await page.send("pay a");
    await until(() => page.isAsked);
    await page.respond(approved, "a");
    await until(() => page.isReady && page.answer.metadata.state === "done");
    assert.deepEqual(plain(page.answer.parts), makePaid(approved));
    assert.equal(page.chat.messages.length, 2);
    const [, { parts }] = await new SessionTransport(page.client).messages();
    assert.deepEqual(plain(parts), makePaid(approved));
    await page.send("?");
    await until(() => page.isReady && page.answer.metadata.offset === 4);
  });
}

test("calls that are asked about at once wait for all responses", async () => {
  const page = await load();
  await page.send("pay a b");
  await until(() => page.isAsked);
  assert.deepEqual(page.statesOf(), ["approval-requested", "approval-requested"]);
  await page.respond(false, "a");
  assert.ok(page.isReady);
  await page.respond(true, "b");
  await until(() => page.isReady && page.answer.metadata.state === "done");
  assert.deepEqual(page.statesOf(), ["output-denied", "output-available"]);
  assert.equal(page.answer.parts.at(-1).text, "denied, approved");
});

test("responses can be sent one by one, and without sendAutomaticallyWhen", async () => {
  const page = await load(undefined, { sendAutomaticallyWhen: null });
  await page.send("pay a b");
  await until(() => page.isAsked);
  for (const call of ["a", "b"]) {
    await page.respond(true, call);
    await act(async () => void page.chat.sendMessage());
  }
  await until(() => page.isReady && page.answer.metadata.state === "done");
  assert.deepEqual(page.statesOf(), ["output-available", "output-available"]);
});

test("a page that is loaded while a person is asked can respond, and others see it", async () => {
  const first = await load();
  await first.send("pay a");
  await until(() => first.isAsked);
  const second = await load(first.client.session);
  await until(() => second.isAsked);
  await second.respond(true, "a");
  for (const page of [second, first]) {
    await until(() => page.isReady && page.answer.metadata.state === "done");
    assert.deepEqual(plain(page.answer.parts), makePaid(true));
    assert.equal(page.chat.messages.length, 2);
  }
});

test("a chat whose message came from elsewhere responds too", async () => {
  const first = await load();
  await first.send("pay a");
  await until(() => first.isAsked);
  const client = makeClient(first.client.session);
  const messages = plain(first.chat.messages);
  messages[1].parts[1] = { ...messages[1].parts[1], state: "approval-responded", approval: { id: "2-a", approved: true } };
  const stream = await new SessionTransport(client).sendMessages({ trigger: "submit-message", messages, messageId: "entry-2" });
  const types = await readTypes(stream.getReader());
  assert.deepEqual(types.slice(0, 2), ["tool-approval-response", "tool-input-available"]);
  assert.deepEqual(types.slice(-2), ["message-metadata", "finish"]);
});

test("a stop ends the question, and a decision of somebody else is an error of the chat", async () => {
  const page = await load();
  await page.send("pay a");
  await until(() => page.isAsked);
  page.client.cancel(2);
  await until(() => page.answer.metadata.state === "cancelled");
  assert.deepEqual(page.statesOf(), ["output-error"]);
  await page.send("pay b");
  await until(() => page.isAsked && page.answer.metadata.offset === 4);
  const decided = page.client.deny(4, "b");
  await page.respond(true, "b");
  await decided;
  await until(() => page.chat.status === "error");
  assert.equal(page.chat.error.code, "conflict");
  await until(() => page.answer.metadata.state === "done");
  assert.deepEqual(page.statesOf(), ["output-denied"]);
});

// With a server that the test plays


const ANSWER = { from: "server", state: "streaming", data: { text: "" } };

/** Return a transport whose answer has begun, and the chunks of the answer. */
async function begin(fields = {}) {
  const bench = new Bench({ page: null });
  const socket = bench.attach({ offset: 2 });
  socket.say(entry(1));
  socket.say(entry(2, { ...ANSWER, ...fields }));
  const transport = new SessionTransport(bench.client);
  const stream = await transport.reconnectToStream();
  return { bench, socket, transport, reader: stream.getReader() };
}

async function readTypes(reader) {
  const types = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return types;
    types.push(value.type);
  }
}

test("an answer that was interrupted ends in an error", async () => {
  const { socket, reader } = await begin();
  socket.say({ type: "state", offset: 2, state: "interrupted" });
  assert.deepEqual(await readTypes(reader), ["start", "message-metadata", "error"]);
});

test("a stream ends when its answer waits for nothing but approvals", async () => {
  const call = (id, state) => ({ id, type: "tool_call", name: "pay", arguments: "{}", state });
  const fields = { parts: [call("a", "awaiting_approval"), call("b", "running")], changes: 2 };
  const { bench, socket, transport, reader } = await begin(fields);
  const parts = [{ id: "b", state: "awaiting_approval" }];
  socket.say({ type: "delta", offset: 2, at_change: 2, parts });
  const begun = ["tool-input-start", "tool-input-delta", "tool-input-available"];
  const asked = "tool-approval-request";
  assert.deepEqual((await readTypes(reader)).slice(1), [...begun, asked, ...begun, asked, "finish"]);
  const respond = (id, approved) => ({ type: "tool-pay", state: "approval-responded", approval: { id, approved } });
  const message = { id: "entry-2", role: "assistant", parts: [respond("2-a", true), respond("2-b", false)] };
  const opening = transport.sendMessages({ trigger: "submit-message", messages: [message], messageId: message.id });
  const sent = () => socket.sent.filter(({ type }) => ["approve", "deny"].includes(type));
  for (const [index, type, part] of [[0, "approve", "a"], [1, "deny", "b"]]) {
    await until(() => sent().length > index);
    assert.deepEqual([sent()[index].type, sent()[index].offset, sent()[index].part], [type, 2, part]);
    socket.say({ type: "ack", id: sent()[index].id, offset: 2 });
  }
  const rest = (await opening).getReader();
  const outcomes = [{ id: "a", state: "running" }, { id: "b", state: "denied" }];
  socket.say({ type: "delta", offset: 2, at_change: 3, parts: outcomes });
  socket.say({ type: "state", offset: 2, state: "done" });
  const types = ["tool-input-available", "tool-output-denied", "message-metadata", "finish"];
  assert.deepEqual(await readTypes(rest), types);
  const again = { ...message, parts: [] };
  await assert.rejects(transport.sendMessages({ trigger: "submit-message", messages: [again] }), { code: "unsupported" });
  assert.equal(bench.client.state, "open");
});

test("what others decide is shown, and a response that is not sent yet is kept", async () => {
  const call = (id) => ({ id, type: "tool_call", name: "pay", arguments: "{}", state: "awaiting_approval" });
  const { socket, transport, reader } = await begin({ parts: [call("a"), call("b")], changes: 2 });
  await readTypes(reader);
  const respond = (id) => ({ type: "tool-pay", toolCallId: id, state: "approval-responded", approval: { id, approved: true } });
  let shown = [{ id: "entry-2", role: "assistant", parts: [respond("2-a")] }];
  const leave = transport.follow((update) => {
    shown = update(shown);
  });
  const statesOf = () => shown.find(({ id }) => id === "entry-2").parts.map(({ state }) => state);
  const deny = (id) => ({ id, state: "denied", approval: { state: "denied" } });
  socket.say({ type: "delta", offset: 2, at_change: 2, parts: [deny("b")] });
  await until(() => statesOf().length === 2);
  assert.deepEqual(statesOf(), ["approval-responded", "output-denied"]);
  const messages = shown.filter(({ role }) => role === "assistant");
  const deciding = transport.sendMessages({ trigger: "submit-message", messages, messageId: "entry-2" });
  const sent = () => socket.sent.filter(({ type }) => type === "approve");
  await until(() => sent().length === 1);
  socket.say({ type: "delta", offset: 2, at_change: 3, parts: [deny("a")] });
  socket.say({ type: "state", offset: 2, state: "done" });
  await settle();
  socket.say({ type: "error", id: sent()[0].id, code: "conflict", message: "it was denied" });
  await assert.rejects(deciding, { code: "conflict" });
  await until(() => statesOf()[0] === "output-denied");
  leave();
});

test("another producer goes on with what it finds, and may not take back text", async () => {
  const { socket, reader } = await begin({ data: { text: "one two" } });
  socket.say(entry(2, { ...ANSWER, data: { text: "one" } }));
  socket.say({ type: "delta", offset: 2, at_char: 3, text: " two three" });
  const texts = [];
  while (texts.length < 2) {
    const { value } = await reader.read();
    if (value.type === "text-delta") texts.push(value.delta);
  }
  assert.deepEqual(texts, ["one two", " three"]);
  socket.say(entry(2, { ...ANSWER, data: { text: "once" } }));
  await assert.rejects(reader.read(), { code: "replaced" });
});

test("an answer ends with its log, and with its connection", async () => {
  const first = await begin();
  await first.reader.read();
  first.socket.end(4202);
  first.bench.clock.advance(60_000);
  first.bench.attach({ epoch: "e2" });
  await assert.rejects(first.reader.read(), { code: "reset" });
  const second = await begin();
  await second.reader.read();
  second.socket.end(4003);
  await assert.rejects(second.reader.read(), { code: "closed" });
  await assert.rejects(second.transport.messages(), { code: "closed" });
});

test("what the application appended is kept as it is", async () => {
  const bench = new Bench({ page: null });
  const socket = bench.attach({ offset: 2 });
  socket.say(entry(1, { data: [1] }));
  socket.say(entry(2, { from: "server", kind: "notice", data: { text: "closed" } }));
  const [first, second] = await new SessionTransport(bench.client).messages();
  assert.deepEqual(first.parts, [{ type: "data-entry", data: [1] }]);
  assert.equal(second.metadata.kind, "notice");
  assert.deepEqual(plain(second.parts), [{ type: "text", text: "closed", state: "done" }]);
});

test("a session whose entries were all deleted has an empty history", async () => {
  const bench = new Bench({ page: null });
  bench.attach({ offset: 7, outcome: "nothing_missed" });
  assert.deepEqual(await new SessionTransport(bench.client).messages(), []);
});

test("a chat that is stopped before the ack has its answer stopped", async () => {
  const bench = new Bench({ page: null });
  const socket = bench.attach();
  const stopping = new AbortController();
  const messages = [{ id: "m", role: "user", parts: [{ type: "text", text: "hi" }] }];
  const transport = new SessionTransport(bench.client);
  const options = { trigger: "submit-message", messages, abortSignal: stopping.signal };
  const asked = transport.sendMessages(options);
  const [sent] = socket.sent.filter(({ type }) => type === "message");
  assert.deepEqual([sent.data, sent.answer], [{ text: "hi" }, true]);
  stopping.abort();
  await assert.rejects(asked, { name: "AbortError" });
  socket.say({ type: "ack", id: sent.id, offset: 1 });
  await settle();
  socket.say(entry(1));
  socket.say(entry(2, ANSWER));
  const cancels = socket.sent.filter(({ type }) => type === "cancel");
  assert.deepEqual(cancels.map(({ offset }) => offset), [2]);
});

test("files of a message are part of it, and no message is edited", async () => {
  const bench = new Bench({ page: null });
  const socket = bench.attach();
  const transport = new SessionTransport(bench.client);
  const file = { type: "file", url: "https://host/a.png", filename: "a.png", mediaType: "image/png" };
  const messages = [{ id: "m", role: "user", parts: [file, { type: "text", text: "see" }] }];
  void transport.sendMessages({ trigger: "submit-message", messages });
  const [{ id, data }] = socket.sent.filter(({ type }) => type === "message");
  const files = [{ url: file.url, name: "a.png", media_type: "image/png" }];
  assert.deepEqual(data, { text: "see", files });
  socket.say({ type: "ack", id, offset: 1 });
  socket.say(entry(1, { data }));
  const [message] = await transport.messages();
  assert.deepEqual(message.parts, messages[0].parts);
  const edit = transport.sendMessages({ trigger: "submit-message", messages, messageId: "m" });
  await assert.rejects(edit, { code: "unsupported" });
});

for (const odd of ODD_ENTRIES) {
  test(`an entry of ${JSON.stringify(odd)} hides no other`, async () => {
    const bench = new Bench({ page: null });
    const socket = bench.attach({ offset: 2 });
    socket.say(entry(1, odd));
    socket.say(entry(2));
    const roles = [odd.from ? "assistant" : "user", "user"];
    const messages = await new SessionTransport(bench.client).messages();
    assert.deepEqual(messages.map(({ role }) => role), roles);
    const types = messages[0].parts.map(({ type }) => type);
    assert.equal(types.includes("file"), JSON.stringify(odd).includes("https"));
    assert.equal(types.includes("data-custom"), odd.from === "server");
    let shown = [];
    const leave = new SessionTransport(bench.client).follow((update) => {
      shown = update(shown);
    });
    await until(() => shown.length === 2);
    assert.deepEqual(shown.map(({ role }) => role), roles);
    leave();
  });
}

test("an entry that a chat does not take hides no other", async () => {
  const bench = new Bench({ page: null });
  const socket = bench.attach({ offset: 2 });
  socket.say(entry(1));
  socket.say(entry(2));
  const shown = [];
  const leave = new SessionTransport(bench.client).follow((update) => {
    const [{ id }] = update([]);
    if (id === "entry-1") throw new Error("no room");
    shown.push(id);
  });
  await until(() => shown.length > 0);
  assert.deepEqual(shown, ["entry-2"]);
  leave();
});

test("a log that was replaced is shown by a chat that follows", async () => {
  const { bench, socket, transport } = await begin();
  let shown = await transport.messages();
  const leave = transport.follow((update) => {
    shown = update(shown);
  });
  await settle();
  const messages = [{ id: "m", role: "user", parts: [{ type: "text", text: "hi" }] }];
  const asked = transport.sendMessages({ trigger: "submit-message", messages });
  const { id } = socket.sent.find(({ type }) => type === "message");
  socket.end(4202);
  bench.clock.advance(60_000);
  bench.attach({ epoch: "e2", outcome: "reset", offset: 2 });
  bench.socket.say(entry(1));
  bench.socket.say(entry(2, { from: "server", data: { text: "new" } }));
  bench.socket.say({ type: "ack", id, offset: 3 });
  bench.socket.say(entry(3));
  const textsOf = () => shown.map(({ parts }) => parts.map(({ text }) => text).join());
  await until(() => shown.length === 3);
  assert.deepEqual(textsOf(), ["text 1", "new", "text 3"]);
  bench.socket.say(entry(4, ANSWER));
  await asked;
  leave();
});

test("an answer that was trimmed is an error, and no other is taken for it", async () => {
  const bench = new Bench({ page: null });
  const first = bench.attach();
  const transport = new SessionTransport(bench.client);
  const messages = [{ id: "m", role: "user", parts: [{ type: "text", text: "hi" }] }];
  const ask = () => transport.sendMessages({ trigger: "submit-message", messages });
  const sent = (socket) => socket.sent.filter(({ type }) => type === "message");
  const acked = ask();
  first.say({ type: "ack", id: sent(first)[0].id, offset: 1 });
  const reader = (await acked).getReader();
  const unacked = ask();
  first.end(4202);
  bench.clock.advance(60_000);
  const second = bench.attach({ outcome: "gap", gap: [1, 6], offset: 8 });
  second.say(entry(7));
  second.say(entry(8, { from: "server", data: { text: "to somebody else" } }));
  await assert.rejects(reader.read(), { code: "gap" });
  // It was recorded before the connection was lost.
  second.say({ type: "ack", id: sent(second)[0].id, offset: 3 });
  await assert.rejects((await unacked).getReader().read(), { code: "gap" });
  const own = ask();
  second.say({ type: "ack", id: sent(second)[1].id, offset: 9 });
  second.say(entry(9));
  second.say(entry(10, { from: "server", data: { text: "to me" } }));
  assert.equal((await readTypes((await own).getReader())).at(-1), "finish");
});
