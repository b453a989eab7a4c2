"""Cursor pages: an opaque cursor, and a Link header (RFC 8288) that leads on."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from unisono.base.errors import InvalidInput

# A page of 1,000 rows takes some 20 ms to build; more belongs to NDJSON results or to history.
LIMIT_MAX: Final = 1000
LIMIT_DEFAULT: Final = 100

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Most items in one page.", examples=[100])]
Cursor = Annotated[str | None, Query(max_length=200, description="next_cursor of the page before.")]


def encode_cursor(after: int | str) -> str:
    """Return the cursor that stands for "after this key"."""
    return base64.urlsafe_b64encode(json.dumps(after).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, kind: type[int | str]) -> Any:
    """Return the key that the cursor stands for; 0 or "" without one. Raises InvalidInput on a foreign cursor.

    >>> decode_cursor(encode_cursor(17), int)
    17
    """
    if cursor is None:
        return kind()
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError) as foreign:
        raise InvalidInput("cursor", cursor, "is no cursor that was given out here") from foreign
    is_ours = key.isprintable() if isinstance(key, str) else isinstance(key, int) and 0 <= key < 2**63
    if type(key) is not kind or not is_ours:
        raise InvalidInput("cursor", cursor, "is no cursor of this list")
    return key


def link_next(request: Request, response: Response, cursor: str | None) -> str | None:
    """Add the Link header to the next page, keeping the caller's filters; return the cursor for the body."""
    if cursor is not None:
        query = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        target = f"{request.url.path}?{urlencode([*query, ('cursor', cursor)])}"
        response.headers["Link"] = f'<{target}>; rel="next"'
    return cursor
