import assert from "node:assert/strict";
import { test } from "node:test";

import {
  MOST_CHARACTERS,
  MOST_PARTS,
  clip,
  describeApproval,
  describeCall,
  describeResult,
  describeUsage,
  formatArguments,
  formatResult,
  nameAgent,
  nameHost,
  readAddress,
  sortParts,
} from "../../orchestra/static/orchestra/part_texts.js";

const part = (type, id, more = {}) => ({ type, id, ...more });

test("parts are sorted into the body, the sources and the usage", () => {
  const parts = [
    part("reasoning", "r"),
    part("source", "s1", { url: "https://e.test/1" }),
    part("text", "t"),
    part("source", "s2", { url: "https://e.test/1", title: "Again" }),
    part("usage", "u"),
    part("of_the_future", "f"),
  ];
  const { body, sources, usage, hidden } = sortParts(parts);
  assert.deepEqual(body.map(({ id }) => id), ["r", "t"]);
  assert.deepEqual(sources.map(({ id }) => id), ["s2"]);
  assert.deepEqual(usage.map(({ id }) => id), ["u"]);
  assert.equal(hidden, 0);
});

test("an answer of thousands of parts shows some of them, and tells of the others", () => {
  const calls = Array.from({ length: 3000 }, (_, n) => part("tool_call", `c${n}`));
  const sources = Array.from({ length: 500 }, (_, n) => part("source", `s${n}`, { url: `${n}` }));
  const sorted = sortParts([...calls, ...sources]);
  assert.equal(sorted.body.length, MOST_PARTS);
  assert.equal(sorted.sources.length, MOST_PARTS);
  assert.equal(sorted.hidden, 3500 - 2 * MOST_PARTS);
});

test("addresses of the web are linked, and no others", () => {
  assert.equal(readAddress("https://e.test/a b"), "https://e.test/a%20b");
  assert.equal(readAddress("HTTP://e.test"), "http://e.test/");
  for (const other of [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\nscript:alert(1)",
    " \u0001javascript:alert(1)",
    "data:text/html,x",
    "blob:https://e.test/1",
    "file:///etc/passwd",
    "mailto:a@e.test",
    "//e.test/",
    "/admin/",
    "",
    null,
    undefined,
    7,
    { toString: () => "https://e.test" },
  ]) {
    assert.equal(readAddress(other), null);
  }
  assert.equal(nameHost("https://www.e.test:8000/a"), "e.test");
});

test("a call that an ended answer left has no result", () => {
  assert.deepEqual(describeCall({ state: "running" }, false), { state: "running", label: "runs" });
  for (const state of ["streaming", "waiting", "awaiting_approval", "running", undefined]) {
    assert.deepEqual(describeCall({ state }, true), { state: "lost", label: "no result" });
  }
  assert.equal(describeCall({ state: "done" }, true).label, "done");
  assert.equal(describeCall({ state: "denied" }, true).label, "denied");
  assert.equal(describeCall({ state: "of_the_future" }, false).label, "of_the_future");
});

test("a call says who decided on it", () => {
  const name = (author) => (author === "user:1" ? "You" : "bob");
  assert.equal(describeApproval(undefined, name), "");
  assert.equal(describeApproval({ state: "approved", by: "user:1" }, name), "Approved by you");
  const denied = { state: "denied", by: "user:2", note: "Too dear." };
  assert.equal(describeApproval(denied, name), "Denied by bob: Too dear.");
  assert.equal(describeApproval({ state: "expired" }, name), "Nobody decided in time.");
});

test("arguments are laid out once they are whole", () => {
  assert.equal(formatArguments('{"query":"ti'), '{"query":"ti');
  assert.equal(formatArguments('{"query":"tides","most":3}'), 'query: "tides"\nmost: 3');
  assert.equal(formatArguments("[1,2]"), "[\n  1,\n  2\n]");
  assert.equal(formatArguments("null"), "null");
  assert.equal(formatArguments(""), "");
});

test("results are shown whatever they are", () => {
  assert.equal(formatResult("HTTP 500"), "HTTP 500");
  assert.equal(formatResult(null), "null");
  assert.equal(formatResult({ a: 1 }), '{\n  "a": 1\n}');
  assert.equal(describeResult([1]), "Result: 1 item");
  assert.equal(describeResult([]), "Result: 0 items");
  assert.equal(describeResult({}), "Result");
});

test("a long text is cut", () => {
  assert.equal(clip("a".repeat(MOST_CHARACTERS)), "a".repeat(MOST_CHARACTERS));
  const cut = clip("a".repeat(MOST_CHARACTERS + 5));
  assert.ok(cut.endsWith("a\n… and 5 characters more"));
});

test("the usage of several models is added up", () => {
  const usage = [{ input_tokens: 7, output_tokens: 9, model: "a" }, { input_tokens: 3, model: "b" }];
  assert.equal(describeUsage(usage), "10 tokens read, 9 written · a · b");
  assert.equal(describeUsage([{ model: "a" }]), "0 tokens read, 0 written · a");
});

test("agents have names with a capital", () => {
  assert.equal(nameAgent("writer"), "Writer");
  assert.equal(nameAgent(undefined), "");
});
