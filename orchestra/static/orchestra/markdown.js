// Render Markdown as DOM nodes. No text becomes markup: there is no HTML in between.

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*?)[ \t#]*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^( {0,3}(?:[-*+]|\d{1,9}[.)])[ \t]+)(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
// The lengths are bounded: unclosed marks cannot make a long text slow.
const INLINE = new RegExp(
  [
    String.raw`\\(?<escaped>[!-/:-@[-\`{-~])`,
    String.raw`(?<ticks>\`{1,9})(?!\`)(?<code>[^]{1,2000}?)(?<!\`)\k<ticks>(?!\`)`,
    String.raw`\[(?<label>[^[\]]{1,500})\]\((?<target>[^\s()<>]{1,2000})\)`,
    String.raw`(?<!\w)(?<bold>\*\*|__)(?=\S)(?<strong>[^]{1,300}?)(?<=\S)\k<bold>(?!\w)`,
    String.raw`(?<![\w*_])(?<mark>[*_])(?=[^\s*_])(?<em>[^]{1,300}?)(?<=\S)\k<mark>(?![\w*_])`,
    String.raw`(?<url>https?:\/\/[^\s<>"'\`()[\]]{1,2000}[^\s<>"'\`()[\].,:;!?*_])`,
  ].join("|"),
  "g",
);
const PROTOCOLS = ["http:", "https:", "mailto:"];
const MAX_DEPTH = 8;

/** A text that grows in an element; only its last two blocks are rendered again. */
export class MarkdownView {
  #element;
  /** The start of the last but one block. */ #start = 0;
  /** The number of nodes before it. */ #kept = 0;

  /** @param {HTMLElement} element */
  constructor(element) {
    this.#element = element;
  }

  /** @param {string} text what was shown before, and more */
  show(text) {
    while (this.#element.childNodes.length > this.#kept) this.#element.lastChild?.remove();
    const lines = text.slice(this.#start).split("\n");
    const open = addBlocks(this.#element, lines);
    this.#kept = Math.max(this.#kept, this.#element.childNodes.length - 2);
    for (const line of lines.slice(0, open)) this.#start += line.length + 1;
  }
}

/**
 * Append the blocks of some lines; return the line where the last but one begins.
 * @param {Element} parent @param {string[]} lines
 */
function addBlocks(parent, lines, depth = 0) {
  let [before, last] = [0, 0];
  for (let at = 0; at < lines.length; ) {
    if (lines[at].trim()) {
      [before, last] = [last, at];
      at = addBlock(parent, lines, at, depth);
    } else at += 1;
  }
  return before;
}

/**
 * Append the block that begins at a line; return the line after it.
 * @param {Element} parent @param {string[]} lines @param {number} at @param {number} depth
 */
function addBlock(parent, lines, at, depth) {
  const [fence, heading] = [FENCE.exec(lines[at]), HEADING.exec(lines[at])];
  if (fence) {
    const [, mark] = fence;
    const end = findLine(lines, at + 1, (one) =>
      one.trim().startsWith(mark) && !one.trim().replaceAll(mark[0], ""));
    const textContent = lines.slice(at + 1, end).join("\n");
    add(add(parent, "pre"), "code", { textContent });
    return end + 1;
  }
  if (heading) {
    // The page has h1 and h2.
    addInline(add(parent, `h${Math.min(6, heading[1].length + 2)}`), heading[2]);
    return at + 1;
  }
  if (RULE.test(lines[at])) return add(parent, "hr") && at + 1;
  if (depth < MAX_DEPTH && ITEM.test(lines[at])) return addList(parent, lines, at, depth);
  const isQuote = depth < MAX_DEPTH && QUOTE.test(lines[at]);
  const end = findLine(lines, at + 1, (one) =>
    isQuote ? !QUOTE.test(one) : !one.trim() || isBlockStart(one));
  const text = lines.slice(at, end);
  if (isQuote) {
    const quoted = text.map((one) => one.replace(QUOTE, "$1"));
    addBlocks(add(parent, "blockquote"), quoted, depth + 1);
  } else addInline(add(parent, "p"), text.join("\n"));
  return end;
}

/** @param {Element} parent @param {string[]} lines @param {number} at @param {number} depth */
function addList(parent, lines, at, depth) {
  const start = /^ *(\d+)/.exec(lines[at])?.[1];
  const list = start ? add(parent, "ol", { start }) : add(parent, "ul");
  const isOther = (/** @type {string} */ one) =>
    !/^(?: {2}|\t)/.test(one) && (!one.trim() || isBlockStart(one));
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || RULE.test(lines[at]) || /^ *\d/.test(lines[at]) !== Boolean(start)) break;
    const end = findLine(lines, at + 1, isOther);
    const rest = lines.slice(at + 1, end).map((one) =>
      one.slice(Math.min(item[1].length, one.length - one.trimStart().length)));
    addBlocks(add(list, "li"), [item[2], ...rest], depth + 1);
    // One empty line may stand between items.
    at = end + Number(lines[end]?.trim() === "" && ITEM.test(lines[end + 1] ?? ""));
  }
  return at;
}

const isBlockStart = (/** @type {string} */ line) =>
  [FENCE, HEADING, RULE, ITEM, QUOTE].some((one) => one.test(line));

/** @param {string[]} lines @param {number} from @param {(line: string) => boolean} matches */
function findLine(lines, from, matches) {
  while (from < lines.length && !matches(lines[from])) from += 1;
  return from;
}

/** @param {Element} parent @param {string} text */
function addInline(parent, text, depth = 0, isInLink = false) {
  let shown = 0;
  for (const match of depth < MAX_DEPTH ? text.matchAll(INLINE) : []) {
    const part = match.groups ?? {};
    const target = part.target ?? part.url;
    const href = isInLink ? null : readLink(target);
    if (target !== undefined && href === null) continue;
    parent.append(text.slice(shown, match.index));
    shown = match.index + match[0].length;
    if (part.escaped) parent.append(part.escaped);
    else if (part.code) add(parent, "code", { textContent: part.code });
    else if (href) {
      const link = add(parent, "a", { href, rel: "noopener noreferrer", target: "_blank" });
      addInline(link, part.label ?? part.url, depth + 1, true);
    } else if (part.strong) addInline(add(parent, "strong"), part.strong, depth + 1, isInLink);
    else addInline(add(parent, "em"), part.em, depth + 1, isInLink);
  }
  parent.append(text.slice(shown));
}

/** Return an absolute address of an allowed kind. @param {string | undefined} text */
function readLink(text = "") {
  const url = URL.canParse(text) ? new URL(text) : null;
  return url && PROTOCOLS.includes(url.protocol) ? url.href : null;
}

/** @param {Element} parent @param {string} tag @param {Record<string, string>} values */
function add(parent, tag, values = {}) {
  return parent.appendChild(Object.assign(document.createElement(tag), values));
}
