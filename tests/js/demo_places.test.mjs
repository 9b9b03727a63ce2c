import assert from "node:assert/strict";
import { test } from "node:test";

import { Places } from "../../orchestra/static/orchestra/places.js";

const entry = (offset, replaces) => (replaces ? { offset, replaces } : { offset });
const arrange = (entries) =>
  new Places().arrange(entries).map(([place, there]) => [place, there.map(({ offset }) => offset)]);

test("an answer that was given again stands in place of the former", () => {
  const entries = [entry(1), entry(2), entry(3), entry(4), entry(5, 2), entry(6, 4), entry(7, 5)];
  assert.deepEqual(arrange(entries), [
    [1, [1]],
    [2, [2, 5, 7]],
    [3, [3]],
    [4, [4, 6]],
  ]);
});

test("an entry whose former answer is trimmed has its place", () => {
  assert.deepEqual(arrange([entry(8), entry(9, 2), entry(10, 9)]), [
    [2, [9, 10]],
    [8, [8]],
  ]);
});

test("entries that come one by one have the same places", () => {
  const places = new Places();
  const found = [entry(2), entry(5, 2), entry(7, 5), entry(7, 5), entry(9)].map((one) => places.find(one));
  assert.deepEqual(found, [2, 2, 2, 2, 9]);
  places.clear();
  assert.equal(places.find(entry(7, 5)), 5);
});
