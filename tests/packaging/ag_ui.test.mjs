// Test SessionAgent with the real client of AG-UI against a live server, whose responder
// is tests.packaging.responder.Everything.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { ODD_ENTRIES, PAUSE_SECONDS, closeClients, makeClient, until } from "./chats.mjs";

const { EventType, buildResumeArray } = await import("@ag-ui/client");
const { EventSchema } = await import("@ag-ui/core/schemas");
const { SessionAgent } = await import("orchestra-websocket-client/ag-ui");
const { Bench, entry, settle } = await import(process.env.FAKES);

const by = (author) => ({ orchestra: { offset: 2, ...(author && { author }) } });
const ANSWER = [
  { id: "2-text", role: "assistant", content: "Wait. ", metadata: by() },
  { id: "2-r", role: "reasoning", content: "I look it up.", metadata: by("researcher") },
  {
    id: "2-c",
    role: "assistant",
    toolCalls: [
      {
        id: "2-c",
        type: "function",
        function: { name: "search", arguments: '{"q":"tides"}' },
        metadata: by("researcher"),
      },
    ],
  },
  { id: "2-c-result", role: "tool", toolCallId: "2-c", content: '["the moon"]', metadata: { orchestra: { state: "done" } } },
  {
    id: "2-d",
    role: "assistant",
    toolCalls: [{ id: "2-d", type: "function", function: { name: "weigh", arguments: "" }, metadata: by() }],
  },
  { id: "2-d-result", role: "tool", toolCallId: "2-d", content: "no scales", metadata: { orchestra: { state: "error" } } },
  { id: "2-text-4", role: "assistant", name: "writer", content: "The moon 🌊 does.", metadata: by("writer") },
  {
    id: "2-s",
    role: "activity",
    activityType: "source",
    content: { url: "https://example.org/tides", title: "Tides" },
    metadata: by(),
  },
  {
    id: "2-f",
    role: "activity",
    activityType: "file",
    content: { url: "https://example.org/moon.png", name: "moon.png", media_type: "image/png" },
    metadata: by(),
  },
  { id: "2-e", role: "activity", activityType: "error", content: { message: "no second source" }, metadata: by("critic") },
];
const SLOWLY = { forwardedProps: { pause_seconds: PAUSE_SECONDS } };
const plain = (value) => JSON.parse(JSON.stringify(value));

/** Return an agent of a client, whose events are recorded and held to the schemas. */
function makeAgent(client) {
  const agent = new SessionAgent(client, { threadId: "thread" });
  agent.events = [];
  agent.subscribe({ onEvent: ({ event }) => void agent.events.push(EventSchema.parse(event)) });
  return agent;
}

/** Return an agent that shows a session, as a page that is loaded. */
async function load(session, { isAwaited = true } = {}) {
  const agent = makeAgent(makeClient(session));
  const connected = agent.connectAgent();
  if (isAwaited) await connected;
  return agent;
}

let count = 0;
function ask(agent, content, options) {
  count += 1;
  agent.addMessage({ id: `question-${count}`, role: "user", content });
  return agent.runAgent(options);
}

const endOf = ({ events }) => events.findLast(({ type }) => /^RUN_(FINISHED|ERROR)$/.test(type));
const contentsOf = ({ messages }) => messages.map(({ role, content }) => [role, content]);
const textsOf = (agent) => contentsOf(agent).filter(([role]) => role === "user");
const isAmid = ({ messages }) => messages.some(({ role }) => role === "reasoning");

afterEach(closeClients);

test("a run streams an answer of all parts, and its history is the same", async () => {
  const client = makeClient();
  const agent = makeAgent(client);
  const { newMessages } = await ask(agent, "why are there tides?");
  assert.deepEqual(plain(newMessages), ANSWER);
  assert.deepEqual(endOf(agent).outcome, { type: "success" });
  assert.deepEqual(plain(endOf(agent).usage), [{ model: "m", inputTokens: 7, outputTokens: 9 }]);
  const custom = agent.events.find(({ type }) => type === EventType.CUSTOM);
  assert.deepEqual([custom.name, custom.value], ["mood", { calm: true }]);
  const other = await load(client.session);
  const [question, ...answer] = plain(other.messages);
  assert.deepEqual([question.role, question.content], ["user", "why are there tides?"]);
  assert.deepEqual(answer, ANSWER);
});

