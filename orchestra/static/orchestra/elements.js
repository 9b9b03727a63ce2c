/** @param {string} id */
export const get = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @param {string} tag @param {string} className @param {string} [text] */
export function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** Set a text unless it is there, so that selections stay. @param {Element} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** @param {string} at */
export function makeTime(at) {
  const element = /** @type {HTMLTimeElement} */ (document.createElement("time"));
  element.dateTime = at;
  element.textContent = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return element;
}

/** Make a link to another site. @param {string} href @param {string} text */
export function makeLink(href, text) {
  const link = make("a", "", text);
  return Object.assign(link, { href, rel: "noopener noreferrer", target: "_blank" });
}

/** @param {string} text @param {string} label @param {() => void} onClick */
export function makeButton(text, label, onClick) {
  const button = make("button", "", text);
  button.setAttribute("type", "button");
  button.setAttribute("aria-label", label);
  button.addEventListener("click", onClick);
  return button;
}

/** @param {string} className @param {string} summary @param {HTMLElement} content */
export function makeFold(className, summary, content) {
  const details = /** @type {HTMLDetailsElement} */ (make("details", className));
  details.append(make("summary", "", summary), content);
  return details;
}
