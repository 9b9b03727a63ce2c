import { textOf } from "../connections/client.js";
import { AnswerView } from "./answer_view.js";
import { make, makeButton, makeTime, setText } from "./elements.js";

/** @typedef {import("../connections/client.js").Entry} Entry */
/** @typedef {{people: import("./people.js").People, onStop: (offset: number) => void}} Options */

const STATES = {
  streaming: "writing",
  cancelled: "stopped",
  interrupted: "interrupted",
  error: "failed",
  done: "",
};

/** One entry of the transcript: a message of a person, or an answer. */
export class EntryView {
  element = make("li", "entry");
  #head = make("p", "head");
  #who = make("span", "who", "Answer");
  #state = make("span", "state");
  #why = make("p", "why");
  #stop;
  #people;
  #author;
  /** @type {AnswerView | null} */ #answer = null;

  /** @param {Entry} entry @param {Options} options */
  constructor(entry, { people, onStop }) {
    const { element } = this;
    this.#people = people;
    this.#author = entry.author;
    element.dataset.from = entry.from;
    element.dataset.offset = String(entry.offset);
    this.#head.append(this.#who, makeTime(entry.at), this.#state);
    this.#stop = makeButton("Stop", "Stop this answer", () => onStop(entry.offset));
    this.#stop.className = "plain stop";
    this.#head.append(this.#stop);
    if (entry.from === "client") {
      element.append(this.#head, make("div", "text", textOf(entry) || plain(entry)));
    } else {
      this.#answer = new AnswerView();
      element.append(this.#head, this.#answer.element);
    }
    element.append(this.#why);
    this.nameAuthor();
    this.update(entry);
  }

  /** Say whose message it is. */
  nameAuthor() {
    if (this.#answer) return;
    this.element.dataset.isOther = String(this.#people.isOther(this.#author));
    setText(this.#who, this.#people.name(this.#author));
  }

  /** Show what has changed. @param {Entry} entry */
  update(entry) {
    this.element.dataset.state = entry.state;
    const state = STATES[entry.state] ?? entry.state;
    this.#state.hidden = !state;
    setText(this.#state, state);
    this.#stop.hidden = entry.state !== "streaming";
    this.#answer?.update(entry);
    this.#why.hidden = !entry.data?.error;
    setText(this.#why, entry.data?.error ?? "");
  }
}

/** Return string data as it is, other data without text as JSON. @param {Entry} entry */
function plain({ data }) {
  if (typeof data === "string") return data;
  return typeof data?.text === "string" ? "" : JSON.stringify(data);
}
