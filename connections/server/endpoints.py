"""Let Twisted listen on a socket, with TLS or without."""

import os
import re
import socket
from pathlib import Path
from typing import Any

from OpenSSL import crypto
from twisted.internet import defer, ssl
from twisted.protocols.tls import TLSMemoryBIOFactory

from connections.server.port import Port, Share

_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)


class SocketEndpoint:
    """
    A listening socket as an endpoint of Twisted's.

    daphne's endpoint strings know neither SO_REUSEPORT nor a socket with TLS
    that somebody else opened. With a share the socket is that of several workers.
    """

    def __init__(
        self, sock: socket.socket, tls: Any = None, share: Share | None = None
    ) -> None:
        self._socket = sock
        self._tls = tls
        self._share = share
        self.address = sock.getsockname()

    def listen(self, factory: Any) -> Any:
        """Begin to accept; return a Deferred of the port (IStreamServerEndpoint)."""
        server, is_tls = factory.server, self._tls is not None
        if is_tls:
            factory = TLSMemoryBIOFactory(self._tls, False, factory)
        port = Port(self._socket, factory, server, is_tls=is_tls, share=self._share)
        return defer.succeed(port)

    def __str__(self) -> str:
        return f"socket {self.address}"


def make_tls(certificate: Path | None, key: Path | None) -> Any:
    """
    Return what Twisted needs for TLS 1.2 and later, or None without files.

    Raises:
        OSError: a file cannot be read.
        ValueError: only one file is given, or they hold no matching pair.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ValueError("--tls-cert and --tls-key go together")
    chain = _CERTIFICATE.findall(_read(certificate, "--tls-cert"))
    secret = _read(key, "--tls-key")
    try:
        own, *others = [crypto.load_certificate(crypto.FILETYPE_PEM, c) for c in chain]
        options = ssl.CertificateOptions(
            privateKey=crypto.load_privatekey(crypto.FILETYPE_PEM, secret),
            certificate=own,
            extraCertChain=others,
            raiseMinimumTo=ssl.TLSVersion.TLSv1_2,
        )
        options.getContext()  # Here, not at the first client, a wrong key is found.
    except (crypto.Error, ssl.SSL.Error, ValueError) as exc:
        raise ValueError(f"{certificate} and {key} hold no matching pair") from exc
    return options


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        text = f"{flag} {path}: {os.strerror(exc.errno or 0)}"
        raise OSError(exc.errno, text) from exc
