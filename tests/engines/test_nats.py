from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nats as client
import pytest
from hypothesis import given, strategies as st

from unisono.base.errors import Conflict, DamagedRecord
from unisono.engines import child, nats
from unisono.engines.nats import NatsEndpoints, NatsEngine
from unisono.engines.nkey import AccountKey

# CONNACK's return code in MQTT 3.1.1, section 3.2.2.3
NOT_AUTHORISED = 5


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[NatsEngine]:
    one = NatsEngine(tmp_path / "na ts")
    try:
        yield one
    finally:
        one.stop()


def mqtt_answers(endpoints: NatsEndpoints, user: str, password: str) -> int:
    """Connect by MQTT 3.1.1 and return the CONNACK's code (section 3.2.2.3)."""

    def text(value: str) -> bytes:
        return len(value.encode()).to_bytes(2, "big") + value.encode()

    fixed = text("MQTT") + bytes([4, 0b1100_0010]) + (60).to_bytes(2, "big")
    body = fixed + text("probe") + text(user) + text(password)
    with socket.create_connection((endpoints.mqtt_host, endpoints.mqtt_port), timeout=10) as connection:
        connection.sendall(bytes([0x10, len(body)]) + body)
        answer = connection.recv(4)
    assert answer[:2] == b"\x20\x02"
    return answer[3]


async def connected(endpoints: NatsEndpoints) -> client.NATS:
    return await client.connect(
        endpoints.nats_url, user=endpoints.core_user, password=endpoints.core_password, allow_reconnect=False
    )


def test_a_stream_outlives_kill_9_and_the_ports_stay(engine: NatsEngine) -> None:
    endpoints = engine.start()
    assert engine.start() == endpoints

    async def publish() -> None:
        connection = await connected(endpoints)
        try:
            stream = connection.jetstream()
            await stream.add_stream(name="KEPT", subjects=["kept.*"])
            for number in range(10):
                await stream.publish("kept.0", bytes([number]))
        finally:
            await connection.close()

    async def read() -> int:
        connection = await connected(endpoints)
        try:
            return (await connection.jetstream().stream_info("KEPT")).state.messages
        finally:
            await connection.close()

    asyncio.run(publish())
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    assert child.wait_until(lambda: not engine.is_alive(), 5)
    begun = time.perf_counter()
    assert engine.start() == endpoints
    print(f"NATS is back {time.perf_counter() - begun:.2f} s after kill -9")  # noqa: T201 - a figure, not a verdict
    assert asyncio.run(read()) == 10
    engine.stop()
    assert engine.start() == endpoints, "ports and passwords are remembered in the folder"
    assert asyncio.run(read()) == 10


def test_nobody_but_core_gets_in_while_the_gatekeeper_is_away(engine: NatsEngine) -> None:
    endpoints = engine.start()
    assert mqtt_answers(endpoints, endpoints.core_user, endpoints.core_password) == 0
    assert mqtt_answers(endpoints, endpoints.core_user, "wrong") == NOT_AUTHORISED
    address = (endpoints.mqtt_host, int(endpoints.nats_url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b'CONNECT {"user": "core", "pass": "wrong"}\r\nPING\r\n')
        with connection.makefile("rb") as lines:
            assert b"-ERR 'Authorization Violation'\r\n" in list(lines)


def test_it_holds_what_the_platform_needs_of_it(engine: NatsEngine) -> None:
    endpoints = engine.start()
    with urllib.request.urlopen(f"{endpoints.monitor_url}/varz", timeout=5) as answer:
        facts = json.load(answer)
    assert (facts["host"], facts["http_host"], facts["mqtt"]["host"]) == ("127.0.0.1",) * 3
    assert facts["max_payload"] == 8 << 20
    assert facts["jetstream"]["config"]["sync_interval"] == 1_000_000_000
    assert facts["jetstream"]["config"]["max_storage"] == 10 << 30
    for name in ("core.password", "sys.password", "account.seed", "nats.conf"):
        assert stat.S_IMODE((engine.folder / name).stat().st_mode) == 0o600
    key = AccountKey.of_seed(endpoints.account_seed_path.read_text())
    assert f"issuer: {key.public}" in (engine.folder / "nats.conf").read_text()
    assert endpoints.core_password not in repr(endpoints)


def test_two_platforms_on_one_folder_are_told_so(engine: NatsEngine) -> None:
    engine.start()
    with pytest.raises(Conflict, match=f"in use by process {os.getpid()}: another platform runs on it"):
        NatsEngine(engine.folder).start()
    found = nats.inspect(engine.folder)
    assert (found.owner_pid, found.is_running, found.binary.problem) == (os.getpid(), True, "")
    assert found.pids == (engine.pid,)
    assert set(found.ports) == {"nats", "mqtt", "monitor"}
    assert int(found.binary.version.split(".")[0]) >= 2


def test_the_key_of_the_callout_is_one_that_nats_knows() -> None:
    # From the documentation of nkeys: an account's seed begins with SA, its public key with A; both are base 32.
    key = AccountKey(bytes(32))
    assert key.seed.startswith("SA")
    assert key.public.startswith("A")
    assert (len(key.seed), len(key.public)) == (58, 56)


@given(st.binary(min_size=32, max_size=32))
def test_a_seed_reads_back_as_the_same_key(raw: bytes) -> None:
    key = AccountKey(raw)
    again = AccountKey.of_seed(key.seed + "\n")
    assert (again.public, again.sign(b"x")) == (key.public, key.sign(b"x"))


@pytest.mark.parametrize("text", ["", "SA", "!!", AccountKey(bytes(32)).public, AccountKey(bytes(32)).seed[:-1] + "7"])
def test_a_damaged_seed_is_refused(text: str) -> None:
    with pytest.raises(DamagedRecord):
        AccountKey.of_seed(text)
