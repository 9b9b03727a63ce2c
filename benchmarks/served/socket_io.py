"""An echo server as in the introduction of python-socketio's documentation."""

import socketio

sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")


async def echo(sid: str, text: str) -> None:
    """Send a message back."""
    await sio.emit("echo", text, to=sid)


sio.on("echo", echo)
application = socketio.ASGIApp(sio)
