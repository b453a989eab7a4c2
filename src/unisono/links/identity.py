"""Who is enrolled, as the fronts need it: text ids -> integers, which gateway a device is behind, gateways' secrets.

A fold of ``registry.*``: the highest revision of each thing holds. A device may be reported only by its own gateway;
anybody else's word on it counts as an unknown device.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.model.registry import DeviceColumns, GatewayRecord, RegistryBatch
from unisono.model.technology import Lifecycle
from unisono.wire.idtable import NOT_FOUND, IdTable

NO_GATEWAY: Final = -1
# No device is taken to declare more than a thousand readings a second.
PERIOD_MIN_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class GatewayEntry:
    """A gateway as the edge knows it."""

    gateway_id: str
    gateway_no: int
    organisation_id: str
    link: str
    secret_sha256: str
    is_revoked: bool


class Identity:
    """The maps; ``fold`` changes them, everything else reads."""

    def __init__(self) -> None:
        # Set by whoever follows the registry once all that stood there at its start is folded.
        self.is_complete = asyncio.Event()
        self.devices = IdTable()
        self.gateways = IdTable()
        # By device_no; NO_GATEWAY: unknown or retired.
        self.gateway_of_device: NDArray[np.int32] = np.full(64, NO_GATEWAY, np.int32)
        # By device_no; 0 for one that is unknown.
        self.shard_of_device: NDArray[np.int16] = np.zeros(64, np.int16)
        self._revision_of_device: NDArray[np.int64] = np.full(64, -1, np.int64)
        # Readings a second: of each device, and of all that stand behind a gateway.
        self._per_s_of_device: NDArray[np.float64] = np.zeros(64)
        self._per_s_of_gateway: NDArray[np.float64] = np.zeros(64)
        self._entry_of_id: dict[str, GatewayEntry] = {}
        self._entry_of_no: dict[int, GatewayEntry] = {}
        self._revision_of_gateway: dict[int, int] = {}

    def fold(self, batch: RegistryBatch, shard: int = 0) -> list[str]:
        """Take a shard's batch in; return the gateways that may no longer be connected (revoked, or another secret)."""
        for columns in batch.all_devices():
            self._fold_devices(columns)
            self.shard_of_device[columns["device_no"]] = shard
        gateways = [record for record in batch.records if isinstance(record, GatewayRecord)]
        return [record.gateway_id for record in gateways if self._fold_gateway(record)]

    def gateway(self, gateway_id: str) -> GatewayEntry | None:
        """Return the gateway of that id."""
        return self._entry_of_id.get(gateway_id)

    def gateway_of_no(self, gateway_no: int) -> GatewayEntry | None:
        """Return the gateway of that number."""
        return self._entry_of_no.get(gateway_no)

    def gateway_no(self, gateway_id: str) -> int:
        """Return the gateway's number, NO_GATEWAY when there is none of that id (or it is revoked)."""
        entry = self._entry_of_id.get(gateway_id)
        return NO_GATEWAY if entry is None or entry.is_revoked else entry.gateway_no

    def declared_per_s(self, gateway_nos: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return for each gateway how many readings a second its devices' periods declare."""
        known = self._per_s_of_gateway
        return np.where(gateway_nos < known.size, known[np.minimum(gateway_nos, known.size - 1)], 0.0)

    def authenticate(self, gateway_id: str, secret: str) -> GatewayEntry | None:
        """Return the gateway if the secret is its own and it may connect; right or wrong takes the same time."""
        entry = self._entry_of_id.get(gateway_id)
        expected = entry.secret_sha256 if entry is not None else ""
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        is_right = hmac.compare_digest(digest.encode(), expected.lower().encode())
        return entry if entry is not None and is_right and not entry.is_revoked else None

    def device_nos_of_ids(self, gateway_no: int, ids: Sequence[str]) -> NDArray[np.int32]:
        """Return the device_no of each id, -1 where it is not this gateway's."""
        return self.own_device_nos(gateway_no, self.devices.find(ids))

    def own_device_nos(self, gateway_no: int, device_nos: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return each device_no, -1 where it is not this gateway's."""
        in_range = (device_nos >= 0) & (device_nos < self.gateway_of_device.size)
        owner = self.gateway_of_device[np.where(in_range, device_nos, 0)]
        return np.where(in_range & (owner == gateway_no) & (gateway_no >= 0), device_nos, NOT_FOUND).astype(np.int32)

    def shards_of(self, device_nos: NDArray[np.int32]) -> NDArray[np.int16]:
        """Return the shard of each device; 0 for one that is unknown."""
        known = self.shard_of_device
        in_range = (device_nos >= 0) & (device_nos < known.size)
        return np.where(in_range, known[np.where(in_range, device_nos, 0)], 0).astype(np.int16)

    def _fold_devices(self, told: DeviceColumns) -> None:
        device_no, revision = told["device_no"], told["revision"]
        self._grow(int(device_no.max(initial=-1)) + 1)
        # In growing order of revisions, so that of a device told of twice the newest holds.
        at = np.argsort(revision, kind="stable")
        at = at[revision[at] > self._revision_of_device[device_no[at]]]
        nos = device_no[at]
        fresh = at[self._revision_of_device[nos] < 0]
        self.devices.put(told["device_id"][fresh], device_no[fresh].astype(np.int32))
        self._revision_of_device[nos] = revision[at]
        changed = np.unique(nos)
        self._count_declared(changed, -1.0)
        self._per_s_of_device[nos] = 1.0 / np.maximum(told["telemetry_period_s"][at], PERIOD_MIN_S)
        owner = np.where(told["lifecycle"] == Lifecycle.RETIRED, NO_GATEWAY, told["gateway_no"])
        self.gateway_of_device[nos] = owner[at]
        self._count_declared(changed, 1.0)

    def _count_declared(self, device_nos: NDArray[np.int32], sign: float) -> None:
        owners = self.gateway_of_device[device_nos]
        is_owned = owners >= 0
        room = int(owners.max(initial=-1)) + 1 - self._per_s_of_gateway.size
        if room > 0:
            more = np.zeros(max(room, self._per_s_of_gateway.size))
            self._per_s_of_gateway = np.concatenate([self._per_s_of_gateway, more])
        np.add.at(self._per_s_of_gateway, owners[is_owned], sign * self._per_s_of_device[device_nos[is_owned]])

    def _fold_gateway(self, record: GatewayRecord) -> bool:
        if record.revision <= self._revision_of_gateway.get(record.gateway_no, -1):
            return False
        self._revision_of_gateway[record.gateway_no] = record.revision
        before = self._entry_of_no.get(record.gateway_no)
        entry = GatewayEntry(
            gateway_id=record.gateway_id,
            gateway_no=record.gateway_no,
            organisation_id=record.organisation_id,
            link=record.link,
            secret_sha256=record.secret_sha256,
            is_revoked=record.is_revoked or not record.secret_sha256,
        )
        self._entry_of_id[record.gateway_id] = self._entry_of_no[record.gateway_no] = entry
        no = NO_GATEWAY if entry.is_revoked else record.gateway_no
        self.gateways.put([record.gateway_id], np.array([no], np.int32))
        if before is None or before.is_revoked:
            return False
        return entry.is_revoked or before.secret_sha256 != entry.secret_sha256

    def _grow(self, size: int) -> None:
        have = self.gateway_of_device.size
        if size <= have:
            return
        room = max(size, 2 * have)
        owners = np.full(room, NO_GATEWAY, np.int32)
        owners[:have] = self.gateway_of_device
        revisions = np.full(room, -1, np.int64)
        revisions[:have] = self._revision_of_device
        self.gateway_of_device, self._revision_of_device = owners, revisions
        shards = np.zeros(room, np.int16)
        shards[:have] = self.shard_of_device
        self.shard_of_device = shards
        per_s = np.zeros(room)
        per_s[:have] = self._per_s_of_device
        self._per_s_of_device = per_s
