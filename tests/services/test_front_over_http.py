"""HTTP push and fetch: uvicorn and httpx over loopback, nats-server behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from tests.links.edge import (
    NOW_MS,
    NOW_NS,
    arrived,
    clock,
    device_id,
    enrolled,
    gateway_id,
    running,
    secret,
)

from unisono.engines.nats import NatsEngine
from unisono.links.allowance import RateSettings
from unisono.links.http_push.app import BODY_BYTES_MAX
from unisono.model.batches import AckBatch, ReadingBatch
from unisono.services.front import Front, FrontSettings
from unisono.wire.acks import encode_acks
from unisono.wire.frames import CommandMessage, Frame, decode_fetched, outgoing
from unisono.wire.packed import encode_packed
from unisono.wire.telemetry import Reading, encode_batch, encode_ndjson


@asynccontextmanager
async def gateway_client(front: Front, no: int = 3) -> AsyncIterator[httpx.AsyncClient]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(front.telemetry_app, log_level="warning", lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    headers = {"Authorization": f"Bearer {gateway_id(no)}.{secret(no)}"}
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=address, headers=headers, timeout=10) as client:
            yield client
    finally:
        server.should_exit = True
        await serving
        listener.close()


JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson; charset=utf-8"}
PACKED = {"Content-Type": "application/vnd.unisono.packed"}
GOOD = Reading(id=device_id(31), ts=NOW_MS, p=-4.5)


def test_a_front_that_still_reads_its_registry_answers_that_it_can_not_say(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with enrolled(engine.endpoints) as bus:
            front = Front(bus, clock(), FrontSettings("1"))
            async with gateway_client(front) as client:
                early = await client.post("/v1/telemetry", content=encode_batch(1, [GOOD]), headers=JSON)
                assert early.status_code == 503
                assert "the registry is being read" in early.json()["detail"]
                assert "retry-after" in early.headers
                async with running(front.run()):
                    await front.knows_registry.wait()
                    known = await client.post("/v1/telemetry", content=encode_batch(1, [GOOD]), headers=JSON)
        assert (known.status_code, known.json()) == (202, {"accepted": 1, "rejected": []})

    asyncio.run(scenario())


def test_three_forms_and_acknowledgements_are_kept(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with enrolled(engine.endpoints) as bus:
            front = Front(bus, clock(), FrontSettings("1"))
            async with running(front.run()):
                await front.may_admit.wait()
                async with gateway_client(front) as client:
                    bad = Reading(id=device_id(11), ts=NOW_MS, p=1.0)
                    batch = encode_batch(4, [GOOD, bad])
                    answer = await client.post("/v1/telemetry", content=batch, headers=JSON)
                    assert answer.status_code == 202
                    told = {"value": f'"{device_id(11)}"', "rule": "must be a device of this gateway"}
                    rejected = [{"row": 1, "field": "id", **told}]
                    assert answer.json() == {"accepted": 1, "rejected": rejected}
                    again = await client.post("/v1/telemetry", content=batch, headers=JSON)
                    assert again.json()["accepted"] == 1
                    # With a blank line between them, which counts.
                    lines = encode_ndjson([GOOD]) + b"\n{broken\n"
                    answer = await client.post("/v1/telemetry", content=lines, headers=NDJSON)
                    assert (answer.status_code, answer.json()["rejected"][0]["row"]) == (202, 2)
                    columns = {"device_no": [32], "measured_ns": [NOW_NS], "power_w": [7.0]}
                    rows = ReadingBatch.of_columns({"gateway_no": -1, "batch_seq": -1, "known_ns": 0}, columns)
                    answer = await client.post("/v1/telemetry", content=encode_packed(5, rows), headers=PACKED)
                    assert answer.json() == {"accepted": 1, "rejected": []}
                    acks = encode_acks([(31, 1, 2, 0, NOW_MS), (-1, 1, 2, 0, NOW_MS)])
                    answer = await client.post("/v1/acks", content=acks, headers=JSON)
                    assert answer.json() == {"accepted": 2, "rejected": []}
            batches = await arrived(bus, 6)
        kept = [(b.gateway_no, b.batch_seq, b.power_w.tolist()) for b in batches if isinstance(b, ReadingBatch)]
        assert kept == [(3, 4, [-4.5]), (3, 4, [-4.5]), (3, -1, [-4.5]), (3, 5, [7.0])]
        assert [len(batch) for batch in batches if isinstance(batch, AckBatch)] == [2]
        assert [front.tally.count(3, cause) for cause in ("accepted", "unknown_device", "malformed")] == [7, 2, 1]

    asyncio.run(scenario())


def test_what_is_wrong_is_named_in_a_problem(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with enrolled(engine.endpoints) as bus:
            front = Front(bus, clock(), FrontSettings("1"))
            async with running(front.run()):
                await front.may_admit.wait()
                async with gateway_client(front) as client:
                    stranger = {"Authorization": f"Bearer {gateway_id(3)}.wrong"}
                    cases = [
                        (client.post("/v1/telemetry", content=b"{}", headers=JSON), 400),
                        (client.post("/v1/telemetry", content=b"{}", headers={"Content-Type": "text/csv"}), 415),
                        (client.post("/v1/telemetry", content=b"{}", headers={**JSON, **stranger}), 401),
                        (client.post("/v1/telemetry", content=b"{}", headers={**JSON, "Authorization": "x"}), 401),
                        (client.post("/v1/telemetry", content=bytes(BODY_BYTES_MAX + 1), headers=JSON), 413),
                        (client.get("/v1/commands?after=-1"), 400),
                        (client.get("/v1/telemetry"), 405),
                        (client.get("/v1/other"), 404),
                    ]
                    for request, status in cases:
                        answer = await request
                        assert answer.status_code == status, answer.text
                        assert answer.headers["content-type"] == "application/problem+json"
                        assert answer.json()["status"] == status
                    problem = (await client.get("/v1/commands?after=x")).json()
                    assert problem["errors"] == [
                        {"field": "after", "value": "x", "rule": "must be the `next` of an earlier answer, or 0"}
                    ]
                    told = [
                        (await client.post("/v1/telemetry", content=b'{"seq', headers=JSON)).json(),
                        (await client.post("/v1/telemetry", content=b"UPK9", headers=PACKED)).json(),
                        (await client.post("/v1/telemetry", content=b'{"seq": "1"}', headers=JSON)).json(),
                        (await client.post("/v1/telemetry", headers={**JSON, **stranger})).json(),
                        (await client.get("/v1/telemetry")).json(),
                    ]
                    assert [
                        (one["type"].rpartition(":")[2], one["title"], one["field"], one["value"]) for one in told
                    ] == [
                        ("invalid-input", "A field breaks a rule", "body", '{"seq'),
                        ("invalid-input", "A field breaks a rule", "body", "UPK9"),
                        ("invalid-input", "A field breaks a rule", "seq", "1"),
                        ("unauthenticated", "A valid key is needed", "Authorization", None),
                        ("method-not-allowed", "This path has no such method", "method", "GET"),
                    ]
                    assert told[0]["detail"] == 'body = "{\\"seq": must be valid JSON: it ends too early'
                    assert told[4]["rule"] == "must be POST"

    asyncio.run(scenario())


def test_without_the_stream_nothing_is_accepted_and_nothing_counted(engine: NatsEngine) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with enrolled(engine.endpoints) as bus:
            front = Front(bus, clock(), FrontSettings("1"))
            async with running(front.run()):
                await front.may_admit.wait()
                async with gateway_client(front) as client:
                    await loop.run_in_executor(None, engine.stop)
                    answer = await client.post("/v1/telemetry", content=encode_batch(4, [GOOD]), headers=JSON)
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
                    assert front.tally.count(3, "accepted") == 0
                    await loop.run_in_executor(None, engine.start)
                    answer = await client.post("/v1/telemetry", content=encode_batch(4, [GOOD]), headers=JSON)
                    assert answer.status_code == 202

    asyncio.run(scenario())


def test_a_gateway_fetches_only_its_own_commands(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with enrolled(engine.endpoints) as bus:
            front = Front(bus, clock(), FrontSettings("1"))
            async with running(front.run()):
                await front.may_admit.wait()
                command = CommandMessage(31, 1, "power_setpoint", 5, NOW_MS, NOW_MS + 1000, 60.0, "hold")
                front.held.hold(outgoing(3, Frame(1, NOW_MS, (command,))), 8)
                async with gateway_client(front) as client:
                    fetched = decode_fetched((await client.get("/v1/commands?after=0")).content)
                    assert (fetched.frames, fetched.next) == ((Frame(1, NOW_MS, (command,)),), 8)
                    assert decode_fetched((await client.get("/v1/commands?after=8")).content).frames == ()
                async with gateway_client(front, 2) as other:
                    assert decode_fetched((await other.get("/v1/commands")).content).frames == ()

    asyncio.run(scenario())


def test_a_gateway_that_floods_is_told_to_come_back_and_nothing_it_was_told_is_kept_is_lost(
    engine: NatsEngine,
) -> None:
    async def scenario() -> None:
        async with enrolled(engine.endpoints) as bus:
            # A burst of ten; time stands still.
            rates = RateSettings(factor=1.0, floor_per_s=0.1, burst_min=10)
            front = Front(bus, clock(), FrontSettings("1", rates=rates))
            async with running(front.run()):
                await front.may_admit.wait()
                async with gateway_client(front) as client:
                    answers = [
                        await client.post("/v1/telemetry", content=encode_batch(n, [GOOD]), headers=JSON)
                        for n in range(15)
                    ]
            n_rows = sum(len(batch) for batch in await arrived(bus, 10))
        assert [answer.status_code for answer in answers] == [202] * 10 + [429] * 5
        assert int(answers[-1].headers["Retry-After"]) == 10
        assert "readings of this gateway" in answers[-1].json()["detail"]
        assert n_rows == 10
        assert front.tally.count(3, "rate_limited") == 5

    asyncio.run(scenario())
