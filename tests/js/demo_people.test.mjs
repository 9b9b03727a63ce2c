import assert from "node:assert/strict";
import { test } from "node:test";

import { namePerson, sayTyping } from "../../orchestra/static/orchestra/people_texts.js";

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
