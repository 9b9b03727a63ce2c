// Clients of the browser's kind for a soak: pages with a storage, which are reloaded.
//
//   node --experimental-websocket pages.mjs '{"urls": [...], "clients": 3, ...}'
//
// Prints one JSON line for each event of a client; ends after a line on stdin.

import { createHmac } from "node:crypto";

import { SessionClient } from "../../connections/static/connections/client.js";

const options = JSON.parse(process.argv[2]);
const encode = (content) => Buffer.from(JSON.stringify(content)).toString("base64url");
const say = (content) => process.stdout.write(`${JSON.stringify(content)}\n`);
const rest = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let isOver = false;

/** A Storage of one page, as sessionStorage is. */
class MemoryStorage {
  #items = new Map();

  get length() {
    return this.#items.size;
  }

  key(index) {
    return [...this.#items.keys()][index] ?? null;
  }

  getItem(key) {
    return this.#items.get(key) ?? null;
  }

  setItem(key, value) {
    this.#items.set(key, String(value));
  }

  removeItem(key) {
    this.#items.delete(key);
  }
}

function makeToken(name) {
  const { issuer, audience, secret, life } = options;
  const exp = Math.floor(Date.now() / 1000) + life[0] + Math.floor(Math.random() * life[1]);
  const body = `${encode({ alg: "HS256", kid: "" })}.${encode({ iss: issuer, aud: audience, sub: name, exp })}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
}

/** One page: it converses, loses its network, is reloaded, and stops answers. */
class Page {
  #name;
  #url;
  #storage = new MemoryStorage();
  #client;
  #session = "new";
  #number = 0;
  #pending = 0;

  constructor(name, url) {
    this.#name = name;
    this.#url = url;
    this.#open();
  }

  #say(event, content = {}) {
    say({ client: this.#name, event, session: this.#session, ...content });
  }

  #open() {
    const client = new SessionClient(this.#url, {
      session: this.#session,
      storage: this.#storage,
      page: null,
      entryLimit: 1_000_000,
      getToken: ({ isExpired }) => {
        if (isExpired) this.#say("renewed");
        return makeToken(this.#name);
      },
    });
    client.addEventListener("hello", ({ detail }) => {
      this.#session = detail.session;
      this.#say("hello", { outcome: detail.outcome });
    });
    client.addEventListener("refreshed", () => this.#say("refreshed"));
    client.addEventListener("dropped", ({ detail }) =>
      this.#say("dropped", { number: detail.data.number, code: detail.error.code }),
    );
    client.connect();
    this.#client = client;
  }

  async #request() {
    const number = (this.#number += 1);
    const data = { client: this.#name, number, ...options.answer };
    this.#pending += 1;
    this.#say("sent", { number });
    try {
      const { offset } = await this.#client.request(data);
      this.#say("acked", { number, offset });
    } catch (error) {
      this.#say("failed", { number, code: error.code ?? String(error), isStored: error.isStored });
    }
    this.#pending -= 1;
  }

  #isBehind() {
    const { entries, hello, state } = this.#client;
    const last = entries.at(-1)?.offset ?? 0;
    if (state !== "open" || last < (hello?.offset ?? Infinity)) return true;
    return entries.some((entry) => entry.state === "streaming");
  }

  async run() {
    while (!isOver) {
      await rest(options.pause[0] + Math.random() * options.pause[1]);
      const chance = Math.random();
      const streaming = this.#client.entries.find((entry) => entry.state === "streaming");
      if (chance < 0.06) this.#client.drop();
      else if (chance < 0.1 && this.#session !== "new") {
        this.#say("reloaded");
        this.#client.close();
        this.#open();
      } else if (chance < 0.2 && streaming) this.#client.cancel(streaming.offset);
      else void this.#request();
    }
    const countPending = () => this.#pending + this.#client.pending;
    // One answer of a session follows the other: a queue takes its time.
    let [progress, since] = ["", Date.now()];
    while ((countPending() > 0 || this.#isBehind()) && Date.now() < since + options.patience) {
      await rest(500);
      const now = `${countPending()} ${this.#client.entries.at(-1)?.offset}`;
      if (now !== progress) [progress, since] = [now, Date.now()];
    }
    const entries = this.#client.entries.map(({ offset, state, data }) => [offset, state, data]);
    const pending = countPending();
    this.#say("over", { entries, pending, stored: this.#storage.length });
    this.#client.close();
  }
}

const pages = Array.from(
  { length: options.clients },
  (_, index) => new Page(`js${index}`, options.urls[index % options.urls.length]),
);
process.stdin.once("data", () => {
  isOver = true;
});
await Promise.all(pages.map((page) => page.run()));
// Writes to a pipe are asynchronous, and an exit loses those that are left.
await new Promise((resolve) => process.stdout.write("", resolve));
process.exit(0);
