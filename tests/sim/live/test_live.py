from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.sim.live.fake_platform import FakePlatform

from unisono.base.errors import InvalidInput
from unisono.sim.live.run import LiveRegion, make_region
from unisono.sim.live.settings import LiveSettings, read_settings
from unisono.sim.spec import NetworkSpec, WorldSpec

WORLD = WorldSpec(seed=3, n_devices=120, spin_up_h=0.1, network=NetworkSpec(cloud_poll_s=(0.2,)))


class Clock:
    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


async def play(platform: FakePlatform, folder: Path, scene: Any) -> tuple[LiveRegion, list[dict[str, Any]]]:
    """Run a region against the platform while ``scene`` is played; return it and all that it said."""
    said: list[dict[str, Any]] = []
    orders: asyncio.Queue[bytes | None] = asyncio.Queue()

    def say(status: dict[str, Any]) -> None:
        said.append(status)
        platform.seen.set()

    async def given() -> AsyncIterator[bytes]:
        while (order := await orders.get()) is not None:
            yield order

    async with asyncio.TaskGroup() as tasks:
        serving = await platform.start(tasks)
        settings = LiveSettings(
            api_url=f"http://127.0.0.1:{platform.http_port}",
            api_key="key_1.x",
            mqtt_port=platform.mqtt_port,
            world=WORLD,
            dump_path=str(folder / "ledger.json"),
        )
        region = make_region(settings, Clock(), say)
        running = tasks.create_task(region.run(given()))
        await platform.until(lambda: said and said[-1].get("phase") == "running")
        await scene(region, orders, said)
        await orders.put(b'{"do": "stop"}')
        await running
        platform.stop(serving)
    region.dump()
    return region, said


def setpoint(no: int, seq: int, value: float) -> dict[str, Any]:
    now_ms = time.time_ns() // 1_000_000
    times = {"start_ms": now_ms, "expires_ms": now_ms + 60_000, "ttl_s": 60, "fallback": "normal_operation"}
    return {"no": no, "seq": seq, "kind": "power_setpoint", "value": value, **times}


def test_a_region_enrols_reports_obeys_and_tells_the_truth(tmp_path: Path) -> None:
    async def live() -> None:
        platform = FakePlatform()

        async def scene(region: LiveRegion, orders: asyncio.Queue[bytes | None], said: list[dict[str, Any]]) -> None:
            battery = next(
                i for i, line in enumerate(platform.lines) if line["asset_type"] == "bess" and line["link"] == "mqtt"
            )
            behind_cloud = next(
                i for i, line in enumerate(platform.lines) if line["asset_type"] == "bess" and line["link"] == "http"
            )
            gateway_id = f"gwy_{platform.lines[battery]['gateway_reference']}"
            frame = {
                "epoch": 1,
                "issued_ms": time.time_ns() // 10**6,
                "commands": [setpoint(1000 + battery, 5, 2000.0)],
            }
            platform.send(gateway_id, "f", frame)
            platform.send(gateway_id, "r", {"epoch": 1, "through_seq": 5, "issued_ms": 0, "expires_ms": 9 * 10**12})
            platform.send(gateway_id, "s", {"through_seq": 1})
            platform.send(gateway_id, "f", {"nonsense": True})
            cloud_frame = {"type": "frame", **frame, "commands": [setpoint(1000 + behind_cloud, 6, 2000.0)]}
            platform.waiting_frames.append(cloud_frame)
            acks_topic = f"u/{gateway_id}/a"
            await platform.until(lambda: sum(topic == acks_topic for topic, _ in platform.published) >= 2)
            await platform.until(lambda: any(path == "/v1/acks" for _, path, _ in platform.posted))
            await platform.until(lambda: said[-1].get("true_delivered_w", 0.0) > 3000.0)
            acks = [ack for topic, body in platform.published if topic == acks_topic for ack in body["acks"]]
            assert [ack[:4] for ack in acks] == [[1000 + battery, 1, 5, 0], [-1, 1, 5, 0]]
            await platform.until(lambda: any(path == "/v1/telemetry" for _, path, _ in platform.posted))
            await orders.put(b"no json")
            await orders.put(b'{"do": "misbehave"}')
            await orders.put(b'{"do": "watch", "device_nos": [%d]}' % (1000 + battery))
            await orders.put(b'{"do": "truth"}')
            await platform.until(lambda: any("truth" in line for line in said))
            await platform.until(lambda: said[-1].get("is_misbehaving"))

        region, said = await play(platform, tmp_path, scene)
        assert any("error" in line for line in said)
        kinds = {topic.rpartition("/")[2] for topic, _ in platform.published}
        assert {"a", "b"} <= kinds
        batch = next(body for topic, body in platform.published if topic.endswith("/b"))
        assert {"id", "ts", "p"} <= batch["readings"][0].keys()
        ledger = msgspec.json.decode((tmp_path / "ledger.json").read_bytes())
        assert ledger["counters"]["readings_acknowledged"] > 0
        assert ledger["n_commands_by_answer"] == {"accepted": 2}
        assert ledger["counters"]["malformed_downlink"] == 1
        assert ledger["every_invariant_held"], ledger["violations"]
        assert region.n_enrolled == 120

    asyncio.run(live())


def test_what_was_not_acknowledged_is_sent_again_after_a_reconnect(tmp_path: Path) -> None:
    async def live() -> None:
        platform = FakePlatform()
        platform.withholds_pubacks = True

        async def scene(region: LiveRegion, orders: asyncio.Queue[bytes | None], said: list[dict[str, Any]]) -> None:
            await platform.until(lambda: any(topic.endswith("/b") for topic, _ in platform.published))
            topic, body = next((topic, body) for topic, body in platform.published if topic.endswith("/b"))
            platform.withholds_pubacks = False
            platform.sessions[topic.split("/")[1]].transport.abort()
            await platform.until(lambda: platform.published.count((topic, body)) >= 2)
            await platform.until(lambda: region.devices.ledger.counters.get("readings_acknowledged", 0) > 0)

        await play(platform, tmp_path, scene)

    asyncio.run(live())


def test_a_wrong_configuration_names_its_field(tmp_path: Path) -> None:
    path = tmp_path / "region.json"
    with pytest.raises(InvalidInput, match="can't be read"):
        read_settings(path)
    path.write_text('{"api_url": "http://x", "api_key": "k", "seeds": 4}')
    with pytest.raises(InvalidInput, match="seeds"):
        read_settings(path)
