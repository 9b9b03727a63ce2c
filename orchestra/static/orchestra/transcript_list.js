import { textOf } from "../connections/client.js";

/** @typedef {import("../connections/client.js").Entry} Entry */

const STATES = {
  streaming: "writing",
  cancelled: "stopped",
  interrupted: "interrupted",
  error: "failed",
  done: "",
};

const NEAR_END = 80;

/** Shows entries in their order, each once, and lets them grow in place. */
export class TranscriptList {
  #list;
  #pending;
  #scroller;
  #onStop;
  /** @type {Map<number, HTMLElement>} */ #items = new Map();

  /**
   * @param {{list: HTMLElement, pending: HTMLElement, scroller: HTMLElement,
   *   onStop: (offset: number) => void}} parts
   */
  constructor({ list, pending, scroller, onStop }) {
    this.#list = list;
    this.#pending = pending;
    this.#scroller = scroller;
    this.#onStop = onStop;
  }

  /** @param {Entry} entry */
  show(entry) {
    this.#keepAtEnd(() => {
      const item = this.#make(entry);
      const old = this.#items.get(entry.offset);
      this.#items.set(entry.offset, item);
      if (old) old.replaceWith(item);
      else this.#list.insertBefore(item, this.#findNext(entry.offset));
    });
  }

  /** Let an entry grow. @param {Entry} entry @param {string} text */
  grow(entry, text) {
    this.#keepAtEnd(() => {
      this.#items.get(entry.offset)?.querySelector(".text")?.append(text);
    });
  }

  /** Say that entries are gone. @param {string} text */
  mark(text) {
    const item = make("li", "mark", text);
    this.#keepAtEnd(() => this.#list.append(item));
  }

  clear() {
    this.#items.clear();
    this.#list.replaceChildren();
  }

  /**
   * Show a message that is on its way; returns what settles it.
   * @param {string} text
   */
  wait(text) {
    const item = make("li", "entry");
    item.dataset.from = "client";
    item.dataset.state = "pending";
    const state = make("span", "state", "on the way");
    const head = make("p", "head");
    head.append(make("span", "who", "You"), state);
    item.append(head, make("div", "text", text));
    this.#pending.append(item);
    this.#toEnd();
    return {
      remove: () => item.remove(),
      /** @param {string} why */
      fail: (why) => {
        item.dataset.state = "error";
        state.textContent = `not sent: ${why}`;
      },
    };
  }

  /** @param {Entry} entry */
  #make(entry) {
    const item = make("li", "entry");
    item.dataset.from = entry.from;
    item.dataset.state = entry.state;
    item.dataset.offset = String(entry.offset);
    const head = make("p", "head");
    head.append(make("span", "who", entry.from === "client" ? "You" : "Answer"), makeTime(entry.at));
    const state = STATES[entry.state] ?? entry.state;
    if (state) head.append(make("span", "state", state));
    if (entry.state === "streaming") head.append(this.#makeStop(entry.offset));
    item.append(head, make("div", "text", textOf(entry) || plain(entry)));
    if (entry.data?.error) item.append(make("p", "why", entry.data.error));
    return item;
  }

  /** @param {number} offset */
  #makeStop(offset) {
    const button = make("button", "plain stop", "Stop");
    button.setAttribute("type", "button");
    button.setAttribute("aria-label", "Stop this answer");
    button.addEventListener("click", () => this.#onStop(offset));
    return button;
  }

  /** @param {number} offset */
  #findNext(offset) {
    if (Math.max(0, ...this.#items.keys()) <= offset) return null;
    const later = [...this.#items.keys()].filter((one) => one > offset);
    return this.#items.get(Math.min(...later)) ?? null;
  }

  /** Stay at the end if that is where the reader is. @param {() => void} change */
  #keepAtEnd(change) {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END;
    change();
    if (isAtEnd) this.#toEnd();
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }
}

/** Return string data as it is, other data without text as JSON. @param {Entry} entry */
function plain(entry) {
  const { data } = entry;
  if (typeof data === "string") return data;
  return typeof data?.text === "string" ? "" : JSON.stringify(data);
}

/** @param {string} tag @param {string} className @param {string} [text] */
function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** @param {string} at */
function makeTime(at) {
  const element = /** @type {HTMLTimeElement} */ (document.createElement("time"));
  element.dateTime = at;
  element.textContent = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return element;
}
