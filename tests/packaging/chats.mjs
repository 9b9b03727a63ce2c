// What the tests of the adapters share: a document, clients of a live server, waits.
//
// SERVER is the URL of the server, TOKEN a token for it.

import { JSDOM } from "jsdom";

const { SERVER, TOKEN } = process.env;
export const { window } = new JSDOM("<div id=root></div>", { url: SERVER });
Object.assign(globalThis, { window, document: window.document });
globalThis.navigator ??= window.navigator;
globalThis.IS_REACT_ACT_ENVIRONMENT = true;

const { act } = await import("react");
const { SessionClient } = await import("orchestra-websocket-client");

const clients = [];

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
