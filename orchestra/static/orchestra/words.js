// Texts of the page for the states and ends of a connection.

/** @typedef {import("../connections/reconnect.js").Ending} Ending */

/** The text on the page after the last connection has ended. */
const ENDS = {
  evicted: {
    title: "In use elsewhere",
    text: "You have opened this in more places than may be connected at once. Nothing is lost.",
    button: "Use here",
  },
  idle: {
    title: "Paused",
    text: "The conversation was idle for a while. Write a message, or reconnect here.",
    button: "Reconnect",
  },
  not_found: {
    title: "No such conversation",
    text: "It does not exist, or it belongs to somebody else.",
    button: "New conversation",
    href: location.pathname,
  },
  forbidden: {
    title: "Not your conversation any more",
    text: "You have left it, or its owner has removed you.",
    button: "Your conversations",
    href: location.pathname,
  },
  sessions_full: {
    title: "Too many conversations",
    text: "You have as many as allowed. All of them are kept.",
    button: "Back to them",
    href: location.pathname,
  },
  unauthenticated: askToSignIn("You are signed out"),
  logged_out: askToSignIn("You have signed out"),
  revoked: askToSignIn("Your access was withdrawn"),
  kicked: {
    title: "Disconnected by an operator",
    text: "Reconnect if staff asked you to.",
    button: "Connect again",
  },
};

/** @param {string} title */
function askToSignIn(title) {
  return {
    title,
    text: "The conversation is kept. Sign in to continue.",
    button: "Sign in",
    href: `${document.body.dataset.signIn}?next=${encodeURIComponent(location.pathname + location.search)}`,
  };
}

/** @param {Ending | null} ending */
export function describeEnd(ending) {
  const known = ENDS[/** @type {keyof typeof ENDS} */ (ending?.reason ?? "")];
  if (known) return known;
  const reference = ending?.ref ? `, reference ${ending.ref}` : "";
  return {
    title: "The connection has ended",
    text: `${ending?.reason.replaceAll("_", " ")} (${ending?.code}${reference})`,
    button: "Connect again",
  };
}

/**
 * Return how the connection stands. A screen reader speaks it, so that it does not
 * change while attempts follow one another.
 * @param {string} state @param {Ending | null} ending
 */
export function describeState(state, ending) {
  switch (state) {
    case "open":
      return "Connected";
    case "connecting":
    case "waiting":
      return ending ? describeLoss(ending) : "Connecting…";
    case "closed":
      return describeEnd(ending).title;
    default:
      return "Ready";
  }
}

/** @param {Ending} ending */
function describeLoss(ending) {
  switch (ending.reason) {
    case "draining":
      return "Server restarting";
    case "pool_full":
    case "client_full":
      return "Server full";
    case "rate_limited":
      return "Too fast";
    default:
      return "Reconnecting";
  }
}
