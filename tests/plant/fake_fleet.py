"""A tiny fleet for scenarios: devices that follow setpoints, or don't, on a clock that is moved by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np

from unisono.base.instants import NS_PER_S
from unisono.model.batches import AckBatch, CommandFrames, ReadingBatch
from unisono.model.dispatch import Dispatch, DispatchProgress, OptOutChange, Request, TargetPoint
from unisono.model.ratings import OwnerLimits, Ratings
from unisono.model.registry import DeviceRecord, PortfolioRecord, RegistryBatch
from unisono.model.technology import CommandKind, Lifecycle, Technology
from unisono.plant.state import PlantConfig, PlantState, new_state
from unisono.plant.step import Arrival, StepResult, step

START_NS = 1_790_000_000 * NS_PER_S
CYCLE_S = 4.0
BATTERY = Ratings(
    power_max_w=5000.0,
    power_min_w=-5000.0,
    energy_capacity_wh=13_500.0,
    charge_efficiency_frac=0.95,
    discharge_efficiency_frac=0.95,
)


@dataclass
class FakeDevice:
    """One device with its own lease and its own idea of obedience."""

    record: DeviceRecord
    normal_w: float = 0.0
    soc_frac: float = 0.6
    temperature_degc: float = float("nan")
    # obeys, refuses, ignores (acknowledges and does nothing), mute (acts and never answers), wrong_sign, dead
    behaviour: str = "obeys"
    refusal_code: int = 1
    delivers_frac: float = 1.0
    # What its meter shows of its power.
    tells_frac: float = 1.0
    setpoint_w: float | None = None
    seq: int = -1
    lease_ends_s: float = -1.0
    power_w: float = 0.0
    moved_in_opt_out: bool = False

    def hear(self, seq: int, kind: int, value: float, ttl_s: float, at_s: float) -> int | None:
        """Take a command; return the code of the answer, None for silence."""
        if self.behaviour == "dead":
            return None
        if self.behaviour == "refuses" and kind != CommandKind.RELEASE:
            return self.refusal_code
        if seq > self.seq:
            self.seq = seq
            if kind == CommandKind.RELEASE:
                self.setpoint_w = None
            else:
                self.setpoint_w, self.lease_ends_s = value, at_s + ttl_s
        return None if self.behaviour == "mute" else 0

    def live(self, at_s: float) -> None:
        """Move to where the lease says, or back to normal when it has run out."""
        if self.setpoint_w is not None and at_s >= self.lease_ends_s:
            self.setpoint_w = None
        held_w = self.setpoint_w
        if held_w is None or self.behaviour == "ignores":
            self.power_w = self.normal_w
        elif self.behaviour == "wrong_sign":
            self.power_w = self.normal_w - (held_w - self.normal_w)
        else:
            self.power_w = self.normal_w + self.delivers_frac * (held_w - self.normal_w)


@dataclass
class FakeFleet:
    """Devices, the clock, and the plant under test."""

    devices: list[FakeDevice]
    state: PlantState
    portfolios: list[PortfolioRecord]
    at_s: float = 0.0
    arrivals: list[Arrival] = field(default_factory=list)
    dark_gateways: set[int] = field(default_factory=set)
    # Clouds that fetch their commands every so many seconds, and what waits for them.
    poll_s_of_gateway: dict[int, float] = field(default_factory=dict)
    waiting: list[CommandFrames] = field(default_factory=list)
    frames: list[CommandFrames] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    wall_step_s: float = 0.0

    @property
    def now_ns(self) -> int:
        return START_NS + round((self.at_s + self.wall_step_s) * NS_PER_S)

    @property
    def mono_ns(self) -> int:
        return round(self.at_s * NS_PER_S)

    @property
    def power_w(self) -> float:
        return sum(device.power_w for device in self.devices)

    def enrol(self) -> StepResult:
        records = (*(device.record for device in self.devices), *self.portfolios)
        return self._step([], [RegistryBatch(records)])

    def cycle(self, *requests: Request) -> StepResult:
        """Let a cycle pass: devices report and live, the plant steps, frames are delivered and answered."""
        self.at_s += CYCLE_S
        for device in self.devices:
            device.live(self.at_s - 0.5)
        self.arrivals += self.readings()
        return self._step(list(requests), [])

    def run(self, n: int) -> StepResult:
        result = self.cycle()
        for _ in range(n - 1):
            result = self.cycle()
        return result

    def readings(self) -> list[Arrival]:
        heard = [d for d in self.devices if d.behaviour != "dead" and d.record.gateway_no not in self.dark_gateways]
        if not heard:
            return []
        batch = reading_batch(heard, self.now_ns - NS_PER_S // 2, self.now_ns)
        return [Arrival(batch, self.mono_ns)]

    def _step(self, requests: list[Request], registry: list[RegistryBatch]) -> StepResult:
        arrivals, self.arrivals = self.arrivals, []
        result = step(self.state, arrivals, requests, registry, self.now_ns, self.mono_ns)
        self.frames.append(result.frames)
        self.log += [entry.kind for entry in result.outcomes.log]
        slow = list(self.poll_s_of_gateway)
        self._deliver(result.frames, ~np.isin(result.frames.gateway_no, slow))
        self.waiting.append(result.frames)
        for gateway, poll_s in self.poll_s_of_gateway.items():
            if self.at_s % poll_s == 0.0:
                for frames in self.waiting:
                    self._deliver(frames, frames.gateway_no == gateway)
                self.waiting = []
        return result

    def _deliver(self, frames: CommandFrames, is_due: np.ndarray) -> None:
        of_no = {device.record.device_no: device for device in self.devices}
        answers: dict[int, list[tuple[int, int, int]]] = {}
        for no, gateway, seq, kind, value, ttl_s in zip(
            frames.device_no[is_due].tolist(), frames.gateway_no[is_due].tolist(), frames.seq[is_due].tolist(),
            frames.kind[is_due].tolist(), frames.value[is_due].tolist(), frames.ttl_s[is_due].tolist(), strict=True,
        ):  # fmt: skip
            if gateway in self.dark_gateways:
                continue
            if no == -1:
                for device in self.devices:
                    is_held = device.setpoint_w is not None and device.seq <= seq and self.at_s < device.lease_ends_s
                    if device.record.gateway_no == gateway and is_held and device.behaviour != "dead":
                        device.lease_ends_s = self.at_s + ttl_s
                answers.setdefault(gateway, []).append((-1, seq, 0))
                continue
            code = of_no[no].hear(seq, kind, value, ttl_s, self.at_s)
            if code is not None:
                answers.setdefault(gateway, []).append((no, seq, code))
        for gateway, rows in answers.items():
            columns = {
                "device_no": [row[0] for row in rows],
                "epoch": [frames.epoch] * len(rows),
                "seq": [row[1] for row in rows],
                "code": [row[2] for row in rows],
                "answered_ns": [self.now_ns] * len(rows),
            }
            answer = AckBatch.of_columns({"gateway_no": gateway, "known_ns": self.now_ns}, columns)
            self.arrivals.append(Arrival(answer, self.mono_ns + NS_PER_S))


def battery(
    no: int, *, gateway_no: int = 1, merit: int = 0, site_no: int | None = None, **changes: object
) -> FakeDevice:
    record = DeviceRecord(
        revision=1,
        organisation_id="org_1",
        device_id=f"dev_{no}",
        device_no=no,
        site_id=f"sit_{site_no or no}",
        site_no=site_no or no,
        gateway_id=f"gwy_{gateway_no}",
        gateway_no=gateway_no,
        technology=Technology.BESS,
        lifecycle=Lifecycle.ACTIVE,
        ratings=BATTERY,
        limits=OwnerLimits(soc_reserve_frac=0.2),
        telemetry_period_s=4.0,
        merit_micros_per_kwh=merit,
    )
    return FakeDevice(_changed(record, changes))


def _changed(record: DeviceRecord, changes: dict[str, object]) -> DeviceRecord:
    return msgspec.structs.replace(record, **changes)


def batteries(n: int, **changes: object) -> list[FakeDevice]:
    """Return batteries 1 to n, the cheapest first."""
    return [battery(no, merit=no, **changes) for no in range(1, n + 1)]


def fleet_of(devices: list[FakeDevice], *, config: PlantConfig | None = None) -> FakeFleet:
    """Return an enrolled fleet in one portfolio that has reported for two minutes (and past the first ttl)."""
    everyone = PortfolioRecord(
        revision=1,
        organisation_id="org_1",
        portfolio_id="pfo_1",
        portfolio_no=1,
        device_nos=tuple(device.record.device_no for device in devices),
    )
    fleet = FakeFleet(devices, new_state(0, 1, config), [everyone])
    fleet.enrol()
    fleet.run(20)
    return fleet


def dispatch_of(fleet: FakeFleet, power_w: float, *, duration_s: float = 200.0, **changes: object) -> Dispatch:
    start_ns = fleet.now_ns + round(CYCLE_S * NS_PER_S)
    spec = Dispatch(
        dispatch_id="dsp_1",
        revision=1,
        organisation_id="org_1",
        portfolio_id="pfo_1",
        portfolio_no=1,
        kind="change_w",
        start_ns=start_ns,
        end_ns=start_ns + round(duration_s * NS_PER_S),
        targets=(TargetPoint(start_ns, power_w),),
    )
    return msgspec.structs.replace(spec, **changes)


def progress_of(result: StepResult) -> DispatchProgress:
    return result.outcomes.progress[0]


def opt_out_of(fleet: FakeFleet, device_no: int, duration_s: float) -> OptOutChange:
    return OptOutChange(
        request_id=f"req_{device_no}",
        device_no=device_no,
        start_ns=fleet.now_ns,
        end_ns=fleet.now_ns + round(duration_s * NS_PER_S),
    )


def reading_batch(devices: list[FakeDevice], measured_ns: int, known_ns: int, **scalars: int) -> ReadingBatch:
    n = len(devices)
    columns = {
        "device_no": [device.record.device_no for device in devices],
        "source_kind": np.ones(n),
        "reading_kind": np.zeros(n),
        "quality": np.zeros(n),
        "status": np.zeros(n),
        "measured_ns": np.full(n, measured_ns, np.int64),
        "power_w": [device.tells_frac * device.power_w for device in devices],
        "soc_frac": [device.soc_frac for device in devices],
        "temperature_degc": [device.temperature_degc for device in devices],
    }
    return ReadingBatch.of_columns({"gateway_no": -1, "batch_seq": -1, "known_ns": known_ns} | scalars, columns)
