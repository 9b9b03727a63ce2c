// The list of one's conversations: rename, delete, and show older ones.

import { get } from "./elements.js";

const PAGE = 50;

/** @typedef {import("../connections/http.js").HttpSessions} HttpSessions */

export class ConversationList {
  #sessions;
  #onDeleted;
  #list = get("conversation-list");
  #status = get("list-status");
  #older = get("older");
  /** @type {string | null} */ #cursor = null;

  /** @param {{sessions: HttpSessions, onDeleted: (session: string) => void}} options */
  constructor({ sessions, onDeleted }) {
    this.#sessions = sessions;
    this.#onDeleted = onDeleted;
    this.#older.addEventListener("click", () => this.#attempt(this.#showOlder()));
    this.#list.addEventListener("click", ({ target }) => {
      const button = target instanceof Element && target.closest("button[data-act]");
      const item = button && button.closest("li");
      if (!item) return;
      if (button.getAttribute("data-act") === "rename") this.#askTitle(item);
      else this.#attempt(this.#askDeletion(item));
    });
  }

  /**
   * Put the open conversation into the list.
   * @param {string} session @param {string} title @param {boolean} isOwn
   */
  add(session, title, isOwn) {
    if (this.#find(session)) return;
    const item = this.#make({ session, title, time: "just now", isOwn });
    item.querySelector("a")?.setAttribute("aria-current", "page");
    this.#list.prepend(item);
  }

  /** @param {string} session */
  #find(session) {
    return this.#list.querySelector(`li[data-session="${CSS.escape(session)}"]`);
  }

  /** @param {{session: string, title: string, time: string, isOwn: boolean}} content */
  #make({ session, title, time, isOwn }) {
    const template = /** @type {HTMLTemplateElement} */ (get("conversation-item"));
    const copy = /** @type {DocumentFragment} */ (template.content.cloneNode(true));
    const item = /** @type {HTMLElement} */ (copy.querySelector("li"));
    item.dataset.session = session;
    item.querySelector("a")?.setAttribute("href", `?session=${session}`);
    setText(item, ".title", title || "Untitled");
    setText(item, "time", time);
    if (!isOwn) item.querySelector(".acts")?.remove();
    return item;
  }

  async #showOlder() {
    const page = await this.#sessions.list({ limit: PAGE, cursor: this.#cursor });
    for (const { id, title, role, last_offset, last_seen_at } of page.items) {
      if (last_offset === 0 || this.#find(id)) continue;
      const time = new Date(last_seen_at).toLocaleString();
      this.#list.append(this.#make({ session: id, title, time, isOwn: role === "owner" }));
    }
    this.#cursor = page.next_cursor;
    this.#older.hidden = page.next_cursor === null;
  }

  /** Show a field in place of an item. @param {HTMLElement} item */
  #askTitle(item) {
    if (item.classList.contains("is-renamed")) return;
    const before = item.querySelector(".title")?.textContent ?? "";
    const form = document.createElement("form");
    const field = Object.assign(document.createElement("input"), {
      value: before,
      maxLength: 200,
      ariaLabel: "Title",
    });
    const save = Object.assign(document.createElement("button"), { textContent: "Save" });
    form.append(field, save);
    const close = () => {
      form.remove();
      item.classList.remove("is-renamed");
      item.querySelector("a")?.focus();
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#attempt(this.#rename(item, field.value.trim()).then(close));
    });
    form.addEventListener("keydown", ({ key }) => {
      if (key === "Escape") close();
    });
    item.classList.add("is-renamed");
    item.append(form);
    field.select();
    field.focus();
  }

  /** @param {HTMLElement} item @param {string} title */
  async #rename(item, title) {
    const renamed = await this.#sessions.rename(item.dataset.session ?? "", title);
    setText(item, ".title", renamed.title || "Untitled");
  }

  /** @param {HTMLElement} item */
  async #askDeletion(item) {
    const dialog = /** @type {HTMLDialogElement} */ (get("deletion"));
    get("deletion-name").textContent = item.querySelector(".title")?.textContent ?? "";
    dialog.returnValue = "";
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    if (dialog.returnValue !== "delete") return;
    const session = item.dataset.session ?? "";
    await this.#sessions.delete(session).catch((error) => {
      // Another page may have deleted it.
      if (error.code !== "not_found") throw error;
    });
    const next = item.nextElementSibling ?? item.previousElementSibling;
    item.remove();
    /** @type {HTMLElement} */ (next?.querySelector("a") ?? get("words")).focus();
    this.#onDeleted(session);
  }

  /** Show why a request failed. @param {Promise<void>} asked */
  async #attempt(asked) {
    this.#status.hidden = true;
    try {
      await asked;
    } catch (error) {
      this.#status.textContent = `That did not work: ${/** @type {Error} */ (error).message}`;
      this.#status.hidden = false;
    }
  }
}

/** @param {Element} item @param {string} selector @param {string} text */
function setText(item, selector, text) {
  const element = item.querySelector(selector);
  if (element) element.textContent = text;
}
