import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { backOff, decide, readEnding } from "../../connections/static/connections/reconnect.js";

const cases = JSON.parse(readFileSync(new URL("decisions.json", import.meta.url), "utf8"));

for (const one of cases) {
  test(one.name, () => {
    const ending = readEnding(one.code, "", one.bye ?? null);
    const delay = decide(ending, {
      failures: one.failures ?? 0,
      elapsedMs: one.elapsed_ms ?? 0,
      sinceDrainMs: one.since_drain_ms ?? Infinity,
      random: () => one.random ?? 0.5,
    });
    assert.equal(delay, one.delay_ms);
  });
}

test("a thousand clients at the cap do not reconnect together", () => {
  const waits = new Set(Array.from({ length: 1000 }, () => Math.round(backOff(20, Math.random) / 100)));
  assert.ok(waits.size > 100);
});

test("the bye takes precedence over the close frame", () => {
  const bye = { code: 4009, reason: "kicked", reconnect: "never", after_ms: null, ref: "r1" };
  assert.deepEqual(readEnding(4009, "", bye), {
    code: 4009,
    reason: "kicked",
    reconnect: "never",
    afterMs: null,
    ref: "r1",
  });
});
