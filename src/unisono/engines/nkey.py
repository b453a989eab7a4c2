"""NATS account keys in the text form of nkeys: base 32 of a prefix, 32 bytes of Ed25519, and a CRC-16 (XMODEM).

Source: github.com/nats-io/nkeys, strkey.go: prefix bytes seed 18<<3 ("S"), account 0 ("A"); a seed's two first bytes
hold both prefixes.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

from nacl.signing import SigningKey

from unisono.base.errors import DamagedRecord

_SEED: Final = 18 << 3
_ACCOUNT: Final = 0


class AccountKey:
    """An account's signing key; ``public`` goes into the server's configuration, ``seed`` stays secret."""

    def __init__(self, raw_seed: bytes) -> None:
        self._signing = SigningKey(raw_seed)
        self.seed = _text(bytes([_SEED | (_ACCOUNT >> 5), (_ACCOUNT & 31) << 3]) + raw_seed)
        self.public = _text(bytes([_ACCOUNT]) + bytes(self._signing.verify_key))

    @classmethod
    def new(cls) -> AccountKey:
        """Return a fresh key."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def of_seed(cls, text: str) -> AccountKey:
        """Return the key of a seed's text (SA...); raises DamagedRecord."""
        try:
            whole = base64.b32decode(text.strip() + "=" * (-len(text.strip()) % 8))
        except binascii.Error as wrong:
            raise DamagedRecord("account seed", str(wrong)) from wrong
        body, check = whole[:-2], whole[-2:]
        if len(body) != 34 or body[0] & 0xF8 != _SEED or _crc(body) != check:
            raise DamagedRecord("account seed", "is no seed of a NATS account (length, prefix or checksum)")
        return cls(body[2:])

    def sign(self, payload: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature."""
        return bytes(self._signing.sign(payload).signature)


def _text(body: bytes) -> str:
    return base64.b32encode(body + _crc(body)).decode().rstrip("=")


def _crc(body: bytes) -> bytes:
    return binascii.crc_hqx(body, 0).to_bytes(2, "little")
