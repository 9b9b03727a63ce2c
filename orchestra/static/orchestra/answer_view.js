import { partsOf, textOf } from "../connections/client.js";
import { make, makeFold, makeLink, setText } from "./elements.js";
import { MarkdownView } from "./markdown.js";
import { clip, describeUsage, nameAgent, nameHost, readAddress, sortParts } from "./part_texts.js";
import { ToolCard } from "./tool_card.js";

/** @typedef {import("../connections/client.js").Entry} Entry */
/** @typedef {import("../connections/parts.js").Part} Part */
/** @typedef {{isEnded: boolean, isLast: boolean}} Place */
/** @typedef {{element: HTMLElement, update: (part: Part, place: Place) => void}} PartView */
/** @typedef {{view: PartView, shown: object}} Held */

/** The parts of one answer, which grow in place, so that what is open stays open. */
export class AnswerView {
  element = make("div", "parts");
  /** @type {Map<string, Held>} */ #held = new Map();
  #caret = make("span", "caret");
  #options;
  #sources = new SourceList();
  #hidden = make("p", "quiet small");
  #usage = make("p", "usage");

  /** @param {import("./tool_card.js").CallOptions} options */
  constructor(options) {
    this.#options = options;
    this.element.append(this.#caret, this.#sources.element, this.#hidden, this.#usage);
  }

  /** @param {Entry} entry */
  update(entry) {
    const isEnded = entry.state !== "streaming";
    const { body, sources, usage, hidden } = sortParts(readParts(entry));
    const ids = new Set(body.map(({ id }) => id));
    // A node that died may have sent more than it wrote.
    for (const [id, { view }] of this.#held) {
      if (ids.has(id)) continue;
      view.element.parentElement?.remove();
      this.#held.delete(id);
    }
    for (const [place, part] of body.entries()) {
      const held = this.#held.get(part.id) ?? this.#add(part, body[place - 1]);
      const shown = { ...part, isEnded, isLast: place === body.length - 1 };
      if (!isSame(held.shown, shown)) held.view.update(part, shown);
      held.shown = shown;
    }
    this.#sources.update(sources);
    this.#hidden.hidden = hidden === 0;
    setText(this.#hidden, hidden === 0 ? "" : `${hidden} more parts are not shown.`);
    this.#usage.hidden = usage.length === 0;
    setText(this.#usage, usage.length === 0 ? "" : describeUsage(usage));
  }

  /** Name the persons again who decided on its calls. */
  nameAll() {
    for (const { view } of this.#held.values()) if (view instanceof ToolCard) view.nameAuthors();
  }

  /** @param {Part} part @param {Part | undefined} before */
  #add(part, before) {
    const view = this.#makeView(part.type);
    const element = make("div", "part");
    element.dataset.type = part.type;
    if (part.author && part.author !== before?.author) {
      element.append(make("p", "agent", nameAgent(part.author)));
    }
    element.append(view.element);
    this.#caret.before(element);
    const held = { view, shown: {} };
    this.#held.set(part.id, held);
    return held;
  }

  /** @param {string} type @returns {PartView} */
  #makeView(type) {
    if (type === "text") return new TextView();
    if (type === "tool_call") return new ToolCard(this.#options);
    if (type === "reasoning") return new ReasoningView();
    return new PlainView();
  }
}

/** @param {object} one @param {object} other */
function isSame(one, other) {
  const values = new Map(Object.entries(one));
  const others = Object.entries(other);
  return values.size === others.length && others.every(([name, value]) => values.get(name) === value);
}

/** Return the parts of an answer; data of another form is shown as JSON. @param {Entry} entry */
function readParts(entry) {
  const { data, parts } = entry;
  if (parts || textOf(entry) || typeof data?.text === "string") return partsOf(entry);
  const text = typeof data === "string" ? data : JSON.stringify(data);
  return [{ id: "text", type: "text", text }];
}

class TextView {
  element = make("div", "text");
  #view = new MarkdownView(this.element);
  #shown = "";

  /** @param {Part} part */
  update({ text = "" }) {
    if (!text.startsWith(this.#shown)) {
      this.element.replaceChildren();
      this.#view = new MarkdownView(this.element);
    }
    this.#view.show(text);
    this.#shown = text;
  }
}

class ReasoningView {
  #text = make("div", "thoughts");
  #preview = make("span", "preview");
  #title = make("span", "");
  element = makeFold("fold reasoning", "", this.#text);

  constructor() {
    this.element.querySelector("summary")?.append(this.#title, this.#preview);
  }

  /** @param {Part} part @param {Place} place */
  update({ text = "" }, { isEnded, isLast }) {
    setText(this.#title, isLast && !isEnded ? "Thinking" : "Thoughts");
    setText(this.#preview, text.slice(0, 120));
    setText(this.#text, clip(text));
  }
}

/** A file, an error, or what an application made up. */
class PlainView {
  element = make("div", "plain-part");

  /** @param {Part} part */
  update(part) {
    this.element.replaceChildren(showPlain(part));
    this.element.classList.toggle("why", part.type === "error");
  }
}

/** @param {Part} part */
function showPlain({ type, url, name, media_type: mediaType, message, data }) {
  if (type === "error") return make("p", "", `Error: ${clip(message ?? "unknown")}`);
  if (type === "custom") {
    const text = make("pre", "tool-text", clip(JSON.stringify(data, null, 2) ?? ""));
    return makeFold("fold", name || "More", text);
  }
  const line = make("p", "file");
  const href = readAddress(url);
  const title = name || (href && nameHost(href)) || "File";
  line.append(href ? makeLink(href, title) : make("span", "", title));
  if (mediaType) line.append(make("span", "quiet small", mediaType));
  return line;
}

class SourceList {
  element = make("section", "sources");
  #list = make("ol", "");
  #shown = "";

  constructor() {
    this.element.setAttribute("aria-label", "Sources");
    this.element.append(make("h3", "", "Sources"), this.#list);
  }

  /** @param {Part[]} sources */
  update(sources) {
    this.element.hidden = sources.length === 0;
    const shown = JSON.stringify(sources);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#list.replaceChildren(...sources.map(makeSource));
  }
}

/** @param {Part} source */
function makeSource({ url, title }) {
  const item = make("li", "");
  const href = readAddress(url);
  const text = title || (href && nameHost(href)) || "Source";
  item.append(href ? makeLink(href, text) : make("span", "", text));
  if (href) item.append(make("span", "quiet small", nameHost(href)));
  return item;
}
