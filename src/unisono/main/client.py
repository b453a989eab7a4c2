"""The command line as a client of the REST API: the same front door as everyone's."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx

from unisono.base.errors import Forbidden, Unavailable, UnisonoError
from unisono.main import bootstrap, endpoints
from unisono.main.config import PREFIX, Settings

TIMEOUT_S: Final = 30.0
# A live stream says something at least every 15 s, if only that it lives.
STREAM_TIMEOUT_S: Final = 60.0
# The API's own bound of a page, and more items than any list of one machine has.
PAGE_MAX: Final = 1000
ITEMS_MAX: Final = 10_000_000


class Refused(UnisonoError):
    """The API answered with a problem; its words name the field, the value and the rule."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP {status}"))
        self.status = status
        self.problem = dict(problem)


class ApiClient:
    """A connection to a running platform; every method raises Refused, Forbidden or Unavailable."""

    def __init__(self, url: str, key: str, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def is_ready(self) -> bool:
        """Return whether the platform says that it is ready."""
        try:
            self.get("/readyz")
        except (Refused, Unavailable):
            return False
        return True

    def get(self, path: str, **query: Any) -> Any:
        """Return the answer's JSON."""
        return self._call("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Mapping[str, Any] | None = None, idempotency_key: str | None = None) -> Any:
        """Send ``body``; without a key one is made, so that a repetition of this call is a new request."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._call("POST", path, json=dict(body or {}), headers=headers)

    def send(self, path: str, content: bytes, media_type: str, idempotency_key: str | None = None) -> Any:
        """Send ``content`` as it is; the key as for ``post``."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4()), "Content-Type": media_type}
        return self._call("POST", path, content=content, headers=headers)

    def lines(self, path: str) -> Iterator[str]:
        """Yield the lines of a long answer as they come."""
        try:
            with self._http.stream("GET", path, timeout=STREAM_TIMEOUT_S) as answer:
                if answer.status_code >= httpx.codes.BAD_REQUEST:
                    answer.read()
                    self._check(answer)
                yield from answer.iter_lines()
        except httpx.HTTPError as gone:
            raise Unavailable("the API", f"{self._url}: {str(gone) or type(gone).__name__}") from gone

    def delete(self, path: str) -> Any:
        """Delete what is at ``path``."""
        return self._call("DELETE", path)

    def pages(self, path: str, limit: int = ITEMS_MAX, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield the items of all pages, up to ``limit``."""
        cursor: str | None = None
        while limit > 0:
            page: dict[str, Any] = self.get(path, limit=min(limit, PAGE_MAX), cursor=cursor, **query)
            items: list[dict[str, Any]] = page["items"]
            yield from items[:limit]
            limit -= len(items)
            cursor = page.get("next_cursor")
            if not items or cursor is None:
                return

    def stream(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the events of a live stream (server-sent events) until it ends."""
        for line in self.lines(path):
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError as gone:
            raise Unavailable("the API", f"{self._url}: {str(gone) or type(gone).__name__}") from gone
        self._check(answer)
        return answer.json() if answer.content else None

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code < httpx.codes.BAD_REQUEST:
            return
        is_json = "json" in answer.headers.get("content-type", "")
        problem = answer.json() if is_json else {"title": f"{answer.status_code} from {answer.url}"}
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise Forbidden(f"a valid key: {problem.get('detail', '')}; set UNISONO_API_KEY")
        raise Refused(answer.status_code, problem)


def open_client(settings: Settings, timeout_s: float = TIMEOUT_S) -> ApiClient:
    """Return a client of ``UNISONO_API_URL``, or of the platform on the data folder, with the key that is at hand."""
    url = os.environ.get(PREFIX + "API_URL") or endpoints.read(settings).api_url
    return ApiClient(url, _key(settings), timeout_s)


def _key(settings: Settings) -> str:
    if given := os.environ.get(PREFIX + "API_KEY"):
        return given
    path = bootstrap.key_path(settings.folder)
    try:
        return path.read_text("utf-8").strip()
    except OSError as absent:
        raise Forbidden(f"a key: set UNISONO_API_KEY ({path}: {absent.strerror})") from absent
