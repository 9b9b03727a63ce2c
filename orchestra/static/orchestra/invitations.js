// The links that invite others to a conversation: make, list and revoke them.

import { get, make, makeButton, setText } from "./elements.js";
import { sayInvitation, sayMoment, sayRole } from "./people_texts.js";

/** @typedef {import("../connections/http.js").HttpSessions} HttpSessions */
/** @typedef {import("../connections/http.js").Invitation} Invitation */

export class Invitations {
  #sessions;
  #getSession;
  #dialog = /** @type {HTMLDialogElement} */ (get("invitation"));
  /** The invitation whose link is shown. */ #made = "";

  /** @param {{sessions: HttpSessions, getSession: () => string}} options */
  constructor({ sessions, getSession }) {
    this.#sessions = sessions;
    this.#getSession = getSession;
    get("invite").addEventListener("click", () => {
      get("invitation-made").hidden = get("invitation-failed").hidden = true;
      get("invitations").hidden = true;
      this.#made = "";
      this.#dialog.showModal();
      void this.refresh();
    });
    get("invitation-form").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#invite();
    });
    get("invitation-copy").addEventListener("click", () => void copyLink());
  }

  /** Read the invitations again while they are shown. */
  async refresh() {
    if (!this.#dialog.open) return;
    try {
      const session = this.#getSession();
      const { items } = await this.#sessions.invitations(session);
      if (session === this.#getSession()) this.#show(items);
    } catch (error) {
      fail(error);
    }
  }

  /** @param {Invitation[]} invitations */
  #show(invitations) {
    const items = invitations.flatMap((one) => {
      const state = sayInvitation(one, Date.now());
      return state ? [this.#makeItem(one, state)] : [];
    });
    get("invitations").hidden = items.length === 0;
    get("invitations-list").replaceChildren(...items);
  }

  /** @param {Invitation} invitation @param {{text: string, isOpen: boolean}} state */
  #makeItem({ id, role }, { text, isOpen }) {
    const item = make("li", "invited");
    item.dataset.open = String(isOpen);
    const words = make("p", "");
    words.append(make("span", "", `May ${sayRole(role)}`), make("span", "quiet small", text));
    item.append(words);
    if (isOpen) {
      const label = `Revoke the invitation to ${sayRole(role)}`;
      item.append(makeButton("Revoke", label, () => void this.#revoke(id)));
    }
    return item;
  }

  async #invite() {
    const role = /** @type {HTMLSelectElement} */ (get("invitation-role")).value;
    get("invitation-failed").hidden = true;
    try {
      const made = await this.#sessions.invite(this.#getSession(), role);
      const address = new URL(this.#dialog.dataset.join ?? "", location.href);
      address.searchParams.set("token", made.token);
      const field = /** @type {HTMLInputElement} */ (get("invitation-link"));
      field.value = address.href;
      setText(get("invitation-until"), sayMoment(made.expires_at));
      get("invitation-made").hidden = false;
      this.#made = made.id;
      field.select();
    } catch (error) {
      fail(error);
      return;
    }
    await this.refresh();
  }

  /** @param {string} id */
  async #revoke(id) {
    get("invitation-failed").hidden = true;
    try {
      await this.#sessions.revoke(this.#getSession(), id);
    } catch (error) {
      fail(error);
      return;
    }
    if (id === this.#made) get("invitation-made").hidden = true;
    // The button that was pressed goes.
    get("invitation-role").focus();
    await this.refresh();
  }
}

/** @param {unknown} error */
function fail(error) {
  const failed = get("invitation-failed");
  setText(failed, `That did not work: ${/** @type {Error} */ (error).message}`);
  failed.hidden = false;
}

async function copyLink() {
  const field = /** @type {HTMLInputElement} */ (get("invitation-link"));
  field.select();
  // Without TLS a browser has no clipboard for pages; the selection can be copied by hand.
  await navigator.clipboard?.writeText(field.value).catch(() => {});
}
