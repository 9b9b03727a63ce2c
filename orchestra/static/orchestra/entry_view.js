import { textOf } from "../connections/client.js";
import { AnswerView } from "./answer_view.js";
import { make, makeButton, makeTime, setText } from "./elements.js";

/** @typedef {import("../connections/client.js").Entry} Entry */

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
  #state = make("span", "state");
  #why = make("p", "why");
  #stop;
  /** @type {AnswerView | null} */ #answer = null;

  /** @param {Entry} entry @param {{onStop: (offset: number) => void}} options */
  constructor(entry, { onStop }) {
    const { element } = this;
    const isOwn = entry.from === "client";
    element.dataset.from = entry.from;
    element.dataset.offset = String(entry.offset);
    this.#head.append(make("span", "who", isOwn ? "You" : "Answer"), makeTime(entry.at), this.#state);
    this.#stop = makeButton("Stop", "Stop this answer", () => onStop(entry.offset));
    this.#stop.className = "plain stop";
    this.#head.append(this.#stop);
    if (isOwn) {
      element.append(this.#head, make("div", "text", textOf(entry) || plain(entry)));
    } else {
      this.#answer = new AnswerView();
      element.append(this.#head, this.#answer.element);
    }
    element.append(this.#why);
    this.update(entry);
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
