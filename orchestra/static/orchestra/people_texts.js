// How the page calls people. It uses no document, so that node tests it.

/**
 * @param {string | undefined} author @param {string} own
 * @param {Map<string, {name: string}>} people
 */
export function namePerson(author, own, people) {
  // Servers before members, and entries of their time, name no author.
  if (!author || author === own) return "You";
  // The names are not there at once.
  return people.get(author)?.name ?? (people.size > 0 ? "A former member" : "…");
}

/** @param {string[]} names */
export function sayTyping(names) {
  if (names.length === 0) return "";
  if (names.length === 1) return `${names[0]} is typing…`;
  if (names.length === 2) return `${names[0]} and ${names[1]} are typing…`;
  return `${names.length} people are typing…`;
}
