import { textOf } from "../connections/client.js";
import { AnswerView } from "./answer_view.js";
import { make, makeButton, makeFold, makeTime, setText } from "./elements.js";

/** @typedef {import("../connections/client.js").Entry} Entry */
/**
 * @typedef {{people: import("./people.js").People, onStop: (offset: number) => void,
 *   onRegenerate: (offset: number) => Promise<void>, onDecide: OnDecide}} Options
 * @typedef {(offset: number, part: string, isApproved: boolean) => Promise<void>} OnDecide
 */

const STATES = {
  streaming: "writing",
  cancelled: "stopped",
  interrupted: "interrupted",
  error: "failed",
  done: "",
};

/** A message of a person, or an answer with those that it replaced. */
export class EntryView {
  element = make("li", "entry");
  #head = make("p", "head");
  #who = make("span", "who", "Answer");
  #time = make("span", "");
  #state = make("span", "state");
  #why = make("p", "why");
  #former = make("div", "former");
  #fold = /** @type {HTMLDetailsElement} */ (makeFold("fold", "", this.#former));
  /** How many answers the fold is about. */ #shown = 0;
  #stop;
  #again;
  #options;
  /** The valid entry and before it those that it replaced. @type {Entry[]} */ #entries;
  /** @type {AnswerView | null} */ #answer = null;

  /** @param {number} place @param {Entry[]} entries @param {Options} options */
  constructor(place, entries, options) {
    const { element } = this;
    this.#options = options;
    this.#entries = entries;
    this.#stop = makeButton("Stop", "Stop this answer", () => options.onStop(this.#entry.offset));
    this.#again = makeButton("Regenerate", "Regenerate this answer", () => void this.#regenerate());
    this.#stop.className = "plain stop";
    this.#again.className = "plain again";
    this.#fold.hidden = true;
    this.#fold.addEventListener("toggle", () => this.#showFormer());
    this.#head.append(this.#who, this.#time, this.#state, this.#stop, this.#again);
    element.dataset.place = String(place);
    element.dataset.from = this.#entry.from;
    if (this.#entry.from === "client") {
      element.append(this.#head, make("div", "text", textOf(this.#entry) || plain(this.#entry)));
    } else {
      this.#answer = this.#makeAnswer();
      element.append(this.#head, this.#answer.element);
    }
    element.append(this.#why, this.#fold);
    this.nameAuthor();
    this.#show();
  }

  get #entry() {
    return this.#entries[this.#entries.length - 1];
  }

  /** Show what has changed, or the answer that replaces this one. @param {Entry} entry */
  update(entry) {
    const at = this.#entries.findIndex(({ offset }) => offset === entry.offset);
    if (at < 0) this.#entries.push(entry);
    else this.#entries[at] = entry;
    this.#entries.sort((one, other) => one.offset - other.offset);
    this.#show();
  }

  /** Say whose message it is. */
  nameAuthor() {
    const { people } = this.#options;
    if (!this.#answer) {
      this.element.dataset.isOther = String(people.isOther(this.#entry.author));
      setText(this.#who, people.name(this.#entry.author));
    } else this.#answer.nameAll();
  }

  #show() {
    const { at, offset, state, kind, from, data } = this.#entry;
    const isStreaming = state === "streaming";
    this.element.dataset.offset = String(offset);
    this.element.dataset.state = state;
    this.#time.replaceChildren(makeTime(at));
    const text = STATES[state] ?? state;
    this.#state.hidden = !text;
    setText(this.#state, text);
    this.#stop.hidden = !isStreaming;
    // Only an answer to a message can be given again.
    this.#again.hidden = isStreaming || from === "client" || kind !== "message";
    this.#answer?.update(this.#entry);
    this.#why.hidden = !data?.error;
    setText(this.#why, data?.error ?? "");
    const former = this.#entries.length - 1;
    if (former === this.#shown) return;
    this.#shown = former;
    this.#fold.hidden = former === 0;
    const summary = former === 1 ? "Former answer" : `${former} former answers`;
    setText(/** @type {Element} */ (this.#fold.firstElementChild), summary);
    this.#showFormer();
  }

  /** Render the former answers while they are looked at, the latest first. */
  #showFormer() {
    const former = this.#fold.open ? this.#entries.slice(0, -1).reverse() : [];
    const views = former.map((entry) => {
      const view = this.#makeAnswer();
      view.update(entry);
      return view.element;
    });
    this.#former.replaceChildren(...views);
  }

  #makeAnswer() {
    const { people, onDecide } = this.#options;
    return new AnswerView({
      name: (author) => people.name(author),
      onDecide: (part, isApproved) => onDecide(this.#entry.offset, part, isApproved),
    });
  }

  async #regenerate() {
    const button = /** @type {HTMLButtonElement} */ (this.#again);
    button.disabled = true;
    await this.#options.onRegenerate(this.#entry.offset);
    button.disabled = false;
  }
}

/** Return string data as it is, other data without text as JSON. @param {Entry} entry */
function plain({ data }) {
  if (typeof data === "string") return data;
  return typeof data?.text === "string" ? "" : JSON.stringify(data);
}