test("an answer goes on over lost connections, each part once", async () => {
  const client = makeClient();
  const agent = makeAgent(client);
  const running = ask(agent, "?", SLOWLY);
  for (const length of [2, 3, 5, 8]) {
    await until(() => agent.messages.length >= length);
    client.drop();
  }
  const { newMessages } = await running;
  assert.deepEqual(plain(newMessages), ANSWER);
});

test("a page that is loaded amid an answer shows it to its end", async () => {
  const client = makeClient();
  const first = makeAgent(client);
  void ask(first, "?", SLOWLY);
  await until(() => isAmid(first));
  const second = await load(client.session);
  assert.deepEqual(plain(second.messages.slice(1)), ANSWER);
  assert.deepEqual(endOf(second).outcome, { type: "success" });
});

test("a second tab follows the first, whose stop stops the answer for both", async () => {
  const client = makeClient();
  const first = makeAgent(client);
  await ask(first, "?");
  const second = await load(client.session);
  const leave = second.follow();
  const running = ask(first, "and why?", SLOWLY);
  await until(() => second.messages.filter(({ role }) => role === "reasoning").length === 2);
  first.abortRun();
  await running;
  assert.deepEqual(endOf(first).outcome, { type: "cancelled" });
  await until(() => !second.isRunning);
  assert.deepEqual(endOf(second).outcome, { type: "cancelled" });
  assert.deepEqual(contentsOf(second), contentsOf(first));
  leave();
  await ask(first, "unseen");
  assert.deepEqual(textsOf(second).map(([, text]) => text), ["?", "and why?"]);
});

test("a run that begins amid the answer of another tab leaves nothing out", async () => {
  const client = makeClient();
  const first = makeAgent(client);
  void ask(first, "?", SLOWLY);
  await until(() => isAmid(first));
  const second = await load(client.session, { isAwaited: false });
  second.follow();
  await until(() => isAmid(second));
  await ask(second, "mine");
  assert.deepEqual(endOf(second).outcome, { type: "success" });
  await until(() => second.messages.length === 2 + 2 * ANSWER.length && !second.isRunning);
  const answer = second.messages.filter(({ id }) => id.startsWith("2-"));
  assert.deepEqual(plain(answer), ANSWER);
});

test("a failed answer is an error of its run, and none of the history", async () => {
  const client = makeClient();
  const agent = makeAgent(client);
  await ask(agent, "fail");
  const { type, message, code } = endOf(agent);
  assert.deepEqual([type, message, code], ["RUN_ERROR", "out of luck", "error"]);
  await ask(agent, "?");
  assert.equal(endOf(agent).type, "RUN_FINISHED");
  const other = await load(client.session);
  assert.deepEqual(textsOf(other).map(([, text]) => text), ["fail", "?"]);
  const results = other.events.flatMap(({ result }) => result ?? []);
  assert.deepEqual(results, [{ state: "error", message: "out of luck" }]);
});

test("a run without a new message answers the last one anew", async () => {
  const client = makeClient();
  const agent = makeAgent(client);
  await ask(agent, "?");
  agent.setMessages(agent.messages.slice(0, 1));
  const { newMessages } = await agent.runAgent();
  const answer = JSON.parse(JSON.stringify(ANSWER).replaceAll('"2-', '"3-').replaceAll('"offset":2', '"offset":3'));
  assert.deepEqual(plain(newMessages), answer);
  const other = await load(client.session);
  assert.deepEqual(plain(other.messages.slice(1)), answer);
});

test("a message that the session refuses is an error of its run", async () => {
  const client = makeClient();
  const agent = await load("new");
  await ask(agent, "x".repeat(3_000_000));
  assert.deepEqual([endOf(agent).type, endOf(agent).code], ["RUN_ERROR", "message_too_big"]);
  agent.addMessage({ id: "a", role: "assistant", content: "not a message of the user" });
  await agent.runAgent();
  assert.equal(endOf(agent).code, "unsupported");
});

