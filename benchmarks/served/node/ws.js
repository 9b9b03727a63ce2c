// Node's ws: an echo, and a broadcast as in its documentation.
const { WebSocket, WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]) });
server.on("connection", (socket, request) => {
  const broadcasts = request.url.startsWith("/ws/broadcast/");
  socket.on("message", (data, isBinary) => {
    if (!broadcasts) return socket.send(data, { binary: isBinary });
    for (const client of server.clients)
      if (client.readyState === WebSocket.OPEN) client.send(data, { binary: isBinary });
  });
});
