import { make, makeFold, setText } from "./elements.js";
import { describeCall, describeResult, formatArguments, formatResult } from "./part_texts.js";

/** @typedef {import("../connections/parts.js").Part} Part */

/** A tool call as a card: its name, state, arguments and result. */
export class ToolCard {
  element = make("div", "tool");
  #name = make("code", "tool-name");
  #state = make("span", "tool-state");
  #arguments = make("pre", "tool-text");
  /** @type {HTMLElement | null} */ #result = null;

  constructor() {
    const head = make("p", "tool-head");
    head.append(this.#name, this.#state);
    this.element.setAttribute("role", "group");
    this.element.append(head, this.#arguments);
  }

  /** @param {Part} part @param {{isEnded: boolean}} answer */
  update(part, { isEnded }) {
    const { state, label } = describeCall(part, isEnded);
    const name = part.name || "tool";
    this.element.dataset.state = state;
    this.element.setAttribute("aria-label", `Tool ${name}: ${label}`);
    setText(this.#name, name);
    setText(this.#state, label);
    this.#arguments.hidden = !part.arguments;
    setText(this.#arguments, formatArguments(part.arguments ?? ""));
    if (part.result !== undefined) this.#showResult(part.result);
  }

  /** @param {unknown} result */
  #showResult(result) {
    if (!this.#result) {
      this.#result = make("pre", "tool-text");
      // It scrolls, and so takes the focus of a keyboard.
      this.#result.tabIndex = 0;
      this.#result.setAttribute("role", "group");
      this.#result.setAttribute("aria-label", "Result");
      this.element.append(makeFold("fold", "", this.#result));
    }
    const summary = this.#result.previousElementSibling;
    if (summary) setText(summary, describeResult(result));
    setText(this.#result, formatResult(result));
  }
}
