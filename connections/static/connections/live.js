/**
 * Update the panels of the live dashboard with HTML from the server.
 *
 * Panels arrive over a WebSocket, or by polling when that fails. Without this
 * module the page works, but shows the state at its load.
 */

const KEY_LENGTH = 7;
const STALE_SECONDS = 10;
const SOCKET_TRIES = 2;
const SOCKET_AGAIN_SECONDS = 60;
/** Close codes after which a reconnect would be refused again; the page then polls. */
const FINAL_CODES = [4001, 4003, 4009];
/** Narrower pages have one chart in a row; the server draws charts of that width. */
const NARROW = 900;
const EVERY_KEY = "connections.live.every";

const root = document.getElementById("live");
const badge = document.getElementById("live-badge");
const time = document.getElementById("live-time");
const everySelect = document.getElementById("live-every");
const pauseButton = document.getElementById("live-pause");
const alarm = document.getElementById("live-alarm");
const details = document.getElementById("live-details");
const map = document.getElementById("live-map");

const state = {
  every: readEvery(),
  isPaused: false,
  isRefused: false,
  isSocketRefused: false,
  socket: null,
  failures: 0,
  timer: 0,
  receivedAt: performance.now(),
  /** The HTML of each panel, as last shown. */
  shown: new Map(),
  keys: {},
  firing: 0,
  /** Parameters of the URL of the open details, with the cell's key. */
  detailed: null,
  opener: null,
};

function readEvery() {
  const stored = Number(localStorage.getItem(EVERY_KEY));
  return [1, 2, 5, 15, 30].includes(stored) ? stored : 2;
}

function query() {
  const parameters = new URLSearchParams(location.search);
  parameters.set("width", String(Math.round(root.clientWidth)));
  return parameters.toString();
}

/* Panels and their freshness */

function setBadge(kind, text) {
  if (badge.textContent !== text) {
    badge.className = `live-badge is-${kind}`;
    badge.textContent = text;
  }
}

function showFreshness() {
  const silentSeconds = (performance.now() - state.receivedAt) / 1000;
  if (state.isRefused) setBadge("stale", "Signed out");
  else if (state.isPaused) setBadge("paused", "Paused");
  else if (silentSeconds > Math.max(STALE_SECONDS, 3 * state.every)) setBadge("stale", "Stale");
  else if (state.shown.size) setBadge("live", state.socket ? "Live" : "Live (polling)");
}

function receive(content) {
  if (content.type === "failed") return;
  state.receivedAt = performance.now();
  if (state.isPaused) return;
  if (content.keys) state.keys = content.keys;
  if (content.firing > state.firing) alarm.textContent = `Alerts firing: ${content.firing}`;
  state.firing = content.firing;
  for (const [name, html] of Object.entries(content.html)) swap(name, html);
  time.textContent = `${content.taken_at.slice(11, 19)} UTC`;
  time.dateTime = content.taken_at;
  markChosen();
  if (state.detailed) loadDetails(state.detailed, false);
  showFreshness();
}

function swap(name, html) {
  const panel = root.querySelector(`[data-panel="${name}"]`);
  if (!panel || state.shown.get(name) === html) return;
  state.shown.set(name, html);
  replaceKeeping(panel, html);
}

/** Replace the content of an element; keep focus, scrolling and open details. */
function replaceKeeping(element, html) {
  const open = [...element.querySelectorAll("details[open]")].map((one) => one.id);
  const scrolled = [...element.querySelectorAll(".live-scroll")].map((one) => one.scrollLeft);
  const focused = element.contains(document.activeElement) ? locate(document.activeElement) : null;
  const template = document.createElement("template");
  template.innerHTML = html;
  element.replaceChildren(template.content);
  for (const id of open) {
    const details = document.getElementById(id);
    if (details) details.open = true;
  }
  element.querySelectorAll(".live-scroll").forEach((one, index) => {
    one.scrollLeft = scrolled[index] ?? 0;
  });
  if (focused) element.querySelector(focused)?.focus({ preventScroll: true });
}

function locate(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  if (element.tagName === "SUMMARY") return `#${CSS.escape(element.parentElement.id)} > summary`;
  const href = element.getAttribute("href");
  return href ? `a[href="${CSS.escape(href)}"]` : null;
}

/* WebSocket and polling */

function watch() {
  if (state.socket?.readyState === WebSocket.OPEN) {
    state.socket.send(JSON.stringify({ type: "watch", query: query(), every_seconds: state.every }));
  }
}

