import { textOf } from "../connections/client.js";
import { MarkdownView } from "./markdown.js";

/** @typedef {import("../connections/client.js").Entry} Entry */

const STATES = {
  streaming: "writing",
  cancelled: "stopped",
  interrupted: "interrupted",
  error: "failed",
  done: "",
};

const NEAR_END = 80;
/** Items in the list at most, whatever their number in the transcript. */
const MOST_ITEMS = 200;
const ITEMS_PER_PAGE = 50;
const MOST_FAILED = 20;

/**
 * Shows a part of the entries in their order, each once, and lets them grow in place.
 *
 * The part ends at the newest entry unless the reader is elsewhere. The reader pages
 * by a button or by scrolling.
 */
export class TranscriptList {
  #list;
  #pending;
  #scroller;
  #earlier;
  #later;
  #getEntries;
  #onStop;
  /** @type {Map<number, HTMLElement>} */ #items = new Map();
  /** @type {WeakMap<HTMLElement, MarkdownView>} */ #views = new WeakMap();

  /**
   * @param {{list: HTMLElement, pending: HTMLElement, scroller: HTMLElement,
   *   earlier: HTMLElement, later: HTMLElement, getEntries: () => Entry[],
   *   onStop: (offset: number) => void}} parts
   */
  constructor({ list, pending, scroller, earlier, later, getEntries, onStop }) {
    this.#list = list;
    this.#pending = pending;
    this.#scroller = scroller;
    this.#earlier = earlier;
    this.#later = later;
    this.#getEntries = getEntries;
    this.#onStop = onStop;
    earlier.addEventListener("click", () => this.#pageEarlier());
    later.addEventListener("click", () => this.#pageLater());
    scroller.addEventListener("scroll", () => {
      if (!earlier.hidden && scroller.scrollTop < NEAR_END) this.#pageEarlier();
      else if (!later.hidden && this.#isAtEnd) this.#pageLater();
    });
  }

  /** @param {Entry} entry */
  show(entry) {
    const old = this.#items.get(entry.offset);
    if (!old && this.#isOutside(entry.offset)) return;
    this.#keepAtEnd(() => {
      const item = this.#make(entry);
      this.#items.set(entry.offset, item);
      if (old) old.replaceWith(item);
      else this.#list.insertBefore(item, this.#findNext(entry.offset));
    });
  }

  /** Let an entry grow. @param {Entry} entry */
  grow(entry) {
    const item = this.#items.get(entry.offset);
    if (item) this.#keepAtEnd(() => this.#views.get(item)?.show(textOf(entry)));
  }

  /** Show a line between the entries. @param {string} text @param {string} [kind] */
  mark(text, kind = "") {
    const item = make("li", `mark ${kind}`, text);
    this.#keepAtEnd(() => this.#list.append(item));
  }

  clear() {
    this.#items.clear();
    this.#list.replaceChildren();
    this.#earlier.hidden = this.#later.hidden = true;
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
    if (!this.#later.hidden) this.#showLatest();
    this.#toEnd();
    return {
      remove: () => item.remove(),
      /** @param {string} why */
      fail: (why) => {
        item.dataset.state = "error";
        state.textContent = `not sent: ${why}`;
        const failed = this.#pending.querySelectorAll('[data-state="error"]');
        if (failed.length > MOST_FAILED) failed[0].remove();
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
    const text = make("div", "text");
    item.append(head, text);
    if (entry.from === "client") text.textContent = textOf(entry) || plain(entry);
    else {
      const view = new MarkdownView(text);
      view.show(textOf(entry) || plain(entry));
      this.#views.set(item, view);
    }
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

  /** True if the entry belongs to what is not shown. @param {number} offset */
  #isOutside(offset) {
    const isNewer = offset > Math.max(0, ...this.#items.keys());
    if (!isNewer) return !this.#earlier.hidden && offset < Math.min(...this.#items.keys());
    // A reader elsewhere keeps what is on the screen.
    if (this.#list.childElementCount >= MOST_ITEMS && !this.#isAtEnd) this.#later.hidden = false;
    return !this.#later.hidden;
  }

  #pageEarlier() {
    const first = Math.min(...this.#items.keys());
    const earlier = this.#getEntries().filter(({ offset }) => offset < first);
    this.#insert(earlier.slice(-ITEMS_PER_PAGE), this.#list.firstElementChild);
    this.#earlier.hidden = earlier.length <= ITEMS_PER_PAGE;
    if (this.#trim(() => this.#list.lastElementChild)) this.#later.hidden = false;
  }

  #pageLater() {
    const last = Math.max(...this.#items.keys());
    const later = this.#getEntries().filter(({ offset }) => offset > last);
    this.#insert(later.slice(0, ITEMS_PER_PAGE), null);
    this.#later.hidden = later.length <= ITEMS_PER_PAGE;
    this.#trimOldest();
  }

  #showLatest() {
    this.clear();
    const entries = this.#getEntries();
    this.#insert(entries.slice(-MOST_ITEMS), null);
    this.#earlier.hidden = entries.length <= MOST_ITEMS;
  }

  /** Insert entries and keep what is on the screen. @param {Entry[]} entries @param {Element | null} next */
  #insert(entries, next) {
    const { scrollHeight, scrollTop } = this.#scroller;
    for (const entry of entries) {
      const item = this.#make(entry);
      this.#items.set(entry.offset, item);
      this.#list.insertBefore(item, next);
    }
    if (next) this.#scroller.scrollTop = scrollTop + this.#scroller.scrollHeight - scrollHeight;
  }

  #trimOldest() {
    if (this.#list.childElementCount <= MOST_ITEMS) return;
    const { scrollHeight, scrollTop } = this.#scroller;
    this.#trim(() => this.#list.firstElementChild);
    this.#scroller.scrollTop = scrollTop + this.#scroller.scrollHeight - scrollHeight;
    const first = Math.min(...this.#items.keys());
    this.#earlier.hidden = !this.#getEntries().some(({ offset }) => offset < first);
  }

  /** Remove items beyond the bound; return true if there were some. @param {() => Element | null} choose */
  #trim(choose) {
    const isOver = this.#list.childElementCount > MOST_ITEMS;
    while (this.#list.childElementCount > MOST_ITEMS) {
      const item = /** @type {HTMLElement} */ (choose());
      this.#items.delete(Number(item.dataset.offset));
      item.remove();
    }
    return isOver;
  }

  get #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END;
  }

  /** Stay at the end if that is where the reader is. @param {() => void} change */
  #keepAtEnd(change) {
    const isAtEnd = this.#isAtEnd;
    change();
    this.#trimOldest();
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
