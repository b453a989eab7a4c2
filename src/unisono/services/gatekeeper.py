"""The gatekeeper: who may connect to NATS and MQTT, asked by the server at each connection (auth callout).

user = gateway id, password = its secret; a gateway may publish below ``u.<gateway>.`` and read below ``c.<gateway>``,
nothing else. Format of requests and answers: docs.nats.io, "Auth Callout"; JWTs signed with the account's key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from unisono.base.clock import Clock
from unisono.base.errors import DamagedRecord, Unavailable
from unisono.base.instants import NS_PER_S
from unisono.bus.connection import Bus, Subscribed
from unisono.engines.nkey import AccountKey
from unisono.links.identity import Identity

log = logging.getLogger(__name__)

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
# Several gatekeepers share the asking.
QUEUE: Final = "gatekeepers"
SYSTEM_TIMEOUT_S: Final = 2.0
RETRY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class GatekeeperSettings:
    """``account_seed_path`` holds the seed of the account that signs; ``account`` is where gateways are placed."""

    account_seed_path: Path
    account: str = "PLANT"


class Gatekeeper:
    """Answers the server's questions out of the live Identity."""

    def __init__(self, identity: Identity, clock: Clock, settings: GatekeeperSettings) -> None:
        self._identity = identity
        self._clock = clock
        self._account = settings.account
        self._key = AccountKey.of_seed(settings.account_seed_path.read_text())
        self.n_admitted = 0
        self.n_refused = 0

    async def answer(self, request: bytes) -> bytes:
        """Return the signed answer to one request: a user's rights, or why not."""
        asked = _claims(request)["nats"]
        options = asked.get("connect_opts", {})
        entry = self._identity.authenticate(str(options.get("user", "")), str(options.get("pass", "")))
        user_nkey, server_id = asked["user_nkey"], asked["server_id"]["id"]
        if entry is None:
            self.n_refused += 1
            # The same words for unknown, wrong and revoked: an outsider learns nothing.
            return self._response(user_nkey, server_id, {"error": "unknown gateway or wrong secret"})
        # A server drops the older of two connections with one client id: nobody may come under another's.
        client_id = str(asked.get("client_info", {}).get("mqtt_id", ""))
        if client_id and not client_id.startswith(entry.gateway_id):
            self.n_refused += 1
            return self._response(user_nkey, server_id, {"error": "the client id must begin with the gateway's id"})
        self.n_admitted += 1
        rights = {
            "type": "user",
            "version": 2,
            "pub": {"allow": [f"u.{entry.gateway_id}.>"]},
            # Both are needed for an MQTT subscription to c/<gateway>/#.
            "sub": {"allow": [f"c.{entry.gateway_id}", f"c.{entry.gateway_id}.>"]},
            "subs": -1,
            "data": -1,
            "payload": -1,
        }
        user = self._signed({"sub": user_nkey, "aud": self._account, "name": entry.gateway_id, "nats": rights})
        return self._response(user_nkey, server_id, {"jwt": user})

    def _response(self, user_nkey: str, server_id: str, content: dict[str, str]) -> bytes:
        body = {"type": "authorization_response", "version": 2, **content}
        return self._signed({"sub": user_nkey, "aud": server_id, "nats": body}).encode()

    def _signed(self, claims: dict[str, Any]) -> str:
        claims = {"iss": self._key.public, "iat": self._clock.wall_ns() // NS_PER_S, **claims}
        claims["jti"] = _base64(hashlib.sha256(json.dumps(claims).encode()).digest())
        head = _base64(b'{"typ":"JWT","alg":"ed25519-nkey"}')
        signed = f"{head}.{_base64(json.dumps(claims).encode())}"
        return f"{signed}.{_base64(self._key.sign(signed.encode()))}"


async def run(
    bus: Bus,
    identity: Identity,
    clock: Clock,
    settings: GatekeeperSettings,
    *,
    may_admit: asyncio.Event,
    system: Bus | None = None,
    to_disconnect: asyncio.Queue[str] | None = None,
    is_open: asyncio.Event | None = None,
) -> None:
    """Answer from the moment ``may_admit`` is set, until cancelled.

    With ``system`` (a connection as the server's system user) gateways named in ``to_disconnect`` are cut off at once;
    without it a revoked gateway stays until it reconnects. ``is_open`` is set when questions reach us.
    """
    gatekeeper = Gatekeeper(identity, clock, settings)

    async def answer(request: bytes) -> bytes:
        try:
            return await gatekeeper.answer(request)
        except (DamagedRecord, KeyError) as wrong:
            log.warning("a question of the server can't be read: %s", wrong)
            return b""

    await may_admit.wait()
    serving = await _serve(bus, answer)
    if is_open is not None:
        is_open.set()
    try:
        while True:
            if system is None or to_disconnect is None:
                await asyncio.Event().wait()
                continue
            gateway_id = await to_disconnect.get()
            try:
                n_cut = await cut_off(system, gateway_id)
            except Unavailable as wrong:
                log.warning("gateway %s is revoked but may still be connected: %s", gateway_id, wrong)
            else:
                log.info("gateway %s: %d connections closed", gateway_id, n_cut)
    finally:
        if bus.is_connected:
            await serving.stop()


async def _serve(bus: Bus, answer: Callable[[bytes], Awaitable[bytes]]) -> Subscribed:
    while True:
        try:
            return await bus.serve(SUBJECT, answer, QUEUE)
        except Unavailable:
            if bus.is_closed:
                raise
            await asyncio.sleep(RETRY_S)


async def cut_off(system: Bus, gateway_id: str) -> int:
    """Close every connection of a gateway at the server that answers first; return how many. Raises Unavailable."""
    server_id, found = await connections(system, {"auth": True, "user": gateway_id})
    for number in found:
        await kick(system, server_id, number)
    return len(found)


async def connections(system: Bus, asked: dict[str, Any]) -> tuple[str, set[int]]:
    """Return the id of the server that answers first and its connections that pass ``asked`` (ConnzOptions of NATS)."""
    found = _parsed(await system.request("$SYS.REQ.SERVER.PING.CONNZ", json.dumps(asked).encode(), SYSTEM_TIMEOUT_S))
    numbers = {int(connection["cid"]) for connection in found.get("data", {}).get("connections", [])}
    return found.get("server", {}).get("id", ""), numbers


async def kick(system: Bus, server_id: str, number: int) -> None:
    """Close a connection; harmless when it is gone. Raises Unavailable."""
    await system.request(f"$SYS.REQ.SERVER.{server_id}.KICK", json.dumps({"cid": number}).encode(), SYSTEM_TIMEOUT_S)


def _claims(token: bytes) -> dict[str, Any]:
    # It reached us on a subject that only the server may publish on; its signature is the server's per-run key.
    parts = token.split(b".")
    if len(parts) != 3:
        raise DamagedRecord("auth request", "is no JWT")
    try:
        return _parsed(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
    except ValueError as wrong:
        raise DamagedRecord("auth request", str(wrong)) from wrong


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as wrong:
        raise DamagedRecord("message of the server", str(wrong)) from wrong


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
