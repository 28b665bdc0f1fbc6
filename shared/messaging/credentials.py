"""A NATS credentials file: a user's JWT, and the seed of the key with which it answers the broker."""

import base64
import re
from pathlib import Path

from nacl.signing import SigningKey

_PART = r"-+BEGIN {}-+\s+(\S+)\s+-+END"
_PREFIX = 2
"""Bytes before a seed that say whose it is; two of checksum stand behind it."""


class Credentials:
    """Reads the file anew each time it is asked, so that it can be renewed while the service runs."""

    def __init__(self, path: str) -> None:
        """Raises OSError or ValueError if there is no such file, or it is none of credentials."""
        self._file = Path(path)
        self.jwt()
        self._key()

    def jwt(self) -> bytes:
        return self._part("NATS USER JWT")

    def sign(self, nonce: str) -> bytes:
        return base64.b64encode(self._key().sign(nonce.encode()).signature)

    def _key(self) -> SigningKey:
        seed = self._part("USER NKEY SEED")
        return SigningKey(base64.b32decode(seed + b"=" * (-len(seed) % 8))[_PREFIX:-2])

    def _part(self, name: str) -> bytes:
        found = re.search(_PART.format(name), self._file.read_text())
        if not found:
            raise ValueError(f"there is no {name} in it")
        return found[1].encode()
