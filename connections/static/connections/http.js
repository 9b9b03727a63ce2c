// The sessions of a client over HTTP: list, rename, delete, read their entries, and
// invite others.
//
//   const sessions = new HttpSessions("/api/sessions/");
//   const { items, next_cursor } = await sessions.list({ limit: 20 });
//   await sessions.rename(items[0].id, "Plans");

import { readCookie } from "./fallback.js";
import { RequestError } from "./outbox.js";

export { withFallback } from "./fallback.js";

/**
 * @typedef {import("./transcript.js").Entry} Entry
 * @typedef {{id: string, title: string, role?: Role, epoch: string, last_offset: number,
 *   created_at: string, last_seen_at: string}} StoredSession `role` is the client's own
 * @typedef {"owner"|"writer"|"reader"|"agent"} Role
 * @typedef {{author: string, user: string | null, role: Role, since: string | null}}
 *   Member `author` is as in entries; `user` is null for an owner that is a client
 * @typedef {{id: string, role: Role, single_use: boolean, created_at: string,
 *   expires_at: string, used_at: string | null, revoked_at: string | null}} Invitation
 * @typedef {{limit?: number, cursor?: string | null, signal?: AbortSignal}} PageOptions
 * @typedef {{getToken?: import("./tokens.js").GetToken, csrfToken?: string,
 *   fetch?: typeof fetch}} HttpOptions without `getToken` the browser sends its cookie,
 *   with `csrfToken`, by default that of Django's cookie `csrftoken`
 */

/**
 * All methods reject with a RequestError: its `code` is the server's, `network` where
 * no answer arrived, or `http_502` and the like where a proxy answered. An aborted
 * `signal` rejects with its reason.
 */
export class HttpSessions {
  #url;
  #getToken;
  #csrfToken;
  #fetch;

  /** @param {string | URL} url of all sessions @param {HttpOptions} [options] */
  constructor(url, { getToken, csrfToken, fetch = globalThis.fetch } = {}) {
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.pathname = this.#url.pathname.replace(/\/*$/, "/");
    this.#getToken = getToken;
    this.#csrfToken = csrfToken;
    this.#fetch = fetch.bind(globalThis);
  }

  /**
   * Return a page of the sessions, the last used first.
   * @param {PageOptions} [options]
   * @returns {Promise<{items: StoredSession[], next_cursor: string | null}>}
   */
  list(options) {
    return this.#ask("GET", "", options);
  }

  /** Return one session. @param {string} id @returns {Promise<StoredSession>} */
  get(id) {
    return this.#ask("GET", makePath(id));
  }

  /**
   * Set the title of a session; an empty text removes it.
   * @param {string} id @param {string} title @returns {Promise<StoredSession>}
   */
  rename(id, title) {
    return this.#ask("PATCH", makePath(id), {}, { title });
  }

  /**
   * Delete a session, whose connections then end with 4004.
   * @param {string} id @returns {Promise<void>}
   */
  delete(id) {
    return this.#ask("DELETE", makePath(id));
  }

  /**
   * Return a page of entries in order; the newest come first, then older ones.
   * @param {string} id @param {PageOptions} [options]
   * @returns {Promise<{items: Entry[], next_cursor: string | null, session: string,
   *   epoch: string, last_offset: number}>}
   */
  entries(id, options) {
    return this.#ask("GET", `${makePath(id)}entries/`, options);
  }

  /**
   * Return who may use a session, and the client's own role.
   * @param {string} id @returns {Promise<{role: Role, items: Member[]}>}
   */
  members(id) {
    return this.#ask("GET", `${makePath(id)}members/`);
  }

  /**
   * Change the role of a member; `owner` hands the session over.
   * @param {string} id @param {string} user @param {Role} role @returns {Promise<void>}
   */
  changeRole(id, user, role) {
    return this.#ask("PATCH", `${makePath(id)}members/${makePath(user)}`, {}, { role });
  }

  /**
   * Remove a member, whose connections then end with 4003; or leave oneself.
   * @param {string} id @param {string} user @returns {Promise<void>}
   */
  removeMember(id, user) {
    return this.#ask("DELETE", `${makePath(id)}members/${makePath(user)}`);
  }

  /**
   * Make an invitation, whose token is shown this once; it is valid for 24 hours,
   * unless the server is configured otherwise.
   * @param {string} id @param {Role} role but that of the owner
   * @param {{singleUse?: boolean, lifetimeSeconds?: number}} [options]
   * @returns {Promise<Invitation & {token: string}>}
   */
  invite(id, role, { singleUse = true, lifetimeSeconds } = {}) {
    const body = { role, single_use: singleUse, lifetime_seconds: lifetimeSeconds };
    return this.#ask("POST", `${makePath(id)}invitations/`, {}, body);
  }

  /**
   * Return the newest 200 invitations, without their tokens.
   * @param {string} id @returns {Promise<{items: Invitation[]}>}
   */
  invitations(id) {
    return this.#ask("GET", `${makePath(id)}invitations/`);
  }

  /**
   * Revoke an invitation; who joined by it stays.
   * @param {string} id @param {string} invitation its id @returns {Promise<void>}
   */
  revoke(id, invitation) {
    return this.#ask("DELETE", `${makePath(id)}invitations/${makePath(invitation)}`);
  }

  /**
   * Make the user of the client a member, by the token of an invitation.
   * @param {string} token @returns {Promise<{session: string, role: Role}>}
   */
  join(token) {
    return this.#ask("POST", "join/", {}, { token });
  }

  /**
   * @param {string} method @param {string} path @param {PageOptions} [options]
   * @param {object} [body] @returns {Promise<any>}
   */
  async #ask(method, path, { limit, cursor, signal } = {}, body) {
    const url = new URL(path, this.#url);
    if (limit) url.searchParams.set("limit", String(limit));
    if (cursor) url.searchParams.set("cursor", cursor);
    /** @type {string | null} */ let previous = null;
    for (let isExpired = false; ; isExpired = true) {
      /** @type {string | null} */ const token = (await this.#getToken?.({ isExpired, previous })) ?? null;
      const response = await this.#send(method, url, token, body, signal);
      // The token may have expired: a new one is asked for once.
      if (response.status !== 401 || token === null || isExpired) return read(response);
      previous = token;
    }
  }

  /**
   * @param {string} method @param {URL} url @param {string | null} token
   * @param {object | undefined} body @param {AbortSignal | undefined} signal
   */
  async #send(method, url, token, body, signal) {
    /** @type {Record<string, string>} */ const headers = {};
    if (body) headers["Content-Type"] = "application/json";
    if (token) headers.Authorization = `Bearer ${token}`;
    else if (method !== "GET") headers["X-CSRFToken"] = this.#csrfToken ?? readCookie();
    try {
      return await this.#fetch(url, {
        method,
        headers,
        body: body && JSON.stringify(body),
        credentials: "same-origin",
        signal,
      });
    } catch (error) {
      signal?.throwIfAborted();
      throw new RequestError("network", `no answer: ${error}`);
    }
  }
}

/** @param {Response} response */
async function read(response) {
  if (response.status === 204) return;
  const content = await response.json().catch(() => null);
  if (response.ok && content) return content;
  const { code = `http_${response.status}`, message = "not the server's answer" } =
    content?.error ?? {};
  const error = new RequestError(code, message);
  error.retryAfterSeconds = Number(response.headers.get("Retry-After")) || null;
  throw error;
}

/** @param {string} id */
function makePath(id) {
  return `${encodeURIComponent(id)}/`;
}
