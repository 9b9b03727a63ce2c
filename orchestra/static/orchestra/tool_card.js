import { make, makeButton, makeFold, setText } from "./elements.js";
import {
  describeApproval,
  describeCall,
  describeResult,
  formatArguments,
  formatResult,
} from "./part_texts.js";

/** @typedef {import("../connections/parts.js").Part} Part */
/**
 * @typedef {{name: (author: string | undefined) => string,
 *   onDecide: (part: string, isApproved: boolean) => Promise<void>}} CallOptions
 */

/** A tool call as a card: its name, state, arguments, result, and the question to a person. */
export class ToolCard {
  element = make("div", "tool");
  #name = make("code", "tool-name");
  #state = make("span", "tool-state");
  #arguments = make("pre", "tool-text");
  #question = make("p", "tool-question");
  #decided = make("p", "quiet small");
  #options;
  /** @type {Part} */ #part = { id: "", type: "tool_call" };
  /** @type {HTMLElement | null} */ #result = null;

  /** @param {CallOptions} options */
  constructor(options) {
    this.#options = options;
    const head = make("p", "tool-head");
    head.append(this.#name, this.#state);
    this.element.setAttribute("role", "group");
    this.#question.append(
      make("span", "", "May it run?"),
      this.#makeAnswer("Approve", true),
      this.#makeAnswer("Deny", false),
    );
    this.element.append(head, this.#arguments, this.#question, this.#decided);
  }

  /** @param {Part} part @param {{isEnded: boolean}} answer */
  update(part, { isEnded }) {
    this.#part = part;
    const { state, label } = describeCall(part, isEnded);
    const name = part.name || "tool";
    this.element.dataset.state = state;
    this.element.setAttribute("aria-label", `Tool ${name}: ${label}`);
    setText(this.#name, name);
    setText(this.#state, label);
    this.#arguments.hidden = !part.arguments;
    setText(this.#arguments, formatArguments(part.arguments ?? ""));
    this.#question.hidden = state !== "awaiting_approval";
    this.nameAuthors();
    if (part.result !== undefined) this.#showResult(part.result);
  }

  /** Say who decided. */
  nameAuthors() {
    const decided = describeApproval(this.#part.approval, this.#options.name);
    this.#decided.hidden = !decided;
    setText(this.#decided, decided);
  }

  /** @param {string} text @param {boolean} isApproved */
  #makeAnswer(text, isApproved) {
    const button = makeButton(text, `${text} this call`, () => void this.#decide(isApproved));
    if (isApproved) button.className = "primary";
    return button;
  }

  /** @param {boolean} isApproved */
  async #decide(isApproved) {
    const buttons = this.#question.querySelectorAll("button");
    for (const one of buttons) one.disabled = true;
    await this.#options.onDecide(this.#part.id, isApproved);
    for (const one of buttons) one.disabled = false;
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