function connect() {
  const url = new URL(root.dataset.socket, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.addEventListener("open", () => {
    state.socket = socket;
    state.failures = 0;
    watch();
  });
  socket.addEventListener("message", (event) => {
    const content = JSON.parse(event.data);
    if (content.type === "panels" || content.type === "failed") receive(content);
  });
  socket.addEventListener("close", (event) => {
    state.socket = null;
    if (document.hidden || state.isPaused) return;
    if (FINAL_CODES.includes(event.code)) {
      state.isSocketRefused = true;
      poll();
      return;
    }
    state.failures += 1;
    // 4005: another tab of this user evicted this one, which now polls.
    const seconds = event.code === 4005 || state.failures >= SOCKET_TRIES ? SOCKET_AGAIN_SECONDS : 1;
    setTimeout(resume, seconds * 1000 * (0.5 + Math.random() / 2));
    schedulePoll();
  });
}

function schedulePoll() {
  clearTimeout(state.timer);
  state.timer = setTimeout(poll, state.every * 1000);
}

async function poll() {
  if (state.socket || state.isPaused || state.isRefused || document.hidden) return;
  try {
    const response = await fetch(`${root.dataset.poll}?${query()}`, { redirect: "manual" });
    if (response.ok) receive(await response.json());
    else state.isRefused = response.status === 403 || response.type === "opaqueredirect";
  } catch {
    // The network is down; the badge turns to Stale after a while.
  }
  showFreshness();
  schedulePoll();
}

function resume() {
  if (state.socket || state.isPaused || state.isRefused || document.hidden) return;
  if (state.isSocketRefused) poll();
  else connect();
}

function rest() {
  clearTimeout(state.timer);
  state.socket?.close();
}

/* Details of a cell or a client */

function findCell(event) {
  const svg = event.target.closest(".live-grid")?.querySelector("svg");
  if (!svg) return null;
  const pitch = Number(svg.dataset.pitch);
  const columns = Number(svg.dataset.columns);
  const box = svg.getBoundingClientRect();
  const scale = (columns * pitch) / box.width;
  const column = Math.floor(((event.clientX - box.left) * scale) / pitch);
  const row = Math.floor(((event.clientY - box.top) * scale) / pitch);
  if (column < 0 || column >= columns || row < 0) return null;
  const start = (row * columns + column) * KEY_LENGTH;
  return getKeys(svg).slice(start, start + KEY_LENGTH).trim() || null;
}

function getKeys(svg) {
  return (
    svg.parentElement.dataset.keys ?? state.keys[svg.closest(".live-region").dataset.region] ?? ""
  );
}

function markChosen() {
  map.querySelectorAll(".chosen").forEach((one) => one.remove());
  const key = state.detailed?.key;
  if (!key) return;
  for (const svg of map.querySelectorAll(".live-grid .cells")) {
    const keys = getKeys(svg);
    for (let at = keys.indexOf(key); at >= 0; at = keys.indexOf(key, at + 1)) {
      if (at % KEY_LENGTH) continue;
      const pitch = Number(svg.dataset.pitch);
      const columns = Number(svg.dataset.columns);
      const index = at / KEY_LENGTH;
      const mark = document.createElementNS("http://www.w3.org/2000/svg", "path");
      mark.setAttribute("class", "chosen");
      const x = (index % columns) * pitch;
      const y = Math.floor(index / columns) * pitch;
      mark.setAttribute("d", `M${x} ${y}h${pitch - 1}v${pitch - 1}h${1 - pitch}z`);
      svg.append(mark);
      return;
    }
  }
}

async function loadDetails(detailed, isNew) {
  let html;
  try {
    const response = await fetch(`${root.dataset.details}?${new URLSearchParams(detailed)}`);
    if (!response.ok) return;
    html = await response.text();
  } catch {
    return;
  }
  if (!isNew && state.detailed !== detailed) return;
  state.detailed = detailed;
  details.hidden = false;
  replaceKeeping(details, html);
  if (isNew) details.focus({ preventScroll: true });
  markChosen();
}

function closeDetails() {
  details.hidden = true;
  details.replaceChildren();
  state.detailed = null;
  markChosen();
  if (state.opener?.isConnected) state.opener.focus();
}

/* The page */

map.addEventListener("click", (event) => {
  if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const client = event.target.closest("[data-client]");
  const key = event.detail ? findCell(event) : null;
  if (!client && !key) return;
  event.preventDefault();
  state.opener = client;
  const region = event.target.closest(".live-region").dataset.region;
  loadDetails(key ? { key } : { client: client.dataset.client, region }, true);
});
details.addEventListener("click", (event) => {
  if (event.target.closest(".live-close")) closeDetails();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !details.hidden) closeDetails();
});
everySelect.value = String(state.every);
everySelect.addEventListener("change", () => {
  state.every = Number(everySelect.value);
  localStorage.setItem(EVERY_KEY, everySelect.value);
  watch();
});
pauseButton.addEventListener("click", () => {
  state.isPaused = !state.isPaused;
  pauseButton.setAttribute("aria-pressed", String(state.isPaused));
  pauseButton.textContent = state.isPaused ? "Resume" : "Pause";
  if (state.isPaused) rest();
  else resume();
  showFreshness();
});
document.addEventListener("visibilitychange", () => (document.hidden ? rest() : resume()));
for (const select of root.querySelectorAll(".live-filters select")) {
  select.addEventListener("change", () => select.form.submit());
}
root.querySelector(".live-filters button").hidden = true;
document.getElementById("live-controls").hidden = false;
map.classList.add("is-clickable");
let lastWidth = root.clientWidth;
root.classList.toggle("is-narrow", lastWidth < NARROW);
new ResizeObserver(() => {
  if (Math.abs(root.clientWidth - lastWidth) < 20) return;
  lastWidth = root.clientWidth;
  root.classList.toggle("is-narrow", lastWidth < NARROW);
  watch();
}).observe(root);
setInterval(showFreshness, 1000);
connect();
