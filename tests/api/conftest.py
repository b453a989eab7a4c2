"""One PostgreSQL and one database for the session, a new organisation for each test, and the API without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import httpx
import psycopg
import pytest

from unisono.api.app import create_app
from unisono.api.auth import OPERATOR_NAME
from unisono.api.context import ApiContext
from unisono.api.enrolment.job import EnrolmentWorker
from unisono.base.clock import MovableClock
from unisono.base.errors import Unavailable
from unisono.engines.postgres import PostgresEngine
from unisono.model.queries import Answer, Query, decode_query, encode_answer
from unisono.services.picture import Picture
from unisono.store import keys, organisations
from unisono.store.database import Database, open_database
from unisono.store.migrate import migrate

NOW_NS = 1_795_000_000_000_000_000
ALL_SCOPES = ("read", "enrol", "dispatch", "admin")
_numbers = count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running server whose database ``template_unisono`` has our schema."""
    engine = PostgresEngine(tmp_path_factory.mktemp("postgres"))
    url = engine.start()
    try:
        _create(url, "template_unisono", "template1")
        migrate(_beside(url, "template_unisono"))
        yield url
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def shared_database(postgres: str) -> Iterator[Database]:
    """A database with our schema; organisations keep the tests apart, as they do tenants."""
    _create(postgres, "api_shared", "template_unisono")
    with open_database(_beside(postgres, "api_shared")) as opened:
        yield opened


@pytest.fixture
def database(postgres: str) -> Iterator[Database]:
    """A fresh database with our schema and nothing in it."""
    name = f"api_{next(_numbers)}"
    _create(postgres, name, "template_unisono")
    with open_database(_beside(postgres, name)) as opened:
        yield opened


class QuietBus:
    """A bus on which nobody answers, unless a test says what realtime answers."""

    def __init__(self) -> None:
        self.is_connected = True
        self.answer: Callable[[Query], Answer] | None = None
        self.queries: list[Query] = []

    async def request(self, subject: str, payload: bytes, timeout_s: float = 2.0) -> bytes:
        """Return the answer that the test gives."""
        self.queries.append(decode_query(payload))
        if self.answer is None:
            raise Unavailable(subject, "nobody answers")
        return encode_answer(self.answer(self.queries[-1]))


class Plant:
    """The API, an organisation with a key of all scopes, and short words for what tests do."""

    def __init__(self, database: Database, organisation: str) -> None:
        self.database = database
        self.clock = MovableClock(NOW_NS)
        self.bus = QuietBus()
        self.picture = Picture(self.clock)
        self.context = ApiContext(
            database=database, bus=self.bus, picture=self.picture, clock=self.clock, version="0.0.0"
        )
        self.app = create_app(self.context)
        self.organisation_id, self.key = self.organisation(organisation)

    def organisation(self, name: str) -> tuple[str, str]:
        """Make an organisation; return its id and a key with all scopes."""
        with self.database.begin() as connection:
            organisation_id = organisations.add(connection, name, NOW_NS).organisation_id
        return organisation_id, self.make_key(organisation_id, ALL_SCOPES)

    def make_key(self, organisation_id: str, scopes: tuple[str, ...], expires_at_ns: int | None = None) -> str:
        """Return a new bearer token."""
        with self.database.begin() as connection:
            made = keys.make(connection, organisation_id, "test", scopes, NOW_NS, expires_at_ns=expires_at_ns)
        return made[1]

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        """Run ``work`` with a client of the application."""

        async def main() -> Any:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://unisono") as client:
                return await work(client)

        return asyncio.run(main())

    def call(self, method: str, path: str, *, key: str | None = None, once: str = "", **options: Any) -> httpx.Response:
        """Send one request with the organisation's key (or another, or none: ``key=""``)."""
        token = self.key if key is None else key
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Idempotency-Key": once} if once else {}
        headers |= options.pop("headers", {})

        async def work(client: httpx.AsyncClient) -> httpx.Response:
            return await client.request(method, path, headers=headers, **options)

        response = self.run(work)
        assert isinstance(response, httpx.Response)
        return response

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET."""
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """POST a JSON body."""
        return self.call("POST", path, json=body, **options)

    def work_through_jobs(self) -> None:
        """Do all queued enrolments."""
        while EnrolmentWorker(self.context).work_through_next():
            pass

    def portfolio(self, **more: Any) -> dict[str, Any]:
        """Make a portfolio of one battery (or as told) and return it."""
        battery = {"asset_type": "bess", "zip": "97214", "capacity_kwh": 13.5, "max_discharge_kw": 7.6}
        response = self.post("/v1/vpp/portfolios", {"name": f"p{next(_numbers)}", "assets": [battery], **more})
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made


@pytest.fixture
def plant(shared_database: Database) -> Plant:
    """The API, for a new organisation."""
    return Plant(shared_database, f"organisation {next(_numbers)}")


@pytest.fixture
def lone_plant(database: Database) -> Plant:
    """The API of a database in which the operator's organisation is alone."""
    return Plant(database, OPERATOR_NAME)


def problem_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the problem that a response is; it must name field and rule."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["field"], problem
    assert problem["rule"], problem
    return problem


def _create(url: str, name: str, template: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")


def _beside(url: str, name: str) -> str:
    return f"{url.rpartition('/')[0]}/{name}"
