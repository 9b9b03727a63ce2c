// Test the sessions of a client over HTTP, against a fake fetch.

import assert from "node:assert/strict";
import { test } from "node:test";

import { HttpSessions } from "../../connections/static/connections/http.js";

const ROOT = "https://host/api/sessions";

/** Answer one request after the other, and record them. */
function makeFetch(...answers) {
  const asked = [];
  const fetch = async (url, options) => {
    asked.push({ url: String(url), ...options });
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    const [status, content, headers] = answer;
    const body = content === undefined ? null : JSON.stringify(content);
    return new Response(body, { status, headers });
  };
  return { asked, fetch };
}

const makeError = (code) => ({ error: { code, message: "A sentence." } });

test("a page has its limit and cursor, and an id is escaped", async () => {
  const page = { items: [], next_cursor: "c2" };
  const { asked, fetch } = makeFetch([200, page], [200, page]);
  const sessions = new HttpSessions(ROOT, { fetch });
  assert.deepEqual(await sessions.list({ limit: 2, cursor: "a b" }), page);
  await sessions.entries("x/y");
  assert.equal(asked[0].url, `${ROOT}/?limit=2&cursor=a+b`);
  assert.equal(asked[1].url, `${ROOT}/x%2Fy/entries/`);
  assert.equal(asked[0].credentials, "same-origin");
});

test("a title is sent as JSON, and a deletion returns nothing", async () => {
  const { asked, fetch } = makeFetch([200, { id: "x", title: "é" }], [204]);
  const sessions = new HttpSessions(ROOT, { fetch, csrfToken: "t" });
  assert.equal((await sessions.rename("x", "é")).title, "é");
  assert.equal(await sessions.delete("x"), undefined);
  assert.deepEqual(
    asked.map(({ method, body }) => [method, body]),
    [
      ["PATCH", '{"title":"é"}'],
      ["DELETE", undefined],
    ],
  );
  assert.equal(asked[0].headers["Content-Type"], "application/json");
  assert.equal(asked[1].headers["X-CSRFToken"], "t");
});

test("without a token the CSRF token of Django's cookie is sent", async (t) => {
  globalThis.document = { cookie: "a=1; csrftoken=secret; b=2" };
  t.after(() => delete globalThis.document);
  const { asked, fetch } = makeFetch([204], [200, {}]);
  const sessions = new HttpSessions(ROOT, { fetch });
  await sessions.delete("x");
  await sessions.get("x");
  assert.equal(asked[0].headers["X-CSRFToken"], "secret");
  assert.equal("X-CSRFToken" in asked[1].headers, false);
});

test("an expired token is replaced once", async () => {
  const tokens = [];
  const getToken = (asked) => {
    tokens.push(asked);
    return `t${tokens.length}`;
  };
  const unknown = [401, makeError("unauthenticated")];
  const { asked, fetch } = makeFetch(unknown, [200, {}], unknown, unknown);
  const sessions = new HttpSessions(ROOT, { fetch, getToken });
  await sessions.get("x");
  assert.deepEqual(tokens, [
    { isExpired: false, previous: null },
    { isExpired: true, previous: "t1" },
  ]);
  assert.deepEqual(
    asked.map(({ headers }) => headers.Authorization),
    ["Bearer t1", "Bearer t2"],
  );
  await assert.rejects(sessions.get("x"), { code: "unauthenticated" });
  assert.equal(asked.length, 4);
});

test("errors have the server's code, or say who failed", async () => {
  const { fetch } = makeFetch(
    [404, makeError("not_found")],
    [502, "Bad gateway"],
    [200],
    new TypeError("Failed to fetch"),
  );
  const sessions = new HttpSessions(ROOT, { fetch });
  for (const code of ["not_found", "http_502", "http_200", "network"]) {
    await assert.rejects(sessions.get("x"), { name: "RequestError", code });
  }
});

test("an error names the seconds of Retry-After", async () => {
  const limited = makeError("rate_limited");
  const { fetch } = makeFetch([429, limited, { "Retry-After": "7" }], [429, limited]);
  const sessions = new HttpSessions(ROOT, { fetch });
  for (const retryAfterSeconds of [7, null]) {
    await assert.rejects(sessions.get("x"), { code: "rate_limited", retryAfterSeconds });
  }
});

test("an aborted request rejects with the signal's reason", async () => {
  const stop = new AbortController();
  const fetch = async () => {
    stop.abort(new Error("left"));
    throw new TypeError("aborted");
  };
  const sessions = new HttpSessions(ROOT, { fetch });
  await assert.rejects(sessions.list({ signal: stop.signal }), { message: "left" });
});

test("members and invitations have their requests", async () => {
  const made = { id: "i/1", role: "reader", token: "t" };
  const joined = { session: "x", role: "reader" };
  const { asked, fetch } = makeFetch(
    ...[[200, { role: "owner", items: [] }], [201, made], [201, made]],
    ...[[200, { items: [made] }], [204], [204], [204], [200, joined]],
  );
  const sessions = new HttpSessions(ROOT, { fetch });
  assert.equal((await sessions.members("x")).role, "owner");
  assert.equal((await sessions.invite("x", "reader")).token, "t");
  await sessions.invite("x", "agent", { singleUse: false, lifetimeSeconds: 60 });
  assert.deepEqual((await sessions.invitations("x")).items, [made]);
  await sessions.revoke("x", "i/1");
  await sessions.changeRole("x", "5", "owner");
  await sessions.removeMember("x", "5");
  assert.deepEqual(await sessions.join("t"), joined);
  assert.deepEqual(
    asked.map(({ method, url, body }) => [method, url.slice(ROOT.length), body]),
    [
      ["GET", "/x/members/", undefined],
      ["POST", "/x/invitations/", '{"role":"reader","single_use":true}'],
      [
        "POST",
        "/x/invitations/",
        '{"role":"agent","single_use":false,"lifetime_seconds":60}',
      ],
      ["GET", "/x/invitations/", undefined],
      ["DELETE", "/x/invitations/i%2F1/", undefined],
      ["PATCH", "/x/members/5/", '{"role":"owner"}'],
      ["DELETE", "/x/members/5/", undefined],
      ["POST", "/join/", '{"token":"t"}'],
    ],
  );
});
