"""The platform's front doors, as little as a region needs to be alive: MQTT, enrolment, telemetry, commands."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import uvicorn

from unisono.sim.live import packets

Scope = MutableMapping[str, Any]


class FakePlatform:
    """Keeps what it is told; ``seen`` is set whenever something arrives."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.published: list[tuple[str, Any]] = []
        self.posted: list[tuple[str, str, Any]] = []
        self.sessions: dict[str, asyncio.StreamWriter] = {}
        self.waiting_frames: list[dict[str, Any]] = []
        self.withholds_pubacks = False
        self.n_connects = 0
        self.seen = asyncio.Event()
        self.mqtt_port = 0
        self.http_port = 0

    async def start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Listen on free loopback ports."""
        server = await asyncio.start_server(self._mqtt, "127.0.0.1", 0)
        self.mqtt_port = server.sockets[0].getsockname()[1]
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.http_port = self._listening.getsockname()[1]
        self._web = uvicorn.Server(uvicorn.Config(self._http, log_level="warning", lifespan="off", interface="asgi3"))
        return [tasks.create_task(self._web.serve([self._listening])), tasks.create_task(_until_cancelled(server))]

    def stop(self, tasks: list[asyncio.Task[None]]) -> None:
        self._web.should_exit = True
        tasks[0].add_done_callback(lambda _: self._listening.close())
        tasks[1].cancel()
        for writer in self.sessions.values():
            writer.transport.abort()

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait until it is so; looks again whenever something arrives."""
        async with asyncio.timeout(30):
            while not is_so():
                self.seen.clear()
                await self.seen.wait()

    def send(self, gateway_id: str, what: str, message: dict[str, Any]) -> None:
        self.sessions[gateway_id].write(packets.publish(f"c/{gateway_id}/{what}", msgspec.json.encode(message)))

    async def _mqtt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cut, gateway_id = packets.PacketReader(), ""
        while received := await reader.read(65_536):
            for packet in cut.feed(received):
                if packet.kind == 1:
                    gateway_id = packet.body[12 : 12 + int.from_bytes(packet.body[10:12], "big")].decode()
                    self.sessions[gateway_id] = writer
                    self.n_connects += 1
                    writer.write(b"\x20\x02\x00\x00")
                elif packet.kind == 8:
                    writer.write(b"\x90\x05" + packet.body[:2] + b"\x00\x00\x00")
                elif packet.kind == packets.PUBLISH:
                    topic, payload, packet_id = packet.message()
                    assert topic.startswith(f"u/{gateway_id}/"), "a gateway speaks for itself only"
                    self.published.append((topic, msgspec.json.decode(payload)))
                    if packet_id and not self.withholds_pubacks:
                        writer.write(packets.puback(packet_id))
            self.seen.set()

    async def _http(
        self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        status, answer = self._answer(scope["method"], scope["path"], headers, body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer})
        self.seen.set()

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        who = headers["authorization"].removeprefix("Bearer ").partition(".")[0]
        if path == "/v1/vpp/enrolments":
            assert headers["idempotency-key"]
            self.lines += [msgspec.json.decode(line) for line in body.splitlines()]
            return 202, b'{"job_id": "job_1", "status_url": "/v1/jobs/job_1"}'
        if path == "/v1/jobs/job_1":
            return 200, b'{"state": "completed", "n_done": %d, "n_total": 1, "n_errors": 0}' % len(self.lines)
        if path == "/v1/jobs/job_1/result":
            return 200, b"\n".join(msgspec.json.encode(self._enrolled(i)) for i in range(len(self.lines)))
        if path == "/v1/commands":
            frames, self.waiting_frames = self.waiting_frames, []
            return 200, msgspec.json.encode({"frames": frames, "next": 7})
        self.posted.append((who, path, msgspec.json.decode(body)))
        return 202, b'{"accepted": %d, "rejected": []}' % len(self.posted[-1][2].get("readings", []))

    def _enrolled(self, i: int) -> dict[str, Any]:
        gateway = self.lines[i]["gateway_reference"]
        is_first = gateway not in [line["gateway_reference"] for line in self.lines[:i]]
        line = {"partner_reference": self.lines[i]["partner_reference"], "device_id": f"dev_{i}", "device_no": 1000 + i}
        line |= {"gateway_reference": gateway, "gateway_id": f"gwy_{gateway}"}
        return line | ({"gateway_secret": "s"} if is_first else {})


async def _until_cancelled(server: asyncio.Server) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
