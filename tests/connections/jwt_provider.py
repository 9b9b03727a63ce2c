"""An identity provider for tests: keys of every kind, and what it signs."""

import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER = "https://id.example.com/"
AUDIENCE = "orchestra"
SECRET = "a shared secret of 32 bytes and more"

_ALGORITHMS: dict[str, Any] = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


class SigningKey:
    """A key pair, or a secret, with a `kid`."""

    def __init__(self, algorithm: str, kid: str, *, bits: int = 2048) -> None:
        self.algorithm = algorithm
        self.kid = kid
        self.private: Any
        if algorithm == "RS256":
            self.private = rsa.generate_private_key(65537, bits)
        elif algorithm == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
        elif algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            self.private = SECRET.encode()

    @property
    def jwk(self) -> dict[str, Any]:
        """The key as a provider publishes it."""
        if self.algorithm == "HS256":
            value = base64.urlsafe_b64encode(self.private).rstrip(b"=").decode()
            return {"kty": "oct", "k": value, "kid": self.kid, "alg": "HS256"}
        public = self.private.public_key()
        found = json.loads(_ALGORITHMS[self.algorithm].to_jwk(public))
        return {**found, "kid": self.kid, "use": "sig"}

    @property
    def private_jwk(self) -> dict[str, Any]:
        """The key as nobody must publish it."""
        found = json.loads(_ALGORITHMS[self.algorithm].to_jwk(self.private))
        return {**found, "kid": self.kid}

    def sign(self, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return a token; claims that are None are left out."""
        headers = {"kid": self.kid, **(headers or {})}
        return jwt.encode(
            make_claims(**claims), self.private, self.algorithm, headers=headers
        )


def make_claims(**claims: Any) -> dict[str, Any]:
    """Return what a valid token says, changed by claims; None leaves one out."""
    valid = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": int(time.time()) + 300,
        "jti": "id-1",
    }
    return {key: value for key, value in (valid | claims).items() if value is not None}


def make_jwks(*keys: SigningKey | dict[str, Any]) -> bytes:
    """Return the document with these keys."""
    listed = [key.jwk if isinstance(key, SigningKey) else key for key in keys]
    return json.dumps({"keys": listed}).encode()


def encode_part(content: Any) -> str:
    """Return one part of a token made by hand."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()
