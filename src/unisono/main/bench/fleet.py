"""A large fleet to measure with: a simulated region's registry, repeated under other numbers until it is large enough.

It is enrolled through the registry like any other. What its devices do is plain: they stand at a power of their own
until they are told another, and then they are there at their next report.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from unisono.base.ids import new_id
from unisono.base.instants import NS_PER_S
from unisono.fleet.table import FleetTable
from unisono.model.batches import NO_SEQ, AckBatch, CommandFrames, ReadingBatch
from unisono.model.registry import DeviceRecord, GatewayRecord, PortfolioRecord, RegistryBatch
from unisono.model.technology import CommandKind, SourceKind, Technology
from unisono.plant.state import PlantState, new_state
from unisono.plant.step import Arrival, fold, take_in
from unisono.sim.records import registry
from unisono.sim.spec import WorldSpec
from unisono.sim.world import World

SEED: Final = 11
# A Thursday in late spring, 2026-05-21 19:00 UTC: the sun shines in California, where the region lies.
START_NS: Final = (1_779_321_600 + 19 * 3600) * NS_PER_S
TEMPLATE: Final = 10_000
PERIOD_S: Final = 40.0
PORTFOLIO_OF_ALL: Final = 1
# Readings, or gateways' answers, that a front publishes in one batch.
BATCH: Final = 1000
_STORES: Final = (Technology.BESS, Technology.EV, Technology.EVSE)


def registry_of(n_devices: int, n_portfolios: int) -> Iterator[RegistryBatch]:
    """Yield the registry of ``n_devices``: gateways, devices, then portfolios, the first of which holds all of them.

    Each of the others holds a hundredth of the fleet, half of it a street and half of it from anywhere.
    """
    n_template = min(n_devices, TEMPLATE)
    records = registry(World(WorldSpec(seed=SEED, n_devices=n_template), START_NS).roster).records
    gateways = [record for record in records if isinstance(record, GatewayRecord)]
    devices = [record for record in records if isinstance(record, DeviceRecord)]
    n_sites = max(device.site_no for device in devices)
    for first in range(0, n_devices, n_template):
        at = first // n_template
        yield RegistryBatch(
            (
                *(_moved_gateway(one, at, len(gateways)) for one in gateways),
                *(_moved_device(one, at, n_sites, len(gateways)) for one in devices[: n_devices - first]),
            )
        )
    yield RegistryBatch(tuple(_portfolios(n_devices, n_portfolios, devices[0].organisation_id)))


def enrolled(n_devices: int, n_portfolios: int) -> PlantState:
    """Return the state of a shard that has read the registry and nothing else."""
    state = new_state(0, 1)
    for batch in registry_of(n_devices, n_portfolios):
        take_in(state, [], [batch], START_NS)
    return state


def reported(state: PlantState) -> int:
    """Let all devices report within one period, but for every hundredth, which are stale, silent or suspect.

    Returns the monotonic instant up to which the picture reaches.
    """
    behaviour = Behaviour(state.fleet)
    n = state.fleet.n_devices
    rows = np.arange(n, dtype=np.int32)
    late_s = np.where(rows % 100 == 0, 5.0 * PERIOD_S, np.where(rows % 100 == 1, 20.0 * PERIOD_S, 0.0))
    for age_s in (20.0 * PERIOD_S, 5.0 * PERIOD_S, 0.0):
        mono_ns = round((20.0 * PERIOD_S - age_s) * NS_PER_S)
        batches = behaviour.report(rows[late_s == age_s], START_NS + mono_ns)
        fold(state, [Arrival(batch, mono_ns) for batch in batches], [], [], START_NS + mono_ns, mono_ns)
    end_ns = round(20.0 * PERIOD_S * NS_PER_S) + state.mono_shift_ns
    state.fleet.picture.suspect_until_mono_ns[:n:100][1::2] = end_ns + NS_PER_S
    fold(state, [], [], [], START_NS + end_ns - state.mono_shift_ns, end_ns - state.mono_shift_ns)
    return end_ns


def _moved_gateway(record: GatewayRecord, at: int, n_gateways: int) -> GatewayRecord:
    gateway_no = record.gateway_no + at * n_gateways
    return replace(record, gateway_id=_id("gateway", gateway_no), gateway_no=gateway_no)


def _moved_device(record: DeviceRecord, at: int, n_sites: int, n_gateways: int) -> DeviceRecord:
    device_no, site_no = record.device_no + at * TEMPLATE, record.site_no + at * n_sites
    gateway_no = record.gateway_no + at * n_gateways
    return replace(
        record,
        device_id=_id("device", device_no),
        device_no=device_no,
        site_id=_id("site", site_no),
        site_no=site_no,
        gateway_id=_id("gateway", gateway_no),
        gateway_no=gateway_no,
        telemetry_period_s=PERIOD_S,
        opt_outs=(),
    )


def _id(kind: str, no: int) -> str:
    return new_id(kind, 0, no.to_bytes(10, "big"))


def _portfolios(n_devices: int, n_portfolios: int, organisation_id: str) -> Iterator[PortfolioRecord]:
    chance = np.random.default_rng(SEED)
    half = max(1, n_devices // 200)
    for no in range(1, n_portfolios + 1):
        street = chance.integers(0, n_devices - half + 1) + np.arange(half)
        members = np.union1d(street, chance.integers(0, n_devices, half))
        nos = range(1, n_devices + 1) if no == PORTFOLIO_OF_ALL else (members + 1).tolist()
        yield PortfolioRecord(
            revision=1,
            organisation_id=organisation_id,
            portfolio_id=f"pfo_{no}",
            portfolio_no=no,
            device_nos=tuple(nos),
        )


class Behaviour:
    """What the devices of a fleet report and answer, whole arrays at a time; one row a device, in the order of rows."""

    def __init__(self, table: FleetTable) -> None:
        n, plate = table.n_devices, table.nameplate
        self._chance = np.random.default_rng(SEED)
        self._device_no = plate.device_no[:n]
        self._row_of_device = table.row_of_device
        self._is_pv = plate.technology[:n] == Technology.PV
        self._gateway = plate.gateway[:n]
        stores = np.isin(plate.technology[:n], _STORES)
        share = np.where(stores & (plate.power_max_w[:n] > 0.0), 0.0, self._chance.uniform(0.2, 0.9, n))
        span_w = np.where(self._is_pv, plate.power_max_w[:n], plate.power_min_w[:n])
        is_off = (plate.is_on_off[:n] == 1) & (self._chance.random(n) < 0.6)
        self._own_w = np.where(is_off, 0.0, np.where(plate.is_on_off[:n] == 1, span_w, share * span_w))
        # What each was told, in watts; NaN: nothing.
        self.told_w = np.full(n, np.nan)
        self._soc_frac = np.where(stores, self._chance.uniform(0.4, 0.8, n), np.nan).astype(np.float32)
        middle_degc = 0.5 * (plate.comfort_low_degc[:n] + plate.comfort_high_degc[:n])
        self._temperature_degc = middle_degc.astype(np.float32)

    def power_w(self) -> NDArray[np.float64]:
        """Return where each device is."""
        told_w = np.where(self._is_pv, np.fmin(self._own_w, self.told_w), self.told_w)
        return np.where(np.isnan(self.told_w), self._own_w, told_w)

    def called_w(self) -> float:
        """Return what all devices that were told anything come to together."""
        return float(self.power_w()[~np.isnan(self.told_w)].sum())

    def report(self, rows: NDArray[np.int32], now_ns: int) -> list[ReadingBatch]:
        """Return what the devices at ``rows`` measure now, as a front publishes it."""
        noise = 1.0 + 0.005 * self._chance.standard_normal(rows.size)
        power_w = np.where(np.isnan(self.told_w[rows]), noise, 1.0) * self.power_w()[rows]
        columns: dict[str, NDArray[Any]] = {
            "device_no": self._device_no[rows],
            "source_kind": np.full(rows.size, SourceKind.DEVICE, np.uint8),
            "measured_ns": np.full(rows.size, now_ns - NS_PER_S),
            "power_w": power_w.astype(np.float32),
            "soc_frac": self._soc_frac[rows],
            "temperature_degc": self._temperature_degc[rows],
            "voltage_v": np.full(rows.size, 240.0, np.float32),
        }
        scalars = {"gateway_no": -1, "batch_seq": NO_SEQ, "known_ns": now_ns - NS_PER_S // 2}
        parts = (slice(at, at + BATCH) for at in range(0, rows.size, BATCH))
        return [ReadingBatch.of_columns(scalars, {name: c[part] for name, c in columns.items()}) for part in parts]

    def obey(self, frames: CommandFrames, now_ns: int) -> list[AckBatch]:
        """Do what the frames say; return the answers of all gateways, as a front publishes them."""
        if not len(frames):
            return []
        is_command = frames.device_no >= 0
        rows = self._row_of_device[frames.device_no[is_command]]
        kind, value = frames.kind[is_command], frames.value[is_command].astype(np.float64)
        # A level or an offset above 0 sheds all of a load, others leave it alone.
        told_w = np.where(value > 0.0, 0.0, self._own_w[rows])
        told_w = np.where(kind <= CommandKind.IMPORT_EXPORT_LIMIT, value, told_w)
        self.told_w[rows] = np.where(kind == CommandKind.RELEASE, np.nan, told_w)
        order = np.argsort(frames.gateway_no, kind="stable")
        gateways, starts, sizes = np.unique(frames.gateway_no[order], return_index=True, return_counts=True)
        parts = np.column_stack([gateways, np.full(gateways.size, NO_SEQ), sizes]).astype(np.int64)
        answers = []
        for first in range(0, gateways.size, BATCH):
            end = min(first + BATCH, gateways.size)
            picked = order[starts[first] : starts[end - 1] + sizes[end - 1]]
            columns = {
                "device_no": frames.device_no[picked],
                "epoch": np.full(picked.size, frames.epoch),
                "seq": frames.seq[picked],
                "code": np.zeros(picked.size, np.uint8),
                "answered_ns": np.full(picked.size, now_ns),
            }
            scalars = {"gateway_no": -1, "known_ns": now_ns, "parts": parts[first:end]}
            answers.append(AckBatch.of_columns(scalars, columns))
        return answers
