// Who is in the conversation, and who of them is here.

import { get, make, makeButton, setText } from "./elements.js";
import { Invitations } from "./invitations.js";
import { namePerson, sayTyping } from "./people_texts.js";

/** @typedef {import("../connections/http.js").HttpSessions} HttpSessions */
/** @typedef {{author: string, name: string, role: string}} Person */

export class People {
  #url;
  #sessions;
  #getSession;
  #onNamed;
  #invitations;
  /** @type {Map<string, Person>} */ #people = new Map();
  /** @type {Set<string>} */ #present = new Set();
  /** The members that type, each by its connection. @type {Map<string, string>} */
  #typing = new Map();
  /** Authors that the server did not name: they have left. @type {Set<string>} */
  #unknown = new Set();
  #own = "";
  #isOwner = false;
  #isLoading = false;
  /** True if something has changed since the load began. */ #isStale = false;

  /**
   * @param {{url: string, sessions: HttpSessions, getSession: () => string,
   *   onNamed: () => void}} options
   */
  constructor({ url, sessions, getSession, onNamed }) {
    this.#url = url;
    this.#sessions = sessions;
    this.#getSession = getSession;
    this.#onNamed = onNamed;
    this.#invitations = new Invitations({ sessions, getSession });
  }

  /** @param {{author?: string, role?: string}} hello */
  begin({ author = "", role = "owner" }) {
    this.#own = author;
    this.#isOwner = role === "owner";
    this.#unknown.clear();
  }

  /** Return how the page calls the author of a message. @param {string | undefined} author */
  name(author) {
    return namePerson(author, this.#own, this.#people);
  }

  /** @param {string | undefined} author */
  isOther(author) {
    return Boolean(author) && author !== this.#own;
  }

  /** Learn who is in the session, unless an author is known. @param {string} [author] */
  async load(author) {
    if (author && (this.#people.has(author) || this.#unknown.has(author))) return;
    this.#isStale = this.#isLoading;
    if (this.#isLoading) return;
    this.#isLoading = true;
    try {
      const session = this.#getSession();
      const answer = await fetch(`${this.#url}${encodeURIComponent(session)}/`);
      const { people } = await answer.json();
      this.#people = new Map(people.map((/** @type {Person} */ one) => [one.author, one]));
    } catch {
      return; // The network is gone, or the user is signed out: the next hello asks again.
    } finally {
      this.#isLoading = false;
    }
    if (author && !this.#people.has(author)) this.#unknown.add(author);
    this.#show();
    this.#onNamed();
    // Who has joined has used an invitation.
    void this.#invitations.refresh();
    if (this.#isStale) await this.load();
  }

  /** @param {Map<string, object>} members */
  setPresent(members) {
    const before = [...this.#present];
    this.#present = new Set(members.keys());
    const newcomer = [...this.#present].find((one) => !this.#people.has(one));
    const hasLeft = before.some((one) => !this.#present.has(one));
    // Who has gone may have left for good.
    if (this.#people.size > 0 && (newcomer || hasLeft)) void this.load(newcomer);
    this.#show();
  }

  /** @param {{member: string, connection: string, isTyping: boolean}} typing */
  setTyping({ member, connection, isTyping }) {
    if (isTyping && member !== this.#own) this.#typing.set(connection, member);
    else this.#typing.delete(connection);
    const names = [...new Set(this.#typing.values())].map((one) => this.name(one));
    setText(get("typing"), sayTyping(names));
  }

  #show() {
    get("people").hidden = this.#people.size === 0;
    get("invite").hidden = !this.#isOwner;
    const items = [...this.#people.values()].map((one) => this.#makeItem(one));
    get("people-list").replaceChildren(...items);
  }

  /** @param {Person} person */
  #makeItem({ author, name, role }) {
    const item = make("li", "person");
    const isHere = this.#present.has(author);
    item.dataset.author = author;
    item.dataset.here = String(isHere);
    item.append(make("span", "lamp"), make("span", "", this.name(author)));
    item.append(make("span", "hidden", isHere ? "is here" : "is away"));
    if (role !== "writer") item.append(make("span", "quiet small", role));
    const isOwn = author === this.#own;
    if (role === "owner" || !(this.#isOwner || isOwn)) return item;
    const label = isOwn ? "Leave this conversation" : `Remove ${name}`;
    const button = makeButton(isOwn ? "Leave" : "Remove", label, () => void this.#remove(author));
    button.className = "plain";
    item.append(button);
    return item;
  }

  /** @param {string} author */
  async #remove(author) {
    setText(get("people-failed"), "");
    try {
      await this.#sessions.removeMember(this.#getSession(), author.replace("user:", ""));
    } catch (error) {
      setText(get("people-failed"), `That did not work: ${/** @type {Error} */ (error).message}`);
    }
    if (author !== this.#own) await this.load();
  }
}
