import assert from "node:assert/strict";
import { test } from "node:test";

import { Transcript, countPoints, textOf } from "../../connections/static/connections/transcript.js";
import { entry } from "./fakes.mjs";

const START = { epoch: "e1", offset: 0, outcome: "new", gap: null };

function begun(...offsets) {
  const transcript = new Transcript(1000);
  transcript.begin({ ...START, offset: offsets.at(-1) ?? 0 });
  for (const offset of offsets) transcript.put(entry(offset));
  return transcript;
}

test("a fresh client asks for everything", () => {
  assert.equal(new Transcript(10).position, "");
});

test("a trimmed log has no missing entries after the trimmed ones", () => {
  // Entry 41 was still streaming when later ones were trimmed.
  const transcript = begun(41, 51, 52);
  assert.equal(transcript.put(entry(54)), false);
  assert.equal(transcript.last, 52);
  assert.equal(transcript.position, "epoch=e1&offset=52");
});

test("entries before a gap are not skipped after a lost connection", () => {
  const transcript = begun(1, 2);
  transcript.begin({ ...START, outcome: "gap", offset: 12, gap: [4, 9] });
  assert.equal(transcript.position, "epoch=e1&offset=2");
  assert.equal(transcript.put(entry(3)), true);
  assert.equal(transcript.put(entry(10)), true);
  assert.equal(transcript.put(entry(12)), false);
});

test("a trimmed entry does not grow", () => {
  const transcript = begun();
  transcript.put(entry(1, { state: "streaming" }));
  transcript.begin({ ...START, outcome: "gap", offset: 9, gap: [1, 9] });
  assert.equal(transcript.entries[0].state, "interrupted");
  assert.equal(transcript.position, "epoch=e1&offset=9");
});

test("a repeated entry replaces the former one", () => {
  const transcript = begun(1, 2);
  transcript.put(entry(1, { data: { text: "other" } }));
  assert.deepEqual(transcript.entries.map(textOf), ["other", "text 2"]);
});

test("streaming entries are named, so that they arrive whole", () => {
  const transcript = begun(1);
  transcript.put(entry(2, { state: "streaming" }));
  transcript.put(entry(3));
  transcript.put(entry(4, { state: "streaming" }));
  assert.equal(transcript.position, "epoch=e1&offset=4&open=2%2C4");
  transcript.settle({ offset: 2, state: "done" });
  assert.equal(transcript.position, "epoch=e1&offset=4&open=4");
});

test("the newest commit that the server told of is named", () => {
  const transcript = new Transcript(1000);
  transcript.begin({ ...START, chain: "1-1-a" });
  assert.equal(transcript.position, "epoch=e1&offset=0&chain=1-1-a");
  transcript.put(entry(1, { state: "streaming", chain: "2-1-b" }));
  transcript.put(entry(2));
  assert.equal(transcript.position, "epoch=e1&offset=2&chain=2-1-b&open=1");
  transcript.settle({ offset: 1, state: "done", chain: "3-1-c" });
  // Servers of the first release name none.
  transcript.begin({ ...START, outcome: "resumed", offset: 2 });
  assert.equal(transcript.position, "epoch=e1&offset=2&chain=3-1-c");
  assert.equal(transcript.put(entry(9, { chain: "9-9-d" })), false);
  for (const offset of [1, 3, 4]) transcript.confirm({ offset, chain: `5-${offset}-e` });
  assert.equal(transcript.position, "epoch=e1&offset=2&chain=3-1-c&acked=5-3-e%2C5-4-e");
  transcript.put(entry(3));
  assert.equal(transcript.position, "epoch=e1&offset=3&chain=3-1-c&acked=5-4-e");
  assert.equal(transcript.begin({ ...START, outcome: "reset", chain: null }), true);
  assert.equal(transcript.position, "epoch=e1&offset=0");
});

test("texts join on by code points, not by UTF-16 units", () => {
  const transcript = begun();
  transcript.put(entry(1, { state: "streaming", data: { text: "" } }));
  const pieces = ["👩‍👩‍👧", "e", "\u0301", "𝒳 ", "日本"];
  let at = 0;
  for (const text of pieces) {
    assert.ok(transcript.extend({ offset: 1, at_char: at, text }));
    at += countPoints(text);
  }
  assert.equal(textOf(transcript.entries[0]), pieces.join(""));
  assert.equal(at, 11);
});

test("text that does not join on is refused and changes nothing", () => {
  const transcript = begun();
  transcript.put(entry(1, { state: "streaming", data: { text: "ab" } }));
  assert.equal(transcript.extend({ offset: 1, at_char: 3, text: "d" }), null);
  assert.equal(transcript.extend({ offset: 1, at_char: 1, text: "b" }), null);
  assert.equal(transcript.extend({ offset: 9, at_char: 0, text: "x" }), null);
  assert.equal(textOf(transcript.entries[0]), "ab");
});

test("a gap moves the position, a reset clears it", () => {
  const transcript = begun(1, 2);
  assert.equal(transcript.begin({ ...START, outcome: "gap", offset: 10, gap: [3, 9] }), false);
  assert.equal(transcript.put(entry(10)), true);
  assert.equal(transcript.begin({ ...START, epoch: "e2", outcome: "reset", offset: 7 }), true);
  assert.deepEqual(transcript.entries, []);
  assert.equal(transcript.put(entry(7)), true);
});

test("the oldest entries are dropped first, but no streaming ones", () => {
  const transcript = new Transcript(2);
  transcript.begin(START);
  transcript.put(entry(1, { state: "streaming" }));
  for (const offset of [2, 3, 4]) transcript.put(entry(offset));
  assert.deepEqual(transcript.entries.map(({ offset }) => offset), [1, 4]);
});
