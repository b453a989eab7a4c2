"""How large a body may be, enforced while it arrives, whatever its Content-Length says."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unisono.api.problems import problem_response
from unisono.base.problems import Broken, Told

MIB: Final = 1 << 20
# A portfolio of 100,000 member ids is 3.2 MB of JSON; nothing else comes near it.
BODY_BYTES_MAX: Final = 8 * MIB
# Some 100,000 lines of a bulk enrolment; larger fleets come in several jobs.
BULK_BYTES_MAX: Final = 64 * MIB
BULK_PATH: Final = "/v1/vpp/enrolments"


class BodyLimit:
    """ASGI middleware that answers 413 instead of reading on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = BULK_BYTES_MAX if scope["path"] == BULK_PATH else BODY_BYTES_MAX
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > limit:
            rule = f"the limit is {limit} bytes"
            found = Broken("Content-Length", stated.decode("latin-1")[:20], rule)
            told = Told(413, "too-many", "The body is too large", rule, [found])
            response = problem_response(told, scope["path"])
            await response(scope, receive, send)
            return
        n_bytes = 0

        async def counting_receive() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > limit:
                raise HTTPException(413, f"the body is larger than {limit} bytes")
            return message

        await self._app(scope, counting_receive, send)
