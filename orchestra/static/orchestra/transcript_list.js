import { make } from "./elements.js";
import { EntryView } from "./entry_view.js";
import { Places } from "./places.js";

/** @typedef {import("../connections/client.js").Entry} Entry */

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
  #options;
  #places = new Places();
  /** The items by their places. @type {Map<number, EntryView>} */ #items = new Map();

  /**
   * @param {{list: HTMLElement, pending: HTMLElement, scroller: HTMLElement,
   *   earlier: HTMLElement, later: HTMLElement, getEntries: () => Entry[]}
   *   & import("./entry_view.js").Options} parts
   */
  constructor({ list, pending, scroller, earlier, later, getEntries, ...options }) {
    this.#list = list;
    this.#pending = pending;
    this.#scroller = scroller;
    this.#earlier = earlier;
    this.#later = later;
    this.#getEntries = getEntries;
    this.#options = options;
    earlier.addEventListener("click", () => this.#pageEarlier());
    later.addEventListener("click", () => this.#pageLater());
    scroller.addEventListener("scroll", () => {
      if (!earlier.hidden && scroller.scrollTop < NEAR_END) this.#pageEarlier();
      else if (!later.hidden && this.#isAtEnd) this.#pageLater();
    });
  }

  /** @param {Entry} entry */
  show(entry) {
    const place = this.#places.find(entry);
    const old = this.#items.get(place);
    if (!old && this.#isOutside(place)) return;
    this.#keepAtEnd(() => {
      if (old) old.update(entry);
      else this.#list.insertBefore(this.#make(place, [entry]), this.#findNext(place));
    });
  }

  /** Let an entry grow. @param {Entry} entry */
  grow(entry) {
    const item = this.#items.get(this.#places.find(entry));
    if (item) this.#keepAtEnd(() => item.update(entry));
  }

  /** Name the authors of all items again. */
  nameAll() {
    for (const item of this.#items.values()) item.nameAuthor();
  }

  /** Show a line between the entries. @param {string} text @param {string} [kind] */
  mark(text, kind = "") {
    const item = make("li", `mark ${kind}`, text);
    this.#keepAtEnd(() => this.#list.append(item));
  }

  clear() {
    this.#items.clear();
    this.#places.clear();
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

  /** @param {number} place @param {Entry[]} entries */
  #make(place, entries) {
    const item = new EntryView(place, entries, this.#options);
    this.#items.set(place, item);
    return item.element;
  }

  /** @param {number} place */
  #findNext(place) {
    if (Math.max(0, ...this.#items.keys()) <= place) return null;
    const later = [...this.#items.keys()].filter((one) => one > place);
    return this.#items.get(Math.min(...later))?.element ?? null;
  }

  /** True if the place belongs to what is not shown. @param {number} place */
  #isOutside(place) {
    const isNewer = place > Math.max(0, ...this.#items.keys());
    if (!isNewer) return !this.#earlier.hidden && place < Math.min(...this.#items.keys());
    // A reader elsewhere keeps what is on the screen.
    if (this.#list.childElementCount >= MOST_ITEMS && !this.#isAtEnd) this.#later.hidden = false;
    return !this.#later.hidden;
  }

  #pageEarlier() {
    const first = Math.min(...this.#items.keys());
    const earlier = this.#arrange().filter(([place]) => place < first);
    this.#insert(earlier.slice(-ITEMS_PER_PAGE), this.#list.firstElementChild);
    this.#earlier.hidden = earlier.length <= ITEMS_PER_PAGE;
    if (this.#trim(() => this.#list.lastElementChild)) this.#later.hidden = false;
  }

  #pageLater() {
    const last = Math.max(...this.#items.keys());
    const later = this.#arrange().filter(([place]) => place > last);
    this.#insert(later.slice(0, ITEMS_PER_PAGE), null);
    this.#later.hidden = later.length <= ITEMS_PER_PAGE;
    this.#trimOldest();
  }

  #showLatest() {
    this.clear();
    const places = this.#arrange();
    this.#insert(places.slice(-MOST_ITEMS), null);
    this.#earlier.hidden = places.length <= MOST_ITEMS;
  }

  #arrange() {
    return this.#places.arrange(this.#getEntries());
  }

  /**
   * Insert entries by their places, and keep what is on the screen.
   * @param {[number, Entry[]][]} places @param {Element | null} next
   */
  #insert(places, next) {
    const { scrollHeight, scrollTop } = this.#scroller;
    for (const [place, entries] of places) this.#list.insertBefore(this.#make(place, entries), next);
    if (next) this.#scroller.scrollTop = scrollTop + this.#scroller.scrollHeight - scrollHeight;
  }

  #trimOldest() {
    if (this.#list.childElementCount <= MOST_ITEMS) return;
    const { scrollHeight, scrollTop } = this.#scroller;
    this.#trim(() => this.#list.firstElementChild);
    this.#scroller.scrollTop = scrollTop + this.#scroller.scrollHeight - scrollHeight;
    const first = Math.min(...this.#items.keys());
    this.#earlier.hidden = !this.#arrange().some(([place]) => place < first);
  }

  /** Remove items beyond the bound; return true if there were some. @param {() => Element | null} choose */
  #trim(choose) {
    const isOver = this.#list.childElementCount > MOST_ITEMS;
    while (this.#list.childElementCount > MOST_ITEMS) {
      const item = /** @type {HTMLElement} */ (choose());
      this.#items.delete(Number(item.dataset.place));
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
