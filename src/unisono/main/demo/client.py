"""The operator's side of a demonstration: the REST API and nothing else."""

from __future__ import annotations

import uuid
from typing import Any

import httpx

from unisono.base.errors import Unavailable

TIMEOUT_S = 20.0


class OperatorClient:
    """Calls that raise Unavailable with the API's own words when they are refused."""

    def __init__(self, api_url: str, key: str) -> None:
        self._client = httpx.Client(base_url=api_url, timeout=TIMEOUT_S, headers={"Authorization": f"Bearer {key}"})

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of a GET."""
        return self._checked(self._client.get(path, params=query))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON of a POST, made once however often it is sent."""
        return self._checked(self._client.post(path, json=body, headers={"Idempotency-Key": uuid.uuid4().hex}))

    def pages(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Return the items of all pages, following the Link headers."""
        items: list[dict[str, Any]] = []
        answer = self._client.get(path, params=query)
        while True:
            items += self._checked(answer)["items"]
            following = answer.links.get("next")
            if following is None:
                return items
            answer = self._client.get(following["url"])

    def is_ready(self) -> bool:
        """Return True if the platform says that it is ready."""
        try:
            return self._client.get("/readyz").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @staticmethod
    def _checked(answer: httpx.Response) -> Any:
        if answer.is_error:
            raise Unavailable(
                f"{answer.request.method} {answer.request.url.path}", f"{answer.status_code} {answer.text[:400]}"
            )
        return answer.json()
