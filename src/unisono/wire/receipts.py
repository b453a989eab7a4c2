"""Our word to a gateway that a batch is kept: ``{"through_seq": n}`` means the batch of sequence n, and that one alone.

Batches before it may have been lost on their way, or wait at another front; docs/adr/0004 says why none is vouched for.
"""

from __future__ import annotations

from typing import Final

import msgspec

from unisono.base.errors import InvalidInput


class Receipt(msgspec.Struct, frozen=True):
    """The batch of this sequence is kept on our stream."""

    through_seq: int


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Receipt)


def encode_receipt(through_seq: int) -> bytes:
    """Return the receipt's JSON."""
    return _ENCODER.encode(Receipt(through_seq))


def decode_receipt(payload: bytes) -> Receipt:
    """Return the receipt a gateway received; raises InvalidInput."""
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise InvalidInput("body", payload[:80], f"is no receipt: {wrong}") from wrong
