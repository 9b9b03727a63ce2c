"""python-socketio, as its documentation starts."""

import socketio

sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")


@sio.on("echo")
async def echo(sid: str, text: str) -> None:
    """Send a message back."""
    await sio.emit("echo", text, to=sid)


application = socketio.ASGIApp(sio)