test("a clone is an agent of the same session", async () => {
  const client = makeClient();
  const agent = makeAgent(client);
  await ask(agent, "?");
  const clone = agent.clone();
  await clone.connectAgent();
  assert.deepEqual(plain(clone.messages), plain(agent.messages));
  await ask(clone, "once more");
  assert.equal(agent.messages.length, 1 + ANSWER.length);
  await agent.connectAgent();
  assert.deepEqual(contentsOf(agent), contentsOf(clone));
});

/** Answer all interrupts of an agent alike. */
function resume(agent, response, options) {
  const responses = Object.fromEntries(agent.pendingInterrupts.map(({ id }) => [id, response]));
  return agent.runAgent({ resume: buildResumeArray(agent.pendingInterrupts, responses), ...options });
}

const decide = (approved) => ({ status: "resolved", payload: { approved, note: "so be it" } });
const idsOf = ({ pendingInterrupts }) => pendingInterrupts.map(({ id }) => id);
const resultsOf = ({ messages }) => messages.filter(({ role }) => role === "tool").map(({ content }) => content);

for (const [response, state, result] of [
  [decide(true), "approved", "paid a"],
  [decide(false), "denied", "denied"],
  [{ status: "cancelled" }, "denied", "denied"],
]) {
  test(`an interrupt that is ${response.status} is ${state}, and the answer goes on`, async () => {
    const client = makeClient();
    const agent = makeAgent(client);
    await ask(agent, "pay a");
    assert.equal(endOf(agent).outcome.type, "interrupt");
    assert.deepEqual(plain(endOf(agent).usage), [{ inputTokens: 1 }]);
    const [{ id, reason, message, toolCallId, responseSchema }] = plain(agent.pendingInterrupts);
    assert.deepEqual([id, reason, message, toolCallId], ["2-a", "tool_call", "May pay run?", "2-a"]);
    assert.deepEqual(responseSchema.required, ["approved"]);
    await assert.rejects(agent.runAgent(), /pending interrupt/);
    await resume(agent, response);
    assert.deepEqual(endOf(agent).outcome, { type: "success" });
    assert.deepEqual(plain(endOf(agent).usage), [{ inputTokens: 2 }]);
    assert.deepEqual(idsOf(agent), []);
    const [, ...answer] = plain(agent.messages);
    assert.deepEqual(answer.map(({ role, content }) => [role, content]), [
      ["assistant", "May I? "],
      ["assistant", undefined],
      ["tool", result],
      ["assistant", state],
    ]);
    const note = response.payload ? { note: "so be it" } : {};
    assert.deepEqual(answer[2].metadata.orchestra.approval, { state, by: client.hello.author, ...note });
    const other = await load(client.session);
    assert.deepEqual(plain(other.messages.slice(1)), answer);
    await ask(agent, "?");
    assert.deepEqual(endOf(agent).outcome, { type: "success" });
  });
}

test("a page that is loaded while a person is asked can decide, and others go on", async () => {
  const client = makeClient();
  const first = makeAgent(client);
  await ask(first, "pay a b");
  const leave = first.follow();
  const second = await load(client.session);
  assert.deepEqual([idsOf(first), idsOf(second)], [["2-a", "2-b"], ["2-a", "2-b"]]);
  await resume(second, decide(true));
  await until(() => resultsOf(first).length === 2 && !first.isRunning);
  assert.deepEqual(idsOf(first), []);
  assert.deepEqual(contentsOf(second), contentsOf(first));
  assert.deepEqual(resultsOf(first), ["paid a", "paid b"]);
  leave();
});

test("a run with a new message abandons the question, whose answer ends before", async () => {
  const client = makeClient();
  const agent = makeAgent(client);
  await ask(agent, "pay a");
  agent.addMessage({ id: "instead", role: "user", content: "?" });
  await resume(agent, { status: "cancelled" });
  assert.equal(endOf(agent).outcome.type, "success");
  assert.equal(agent.messages.filter(({ id }) => id.startsWith("4-")).length, ANSWER.length);
  await agent.connectAgent();
  assert.equal(resultsOf(agent)[0], "denied");
});

