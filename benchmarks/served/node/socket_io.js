// Node's socket.io: an echo, and a broadcast.
const { createServer } = require("http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http);
io.on("connection", (socket) => {
  socket.on("echo", (text) => socket.emit("echo", text));
  socket.on("broadcast", (text) => io.emit("echo", text));
});
http.listen(Number(process.argv[2]), "127.0.0.1");
