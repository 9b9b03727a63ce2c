// What the tests of the adapters share: a document, clients of a live server, waits.
//
// SERVER is the URL of the server, TOKEN a token for it, TEST_PATIENCE what pauses are
// multiplied by.

import { JSDOM } from "jsdom";

const { SERVER, TOKEN } = process.env;
export const { window } = new JSDOM("<div id=root></div>", { url: SERVER });
Object.assign(globalThis, { window, document: window.document });
globalThis.navigator ??= window.navigator;
globalThis.IS_REACT_ACT_ENVIRONMENT = true;

const { act } = await import("react");
const { SessionClient } = await import("orchestra-websocket-client");

/** What any writer may post, and a front end cannot show. */
export const ODD_ENTRIES = [
  { data: { text: "see", files: [null] } },
  { data: { text: "see", files: ["a.png", { url: "https://host/a.png", name: null, media_type: 1 }] } },
  { from: "server", parts: [{ id: "k", type: "custom", data: 1 }], changes: 1 },
];

const clients = [];

/** Seconds between the parts of a slow answer, in which a test does something amid it. */
export const PAUSE_SECONDS = 0.1 * Number(process.env.TEST_PATIENCE || 1);

/** Make a client of a session of the live server. */
export function makeClient(session = "new") {
  const client = new SessionClient(`${SERVER}/ws/sessions/`, {
    session,
    getToken: async () => TOKEN,
    WebSocket: window.WebSocket,
    // The signals of node do not fit the events of jsdom.
    page: null,
  });
  clients.push(client);
  return client;
}

/** Close all clients of a test. */
export function closeClients() {
  for (const client of clients.splice(0)) client.close();
}

/** Wait while React renders, until a condition holds. */
export async function until(check) {
  while (!check()) await act(() => new Promise((resolve) => setTimeout(resolve, 5)));
}
