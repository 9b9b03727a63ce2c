"""An echo and a broadcast as in the introduction of python-socketio's documentation."""

import socketio

sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")


async def echo(sid: str, text: str) -> None:
    """Send a message back."""
    await sio.emit("echo", text, to=sid)


async def broadcast(sid: str, text: str) -> None:
    """Send a message to all clients."""
    await sio.emit("echo", text)


sio.on("echo", echo)
sio.on("broadcast", broadcast)
application = socketio.ASGIApp(sio)
