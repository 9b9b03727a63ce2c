import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { addTexts, merge } from "../../connections/static/connections/parts.js";
import { Transcript, partsOf } from "../../connections/static/connections/transcript.js";
import { entry } from "./fakes.mjs";

const CASES = JSON.parse(readFileSync(new URL("parts.json", import.meta.url), "utf8"));
const CALL = { id: "c", type: "tool_call", name: "search", arguments: "{" };

for (const { name, changes, text, parts } of CASES) {
  test(name, () => {
    const merged = merge([], changes);
    assert.deepEqual(addTexts(merged, text), parts);
    assert.deepEqual(merge(merged, []), merged);
    const oneByOne = changes.reduce((held, change) => merge(held, [change]), []);
    assert.deepEqual(oneByOne, merged);
  });
}

function streaming(more = {}) {
  const transcript = new Transcript(10);
  transcript.begin({ epoch: "e1", offset: 0, outcome: "new", gap: null });
  transcript.put(entry(1, { state: "streaming", data: { text: "" }, ...more }));
  return transcript;
}

test("an entry grows by text and by changes of parts", () => {
  const transcript = streaming();
  const before = transcript.entries[0];
  assert.ok(transcript.extend({ offset: 1, at_change: 0, parts: [CALL] }));
  assert.ok(transcript.extend({ offset: 1, at_char: 0, text: "a" }));
  const parts = [{ id: "c", arguments: "}" }, { id: "t", type: "text", at_char: 1 }];
  assert.ok(transcript.extend({ offset: 1, at_change: 1, parts }));
  assert.ok(transcript.extend({ offset: 1, at_char: 1, text: "b" }));
  assert.deepEqual(partsOf(transcript.entries[0]), [
    { id: "text", type: "text", text: "a" },
    { ...CALL, arguments: "{}" },
    { id: "t", type: "text", text: "b" },
  ]);
  assert.deepEqual(partsOf(before), []);
});

test("a change that does not join on is refused, and the entry sent again is whole", () => {
  const transcript = streaming({ parts: [CALL], changes: 7 });
  const parts = [{ id: "c", arguments: "}" }];
  assert.equal(transcript.extend({ offset: 1, at_change: 6, parts }), null);
  assert.equal(transcript.extend({ offset: 1, at_change: 8, parts }), null);
  assert.ok(transcript.extend({ offset: 1, at_change: 7, parts }));
  assert.equal(partsOf(transcript.entries[0])[0].arguments, "{}");
  transcript.settle({ offset: 1, state: "done" });
  assert.equal(transcript.extend({ offset: 1, at_change: 8, parts }), null);
});

test("an entry of a server without parts is a text", () => {
  const [held] = streaming({ data: { text: "hi" } }).entries;
  assert.deepEqual(partsOf(held), [{ id: "text", type: "text", text: "hi" }]);
});
