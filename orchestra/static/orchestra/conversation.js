// The demonstration: one session, its transcript, and what happens to its socket.

import { SessionClient, textOf } from "../connections/client.js";
import { HttpSessions } from "../connections/http.js";
import { ConversationList } from "./conversation_list.js";
import { get } from "./elements.js";
import { CuttableNetwork } from "./network.js";
import { People } from "./people.js";
import { TranscriptList } from "./transcript_list.js";
import { describeEnd, describeState } from "./words.js";

const words = /** @type {HTMLTextAreaElement} */ (get("words"));
const network = new CuttableNetwork();
const client = new SessionClient(document.body.dataset.socket ?? "", {
  session: document.body.dataset.session || "new",
  presence: true,
  storage: sessionStorage,
  WebSocket: network.WebSocket,
});
// The form for signing out has the token also where the cookie cannot be read.
const csrf = /** @type {HTMLInputElement | null} */ (
  document.querySelector("[name=csrfmiddlewaretoken]")
);
const sessions = new HttpSessions(document.body.dataset.sessions ?? "", { csrfToken: csrf?.value });
const people = new People({
  url: document.body.dataset.people ?? "",
  sessions,
  getSession: () => client.session,
  onNamed: () => transcript.nameAll(),
});
const transcript = new TranscriptList({
  list: get("transcript"),
  pending: get("pending"),
  scroller: get("scroller"),
  earlier: get("earlier"),
  later: get("later"),
  getEntries: () => client.entries,
  people,
  onStop: (offset) => client.cancel(offset),
  onRegenerate: (offset) => attempt(client.regenerate(offset)),
  onDecide: (offset, part, isApproved) =>
    attempt(isApproved ? client.approve(offset, part) : client.deny(offset, part)),
});
const list = new ConversationList({
  sessions,
  onDeleted(session) {
    if (session === client.session) location.assign(location.pathname);
  },
});
/** When the next attempt is due. */
let dueAt = 0;
/** @type {ReturnType<typeof setInterval> | undefined} */
let counting;

/** @param {string} type @param {(detail: any) => void} work */
function on(type, work) {
  client.addEventListener(type, (event) => {
    work(/** @type {CustomEvent} */ (event).detail);
    showFacts();
  });
}

on("state", ({ to, delayMs }) => {
  clearInterval(counting);
  if (to === "waiting") {
    dueAt = performance.now() + delayMs;
    counting = setInterval(showState, 1000);
  }
  showState();
  showNotice();
});

on("hello", (hello) => {
  const { session, offset, role } = hello;
  people.begin(hello);
  if (offset > 0) void people.load();
  showRole(role);
  if (document.body.dataset.session === session) return;
  document.body.dataset.session = session;
  history.replaceState(null, "", `?session=${session}`);
});

on("entry", ({ entry, isReplay }) => {
  transcript.show(entry);
  get("welcome").hidden = true;
  if (entry.from === "client") {
    list.add(client.session, textOf(entry).slice(0, 60), isOwner());
    void people.load(entry.author);
  }
  if (!isReplay && entry.state !== "streaming") announce(entry);
});
on("delta", ({ entry, changes }) => {
  transcript.grow(entry);
  if (changes.some((/** @type {any} */ { state }) => state === "awaiting_approval")) {
    get("announcement").textContent = "A tool call asks for approval.";
  }
});
on("ended", ({ entry }) => {
  transcript.show(entry);
  announce(entry);
});
on("reset", () => {
  transcript.clear();
  transcript.mark("This conversation began anew.");
});
on("present", ({ members }) => people.setPresent(members));
on("typing", (typing) => people.setTyping(typing));
on("notice", ({ text }) => tell(`From staff: ${text}`, "is-notice"));
on("error", ({ message, ref }) =>
  tell(`Error: ${message}${ref ? ` (reference ${ref})` : ""}`, "is-error"));
on("dropped", ({ data, error }) =>
  tell(`Not sent: “${data?.text ?? ""}” (${error.message})`, "is-error"));
on("gap", ({ from, to }) => transcript.mark(`Entries ${from} to ${to} are no longer kept.`));