test("a clone decides, and so does an agent of a stored thread", async () => {
  const client = makeClient();
  const agent = makeAgent(client);
  for (const offset of [2, 4]) {
    await ask(agent, "pay a");
    const stored = new SessionAgent(makeClient(client.session), { initialMessages: agent.messages });
    const other = offset === 2 ? agent.clone() : stored;
    const interruptId = `${offset}-a`;
    await other.runAgent({ resume: [{ interruptId, ...decide(true) }] });
    const answer = other.messages.filter(({ id }) => id.startsWith(`${offset}-`));
    assert.deepEqual(answer.map(({ content }) => content), ["May I? ", undefined, "paid a", "approved"]);
    await agent.connectAgent();
    assert.deepEqual(contentsOf(agent), contentsOf(other));
  }
});

test("an answer that is no decision is an error, and so is one that comes too late", async () => {
  const client = makeClient();
  const agent = makeAgent(client);
  await ask(agent, "pay a");
  await resume(agent, { status: "resolved", payload: "yes" });
  assert.deepEqual([endOf(agent).type, endOf(agent).code], ["RUN_ERROR", "unsupported"]);
  const responses = [{ interruptId: "2-a", ...decide(true) }];
  await client.deny(2, "a");
  await agent.runAgent({ resume: responses });
  assert.deepEqual([endOf(agent).type, endOf(agent).code], ["RUN_ERROR", "conflict"]);
  await until(() => client.entries.at(-1).state === "done");
  await agent.connectAgent();
  assert.deepEqual([resultsOf(agent), idsOf(agent)], [["denied"], []]);
});

test("a stop ends the question of a run that has ended", async () => {
  const agent = makeAgent(makeClient());
  agent.follow();
  await ask(agent, "pay a");
  agent.abortRun();
  await until(() => endOf(agent).outcome.type === "cancelled" && !agent.isRunning);
  assert.deepEqual(idsOf(agent), []);
  await ask(agent, "?");
  assert.equal(endOf(agent).outcome.type, "success");
});

// With a server that the test plays

const OPEN = { from: "server", state: "streaming", data: { text: "" } };

/** Return an agent that shows an answer that has begun. */
function begin(fields = {}) {
  const bench = new Bench({ page: null });
  const socket = bench.attach({ offset: 1 });
  socket.say(entry(1, { ...OPEN, ...fields }));
  const agent = makeAgent(bench.client);
  return { bench, socket, agent, connected: agent.connectAgent() };
}

test("an answer that was interrupted is an error, and ends what is open", async () => {
  const call = { id: "c", type: "tool_call", name: "pay", arguments: "{", state: "streaming" };
  const { socket, agent, connected } = begin({ data: { text: "Well" }, parts: [call], changes: 1 });
  await until(() => agent.messages.length === 2);
  socket.say({ type: "state", offset: 1, state: "interrupted" });
  await connected;
  const last = agent.events.slice(-2);
  assert.deepEqual(last.map(({ type }) => type), ["TOOL_CALL_END", "RUN_ERROR"]);
  assert.equal(last[1].code, "interrupted");
});

test("a run ends with the log of its session, and with its connection", async () => {
  for (const [code, hello, reason] of [[4202, { epoch: "e2" }, "reset"], [4003, null, "closed"]]) {
    const { bench, socket, agent, connected } = begin();
    await until(() => agent.events.length > 0);
    socket.end(code);
    if (hello) {
      bench.clock.advance(60_000);
      bench.attach(hello);
    }
    await connected;
    assert.equal(endOf(agent).code, reason);
  }
});

test("what the application appended is an activity, and files are part of a message", async () => {
  const bench = new Bench({ page: null });
  const socket = bench.attach({ offset: 2 });
  const files = [{ url: "https://host/a.png", name: "a.png", media_type: "image/png" }];
  socket.say(entry(1, { data: { text: "see", files } }));
  socket.say(entry(2, { from: "server", kind: "notice", data: [1] }));
  const agent = makeAgent(bench.client);
  await agent.connectAgent();
  const source = { type: "url", value: files[0].url, mimeType: "image/png" };
  const content = [{ type: "text", text: "see" }, { type: "image", source, metadata: { name: "a.png" } }];
  assert.deepEqual(agent.messages[0].content, content);
  const { role, activityType, content: appended } = agent.messages[1];
  assert.deepEqual([role, activityType, appended], ["activity", "entry", { kind: "notice", data: [1] }]);
  agent.setMessages([]);
  agent.addMessages([
    { id: "m", role: "user", content: "first" },
    { id: "n", role: "user", content },
  ]);
  void agent.runAgent();
  const sent = () => socket.sent.filter(({ type }) => type === "message");
  await until(() => sent().length === 1);
  socket.say({ type: "ack", id: sent()[0].id, offset: 3 });
  await until(() => sent().length === 2);
  assert.deepEqual(sent().map(({ data, answer }) => [data, answer]), [
    [{ text: "first" }, false],
    [{ text: "see", files }, true],
  ]);
});

