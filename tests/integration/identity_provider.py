"""An identity provider on 127.0.0.1 whose JWKS can change or become unavailable."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.connections.jwt_provider import SigningKey, make_jwks


class IdentityProvider:
    """Serve a JWKS over HTTP; tests change its keys and its health."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = keys
        self.is_away = False
        self.count = 0
        """How often it was asked."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The URL of the JWKS."""
        return f"http://127.0.0.1:{self._server.server_port}/jwks"

    def start(self) -> "IdentityProvider":
        """Start the server."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.count += 1
                body = b"" if provider.is_away else make_jwks(*provider.keys)
                self.send_response(503 if provider.is_away else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Keep the output of the tests clean."""

        return Handler
