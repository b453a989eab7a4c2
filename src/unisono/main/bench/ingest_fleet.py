"""The fleet that is ingested from: gateways with equally many devices each, told to the platform by its registry."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.model.ratings import Ratings
from unisono.model.registry import DeviceRecord, GatewayRecord, RegistryBatch, RegistryRecord, encode_registry
from unisono.model.technology import Lifecycle

# Some 0.4 kB each: far below the bus's limit.
RECORDS_PER_MESSAGE: Final = 2000


def gateway_id(gateway_no: int) -> str:
    """Return the id of a gateway; it is also its MQTT user and client id."""
    return f"gwy_{gateway_no:026d}"


def device_id(device_no: int) -> str:
    """Return the id of a device."""
    return f"dev_{device_no:026d}"


def secret(gateway_no: int) -> str:
    """Return what a gateway logs in with."""
    return f"bench-secret-{gateway_no}"


def devices_of(gateway_no: int, n_devices: int, n_gateways: int) -> range:
    """Return the numbers of a gateway's devices; gateways and devices count from 1, ``n_devices`` are all of them."""
    each = n_devices // n_gateways
    return range((gateway_no - 1) * each + 1, gateway_no * each + 1)


async def enrol(bus: Bus, n_devices: int, n_gateways: int, period_s: float) -> None:
    """Publish the records of all gateways and their devices; each device reports every ``period_s``."""
    records: list[RegistryRecord] = []
    for gateway_no in range(1, n_gateways + 1):
        records.append(_gateway(gateway_no))
        devices = devices_of(gateway_no, n_devices, n_gateways)
        records += [_device(device_no, gateway_no, period_s) for device_no in devices]
    for start in range(0, len(records), RECORDS_PER_MESSAGE):
        batch = RegistryBatch(tuple(records[start : start + RECORDS_PER_MESSAGE]))
        await bus.publish_kept(subjects.registry(0), encode_registry(batch))


def pairs(device_no: NDArray[np.integer], measured_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one number for each (device, instant), to compare what was sent with what was kept."""
    return (device_no.astype(np.int64) << 42) | measured_ms.astype(np.int64)


def _gateway(gateway_no: int) -> GatewayRecord:
    return GatewayRecord(
        revision=1,
        organisation_id="org_bench",
        gateway_id=gateway_id(gateway_no),
        gateway_no=gateway_no,
        secret_sha256=hashlib.sha256(secret(gateway_no).encode()).hexdigest(),
    )


def _device(device_no: int, gateway_no: int, period_s: float) -> DeviceRecord:
    return DeviceRecord(
        revision=1,
        organisation_id="org_bench",
        device_id=device_id(device_no),
        device_no=device_no,
        site_id=f"sit_{device_no}",
        site_no=device_no,
        gateway_id=gateway_id(gateway_no),
        gateway_no=gateway_no,
        lifecycle=int(Lifecycle.ACTIVE),
        ratings=Ratings(power_max_w=5000.0, power_min_w=-5000.0),
        telemetry_period_s=period_s,
    )