test("a run that is left before its ack sends no message twice, and leaves its answer", async () => {
  const bench = new Bench({ page: null });
  const socket = bench.attach();
  const agent = makeAgent(bench.client);
  const sent = () => socket.sent.filter(({ type }) => type === "message");
  agent.addMessage({ id: "a", role: "user", content: "first" });
  void agent.runAgent();
  await until(() => sent().length === 1);
  agent.addMessage({ id: "b", role: "user", content: "second" });
  const running = agent.runAgent();
  await until(() => agent.isRunning);
  await settle();
  socket.say({ type: "ack", id: sent()[0].id, offset: 1 });
  socket.say(entry(1));
  socket.say(entry(2, { from: "server", data: { text: "one" } }));
  await until(() => sent().length === 2);
  socket.say({ type: "ack", id: sent()[1].id, offset: 3 });
  socket.say(entry(3));
  socket.say(entry(4, { from: "server", data: { text: "two" } }));
  await running;
  assert.deepEqual(sent().map(({ data, answer }) => [data.text, answer]), [["first", true], ["second", true]]);
  await agent.connectAgent();
  const answers = agent.messages.filter(({ role }) => role === "assistant");
  assert.deepEqual(answers.map(({ content }) => content).sort(), ["one", "two"]);
});

test("a log that was replaced is shown by an agent that follows", async () => {
  const { bench, socket, agent, connected } = begin();
  await until(() => agent.messages.length === 0 && agent.isRunning);
  agent.follow();
  socket.say({ type: "delta", offset: 1, at_char: 0, text: "old" });
  socket.say({ type: "state", offset: 1, state: "done" });
  await connected;
  assert.deepEqual(contentsOf(agent), [["assistant", "old"]]);
  socket.end(4202);
  bench.clock.advance(60_000);
  bench.attach({ epoch: "e2", outcome: "reset", offset: 2 });
  bench.socket.say(entry(1));
  bench.socket.say(entry(2, { from: "server", data: { text: "new" } }));
  await until(() => agent.messages.length === 2 && !agent.isRunning);
  assert.deepEqual(contentsOf(agent), [["user", "text 1"], ["assistant", "new"]]);
});

test("an answer that was trimmed is an error of its run, and no other is taken for it", async () => {
  const bench = new Bench({ page: null });
  const socket = bench.attach();
  const agent = makeAgent(bench.client);
  const running = ask(agent, "?");
  const sent = () => socket.sent.filter(({ type }) => type === "message");
  await until(() => sent().length === 1);
  socket.say({ type: "ack", id: sent()[0].id, offset: 1 });
  await settle();
  socket.end(4202);
  bench.clock.advance(60_000);
  bench.attach({ outcome: "gap", gap: [1, 6], offset: 8 });
  bench.socket.say(entry(7));
  bench.socket.say(entry(8, { from: "server", data: { text: "to somebody else" } }));
  await running;
  assert.deepEqual([endOf(agent).type, endOf(agent).code], ["RUN_ERROR", "gap"]);
});

for (const odd of ODD_ENTRIES) {
  test(`an entry of ${JSON.stringify(odd)} hides no other`, async () => {
    const bench = new Bench({ page: null });
    const socket = bench.attach({ offset: 2 });
    socket.say(entry(1, odd));
    socket.say(entry(2));
    const agent = makeAgent(bench.client);
    await agent.connectAgent();
    assert.deepEqual(agent.messages.map(({ role }) => role), [odd.from ? "assistant" : "user", "user"]);
  });
}
