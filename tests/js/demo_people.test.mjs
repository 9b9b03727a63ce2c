import assert from "node:assert/strict";
import { test } from "node:test";

import { namePerson, sayInvitation, sayRole, sayTyping } from "../../orchestra/static/orchestra/people_texts.js";

test("a message says whose it is", () => {
  const people = new Map([["user:2", { name: "bob" }]]);
  assert.equal(namePerson("user:1", "user:1", people), "You");
  assert.equal(namePerson(undefined, "user:1", people), "You");
  assert.equal(namePerson("user:2", "user:1", people), "bob");
  assert.equal(namePerson("user:3", "user:1", people), "A former member");
  assert.equal(namePerson("user:3", "user:1", new Map()), "…");
});

test("who types is named while there are few", () => {
  assert.equal(sayTyping([]), "");
  assert.equal(sayTyping(["bob"]), "bob is typing…");
  assert.equal(sayTyping(["bob", "eve"]), "bob and eve are typing…");
  assert.equal(sayTyping(["bob", "eve", "mallory"]), "3 people are typing…");
});

test("an invitation says whether it is used, and until when it works", () => {
  const open = {
    single_use: true,
    expires_at: "2030-01-02T12:00:00+00:00",
    used_at: null,
    revoked_at: null,
  };
  const now = Date.parse("2030-01-01T12:00:00Z");
  const say = (changes, at = now) => sayInvitation({ ...open, ...changes }, at);
  assert.match(say({}).text, /^Not used yet · until .*2030/);
  assert.equal(say({}).isOpen, true);
  assert.equal(say({}, now + 86_400_000), null);
  assert.equal(say({ revoked_at: "2030-01-01T00:00:00Z" }), null);
  const used = { used_at: "2030-01-01T00:00:00Z" };
  assert.match(say(used).text, /^Used .*2030/);
  assert.equal(say(used).isOpen, false);
  // Who joined last is of interest after the end too.
  assert.equal(say(used, now + 86_400_000).isOpen, false);
  const several = say({ ...used, single_use: false });
  assert.match(several.text, /^Used, and works again · until/);
  assert.equal(several.isOpen, true);
  assert.equal(say({ ...used, single_use: false }, now + 86_400_000), null);
});

test("a role is said in words", () => {
  assert.equal(sayRole("reader"), "read");
  assert.equal(sayRole("writer"), "read and write");
  assert.equal(sayRole("agent"), "answer as an agent");
});
