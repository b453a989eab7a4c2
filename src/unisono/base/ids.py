"""Identities: a three-letter prefix, an underscore and a ULID (sortable by creation instant).

The ULID's text form is Crockford base 32 of 48 bits of milliseconds and 80 random bits
(github.com/ulid/spec); `python-ulid` does the encoding.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

import numpy as np
from ulid import ULID

from unisono.base.errors import InvalidInput
from unisono.base.instants import NS_PER_MS

# One word an identity can stand for; the prefix is what callers see.
PREFIX_OF_KIND: Final = {
    "organisation": "org",
    "participant": "par",
    "site": "sit",
    "connection_point": "cpt",
    "device": "dev",
    "point": "pnt",
    "meter": "met",
    "gateway": "gwy",
    "source": "src",
    "portfolio": "pfo",
    "dispatch": "dsp",
    "commitment": "cmt",
    "job": "job",
    "key": "key",
    "alarm": "alm",
    "agreement": "agr",
}
RANDOM_BYTES: Final = 10
_BITS_PER_LETTER: Final = 5
_RANDOM_LETTERS: Final = 8 * RANDOM_BYTES // _BITS_PER_LETTER
_ALPHABET: Final = np.frombuffer(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", "S1")
_WEIGHT_OF_BIT: Final = np.array([16, 8, 4, 2, 1], np.uint8)
_ID = re.compile(r"^([a-z]{3})_([0-7][0-9A-HJKMNP-TV-Z]{25})$")


def new_id(kind: str, at_ns: int, randomness: bytes) -> str:
    """Return a new id; ``randomness`` is 10 bytes, so that a seed can make the same ids again.

    >>> new_id("site", 1772992799500000000, bytes(10))
    'sit_01KK79P8RC0000000000000000'
    """
    assert len(randomness) == RANDOM_BYTES, "a ULID has 80 random bits"
    stamp = (at_ns // NS_PER_MS).to_bytes(6, "big")
    return f"{PREFIX_OF_KIND[kind]}_{ULID(stamp + randomness)}"


def new_ids(kind: str, at_ns: int, randomness: bytes) -> list[str]:
    """Return one id of that instant for every 10 bytes of ``randomness``: the same that ``new_id`` makes, in one go.

    >>> new_ids("site", 1772992799500000000, bytes(20)) == [new_id("site", 1772992799500000000, bytes(10))] * 2
    True
    """
    assert len(randomness) % RANDOM_BYTES == 0, "a ULID has 80 random bits"
    prefix = new_id(kind, at_ns, bytes(RANDOM_BYTES))[:-_RANDOM_LETTERS]
    bits = np.unpackbits(np.frombuffer(randomness, np.uint8)).reshape(-1, _RANDOM_LETTERS, _BITS_PER_LETTER)
    letters = _ALPHABET[bits @ _WEIGHT_OF_BIT]
    return [prefix + text.decode() for text in letters.view(f"S{_RANDOM_LETTERS}").ravel().tolist()]


def check_id(kind: str, text: str, field: str) -> str:
    """Return ``text`` if it is an id of that kind, else raise InvalidInput."""
    match = _ID.match(text)
    if match is None or match.group(1) != PREFIX_OF_KIND[kind]:
        raise InvalidInput(field, text, f"must be a {kind} id: {PREFIX_OF_KIND[kind]}_ and 26 characters of base 32")
    return text


def shard_of_site(site_id: str, n_shards: int) -> int:
    """Return the shard of a site among so many: the same on every machine and for ever.

    CRC-32 of the id's ASCII bytes, modulo the number of shards. Sites are split, not devices, because a site's limits
    couple its devices.
    """
    return zlib.crc32(site_id.encode()) % n_shards