get("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  void say(words.value);
});
words.addEventListener("input", () => {
  client.wake();
  client.setTyping(words.value !== "");
  fitHeight();
});
words.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  void say(words.value);
});
get("suggestions").addEventListener("click", ({ target }) => {
  if (target instanceof HTMLButtonElement) void say(target.textContent ?? "");
});
get("now").addEventListener("click", () => client.connect());
get("notice-button").addEventListener("click", () => {
  const { href } = /** @type {{href?: string}} */ (describeEnd(client.ending));
  if (href) location.assign(href);
  else client.connect();
  words.focus();
});
get("cut").addEventListener("click", () => {
  network.isCut = !network.isCut;
  const button = get("cut");
  button.setAttribute("aria-pressed", String(network.isCut));
  button.textContent = network.isCut ? "Mend the network" : "Cut the network";
  if (network.isCut) client.drop();
  else client.connect();
});
get("menu").addEventListener("click", () => {
  const isOpen = document.body.classList.toggle("menu-open");
  get("menu").setAttribute("aria-expanded", String(isOpen));
});

/** @param {string} text */
async function say(text) {
  if (!text.trim()) return;
  words.value = "";
  fitHeight();
  get("welcome").hidden = true;
  const waiting = transcript.wait(text);
  const request = client.request({ text });
  showFacts();
  try {
    await request;
    waiting.remove();
  } catch (error) {
    waiting.fail(/** @type {Error} */ (error).message);
    if (!words.value) words.value = text;
  }
  showFacts();
}

function isOwner() {
  const { role = "owner" } = /** @type {{role?: string}} */ (client.hello ?? {});
  return role === "owner";
}

/** Let readers read alone. @param {string | undefined} role */
function showRole(role) {
  const isReader = role === "reader";
  document.body.classList.toggle("is-reader", isReader);
  words.disabled = /** @type {HTMLButtonElement} */ (get("send")).disabled = isReader;
  words.placeholder = isReader ? "You may read this conversation" : "Message";
}

function showState() {
  const { state, ending } = client;
  const isWaiting = state === "waiting";
  get("connection").dataset.state = state;
  const text = describeState(state, ending);
  if (get("connection-text").textContent !== text) get("connection-text").textContent = text;
  const seconds = Math.max(0, Math.ceil((dueAt - performance.now()) / 1000));
  get("countdown").textContent = isWaiting ? `in ${seconds} s` : "";
  get("now").hidden = !isWaiting;
}

function showNotice() {
  const isEnded = client.state === "closed";
  get("notice").hidden = !isEnded;
  if (!isEnded) return;
  const { title, text, button } = describeEnd(client.ending);
  get("notice-title").textContent = title;
  get("notice-text").textContent = text;
  get("notice-button").textContent = button;
}

function showFacts() {
  const { hello, ending } = client;
  const facts = {
    session: client.session,
    connection: hello?.connection ?? "none yet",
    outcome: hello?.outcome.replace("_", " ") ?? "none yet",
    entries: String(client.entries.length),
    pending: String(client.pending),
    ending: ending ? `${ending.code} ${ending.reason}` : "none",
  };
  for (const [name, text] of Object.entries(facts)) {
    const element = document.querySelector(`[data-fact="${name}"]`);
    if (element) element.textContent = text;
  }
}

/** Tell why a wish was not fulfilled. @param {Promise<unknown>} wish */
async function attempt(wish) {
  try {
    await wish;
  } catch (error) {
    tell(`That did not work: ${/** @type {Error} */ (error).message}`, "is-error");
  }
}

/** Show a line between the entries and announce it. @param {string} text @param {string} kind */
function tell(text, kind) {
  transcript.mark(text, kind);
  get("announcement").textContent = text;
}

/** Announce an answer, or what somebody else says, to screen readers. */
function announce(/** @type {import("../connections/client.js").Entry} */ entry) {
  if (entry.from === "client" && !people.isOther(entry.author)) return;
  const who = entry.from === "client" ? people.name(entry.author) : "Answer";
  get("announcement").textContent = `${who}: ${textOf(entry).slice(0, 300)}`;
}

function fitHeight() {
  words.rows = Math.min(8, words.value.split("\n").length);
}

client.connect();
showFacts();
words.focus();
