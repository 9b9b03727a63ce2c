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

/** Return what a person of a role may do. @param {string} role */
export function sayRole(role) {
  if (role === "reader") return "read";
  return role === "agent" ? "answer as an agent" : "read and write";
}

/**
 * Return how an invitation stands; null if it has expired or was revoked.
 * @param {{single_use: boolean, expires_at: string, used_at: string | null,
 *   revoked_at: string | null}} invitation @param {number} now
 */
export function sayInvitation({ single_use, expires_at, used_at, revoked_at }, now) {
  if (revoked_at) return null;
  const isUsed = used_at !== null;
  if (isUsed && single_use) return { text: `Used ${sayMoment(used_at)}`, isOpen: false };
  if (Date.parse(expires_at) <= now) return null;
  const state = isUsed ? "Used, and works again" : "Not used yet";
  return { text: `${state} · until ${sayMoment(expires_at)}`, isOpen: true };
}

/** @param {string} at */
export function sayMoment(at) {
  return new Date(at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
