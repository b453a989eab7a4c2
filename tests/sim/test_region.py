from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from tests.sim.fleet_of_commands import frames_for, renewals_for

from unisono.base.instants import NS_PER_S
from unisono.model.batches import AckBatch, ReadingBatch
from unisono.model.registry import DeviceRecord, GatewayRecord, decode_registry, encode_registry
from unisono.model.technology import AckCode, CommandKind, Technology
from unisono.sim import leases
from unisono.sim.region import Region
from unisono.sim.roster import MQTT_SINGLE
from unisono.sim.spec import Misbehaviour, NetworkSpec, WorldSpec
from unisono.sim.world import World

START_NS = 1_795_215_600 * NS_PER_S
CALM = NetworkSpec(
    loss_frac=0.0, duplicate_frac=0.0, reorder_frac=0.0, gateway_outage_interval_h=0.0, drift_max_ppm=0.0,
    cloud_poll_s=(4.0,),
)  # fmt: skip
SPEC = WorldSpec(seed=2, n_devices=300, spin_up_h=0.5, network=CALM, declared_opt_out_frac=0.0, limited_site_frac=0.0)
WILD = WorldSpec(seed=2, n_devices=300, spin_up_h=0.5)


class Day:
    """A region and its present instant."""

    def __init__(self, spec: WorldSpec) -> None:
        self.region = Region(World(spec, START_NS))
        self.roster = self.region.roster
        self.now_ns = START_NS
        self.bess = np.arange(300)[self.roster.rows_of[Technology.BESS]]
        self.acks: list[tuple[int, int, int]] = []
        self.readings: list[ReadingBatch] = []

    def run(self, duration_s: float) -> None:
        for _ in range(round(duration_s / 4.0)):
            self.now_ns += 4 * NS_PER_S
            for batch in self.region.advance(self.now_ns):
                if isinstance(batch, AckBatch):
                    self.acks += zip(batch.device_no.tolist(), batch.seq.tolist(), batch.code.tolist(), strict=True)
                else:
                    self.readings.append(batch)

    def call(self, value_w: float = 3000.0, **how: object) -> None:
        self.region.deliver(frames_for(self.roster, self.bess, value_w, self.now_ns, **how), self.now_ns)  # type: ignore[arg-type]

    def delivered_w(self) -> float:
        world = self.region.devices.world
        return float((world.power_w - world.twin_w)[self.bess].sum())


def test_a_called_device_moves_answers_and_returns_to_normal_when_its_lease_runs_out() -> None:
    day = Day(SPEC)
    day.call(ttl_s=60.0)
    day.run(16)
    assert day.delivered_w() > 0.9 * 3000 * day.bess.size * 0.8
    assert AckCode.ACCEPTED in {code for _, _, code in day.acks}
    day.run(60)
    assert day.delivered_w() == 0.0
    assert np.isnan(day.region.devices.world.commanded_w).all()
    summary = day.region.ledger_summary()
    assert summary["n_expired"] == day.bess.size
    assert summary["every_invariant_held"], summary["violations"]


def test_a_renewed_lease_lives_on_and_an_old_renewal_renews_nothing_newer() -> None:
    day = Day(SPEC)
    day.call(ttl_s=40.0, seq=100)
    day.run(24)
    half = 100 + day.bess.size // 2 - 1
    day.region.deliver(renewals_for(day.roster, half, day.now_ns), day.now_ns)
    day.run(32)
    held = ~np.isnan(day.region.devices.world.commanded_w[day.bess])
    assert held.tolist() == [True] * (day.bess.size // 2) + [False] * (day.bess.size - day.bess.size // 2)
    assert (-1, half, AckCode.ACCEPTED) in day.acks


def test_a_release_lets_go_at_once() -> None:
    day = Day(SPEC)
    day.call(seq=1)
    day.run(16)
    day.call(seq=1000, kind=CommandKind.RELEASE)
    day.run(16)
    assert day.delivered_w() == 0.0
    assert day.region.ledger_summary()["n_released"] == day.bess.size


def test_a_fallback_is_what_the_command_asked_for() -> None:
    day = Day(SPEC)
    day.call(ttl_s=20.0, fallback=2)
    day.run(60)
    assert day.delivered_w() > 0, "hold"
    assert day.region.ledger_summary()["every_invariant_held"]


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"value_w": 50_000.0}, AckCode.REFUSED_BOUNDS),
        ({"kind": CommandKind.TEMPERATURE_OFFSET}, AckCode.REFUSED_UNSUPPORTED),
        ({"valid_s": -1.0}, AckCode.REFUSED_EXPIRED),
    ],
)
def test_what_can_not_be_done_is_refused_with_its_cause(how: dict[str, object], code: AckCode) -> None:
    day = Day(SPEC)
    day.call(**how)  # type: ignore[arg-type]
    day.run(16)
    assert {answer for _, _, answer in day.acks} == {int(code)}
    assert day.delivered_w() == 0.0


@pytest.mark.parametrize(
    ("skew_s", "valid_s", "code", "n_late"),
    [
        (90.0, 60.0, AckCode.REFUSED_EXPIRED, 0),
        (50.0, 60.0, AckCode.ACCEPTED, 0),
        (-90.0, 60.0, AckCode.ACCEPTED, 0),
        (-90.0, -30.0, AckCode.ACCEPTED, 1),
    ],
    ids=["ahead", "a little ahead", "behind", "behind, and the command is old"],
)
def test_a_device_judges_by_its_own_clock_and_the_ledger_by_the_true_one(
    skew_s: float, valid_s: float, code: AckCode, n_late: int
) -> None:
    day = Day(SPEC)
    day.region.devices.faults.skew_s[:] = skew_s
    day.call(valid_s=valid_s)
    day.run(16)
    assert {answer for _, _, answer in day.acks} == {int(code)}
    assert (day.delivered_w() > 0.0) == (code == AckCode.ACCEPTED)
    assert day.region.ledger_summary()["n_violations"]["began_after_expiry"] == n_late * day.bess.size


def test_a_gateway_that_is_its_device_judges_renewals_by_the_devices_clock() -> None:
    day = Day(SPEC)
    single = day.roster.gateway_kind == MQTT_SINGLE
    day.region.devices.faults.skew_s[:] = 90.0
    day.region.deliver(renewals_for(day.roster, 1, day.now_ns), day.now_ns)
    day.run(8)
    refused = sum(code == AckCode.REFUSED_EXPIRED for _, _, code in day.acks)
    assert 0 < refused == np.count_nonzero(single)


def test_an_old_epoch_is_refused_and_an_old_seq_is_answered_again_and_changes_nothing() -> None:
    day = Day(SPEC)
    day.call(3000.0, seq=1000, epoch=7)
    day.run(12)
    day.call(1000.0, seq=1, epoch=7)
    day.call(-1000.0, seq=5000, epoch=6)
    before_w = day.delivered_w()
    day.run(12)
    assert day.delivered_w() == pytest.approx(before_w, rel=0.01)
    codes = {seq: code for _, seq, code in day.acks}
    assert codes[5000] == AckCode.REFUSED_OLD_EPOCH
    assert 1 not in codes, "the answer is for the newest"
    assert len([1 for _, seq, _ in day.acks if seq == 1000]) == 2


def test_one_seed_and_the_same_calls_give_the_same_batches_bit_for_bit() -> None:
    def everything() -> bytes:
        day = Day(WILD)
        day.region.misbehave(day.now_ns)
        parts = []
        for k in range(60):
            if k % 10 == 3:
                day.call(2000.0 + k, seq=1 + 1000 * k)
            day.now_ns += 4 * NS_PER_S
            parts += [batch.encode() for batch in day.region.advance(day.now_ns)]
        parts.append(msgspec.json.encode(day.region.ledger_summary()))
        return b"".join(parts)

    assert everything() == everything()


def test_readings_come_at_each_devices_own_period() -> None:
    day = Day(SPEC)
    day.run(600)
    n = np.bincount(np.concatenate([batch.device_no for batch in day.readings]), minlength=301)[1:]
    # A device faster than the region's steps reports once a step.
    expected = 600.0 / np.maximum(day.roster.telemetry_period_s, 4.0)
    np.testing.assert_allclose(n, expected, rtol=0.15, atol=2.0)
    batch = day.readings[-1]
    assert np.abs(batch.measured_ns - day.now_ns).max() < 12 * NS_PER_S
    told, true = batch.power_w, day.region.devices.world.power_w[batch.device_no - 1]
    np.testing.assert_allclose(told, true, rtol=0.02, atol=10.0)


def test_the_registry_is_whole_and_travels() -> None:
    batch = decode_registry(encode_registry(Day(WILD).region.registry()))
    devices = [record for record in batch.records if isinstance(record, DeviceRecord)]
    gateways = [record for record in batch.records if isinstance(record, GatewayRecord)]
    assert [device.device_no for device in devices] == list(range(1, 301))
    assert {device.gateway_no for device in devices} == {gateway.gateway_no for gateway in gateways}
    assert all(device.ratings.power_min_w <= device.ratings.power_max_w for device in devices)


FAULTS: list[tuple[str, Callable[[Day], bool]]] = [
    ("refuse_frac", lambda day: {code for _, _, code in day.acks} == {AckCode.REFUSED_LOCAL_OVERRIDE}),
    ("opt_out_frac", lambda day: {code for _, _, code in day.acks} == {AckCode.REFUSED_OPT_OUT}),
    ("mute_frac", lambda day: not day.acks and day.delivered_w() > 0),
    ("dropout_frac", lambda day: not day.acks or {code for _, _, code in day.acks} == {AckCode.UNREACHABLE}),
]


@pytest.mark.parametrize(("share", "seen"), FAULTS, ids=[share for share, _ in FAULTS])
def test_each_misbehaviour_is_seen(share: str, seen: Callable[[Day], bool]) -> None:
    nothing = dict.fromkeys(
        ("dropout_frac", "refuse_frac", "liar_frac", "skew_frac", "over_deliver_frac", "mute_frac", "opt_out_frac"), 0.0
    )
    bad = Misbehaviour(**{**nothing, share: 1.0}, dark_cloud=-2, dropout_window_s=0.0, dropout_s=1e6)
    day = Day(msgspec.structs.replace(SPEC, misbehaviour=bad))
    day.region.misbehave(day.now_ns)
    day.run(4)
    day.call()
    day.run(20)
    assert seen(day)
    assert day.region.ledger_summary()["every_invariant_held"]


def test_liars_do_nothing_freeze_or_turn_the_sign() -> None:
    bad = Misbehaviour(
        liar_frac=1.0, dropout_frac=0.0, refuse_frac=0.0, skew_frac=0.0, over_deliver_frac=0.0, mute_frac=0.0,
        opt_out_frac=0.0, dark_cloud=-2,
    )  # fmt: skip
    day = Day(msgspec.structs.replace(SPEC, misbehaviour=bad))
    day.region.misbehave(day.now_ns)
    day.call()
    day.run(80)
    trait = day.region.devices.faults.trait
    world = day.region.devices.world
    by_row: dict[int, float] = {}
    for batch in day.readings:
        by_row |= dict(zip((batch.device_no - 1).tolist(), batch.power_w.tolist(), strict=True))
    idle = (trait & leases.DOES_NOTHING) > 0
    assert (world.power_w[idle] == world.twin_w[idle]).all()
    turned = [row for row in by_row if trait[row] & leases.WRONG_SIGN and abs(world.power_w[row]) > 500]
    assert turned
    assert all(np.sign(by_row[row]) == -np.sign(world.power_w[row]) for row in turned)


def test_a_dark_cloud_is_silent_and_back_after_its_minute() -> None:
    bad = Misbehaviour(cloud_dark_after_s=20.0, cloud_dark_s=60.0, dropout_frac=0.0)
    day = Day(msgspec.structs.replace(SPEC, misbehaviour=bad))
    day.region.misbehave(day.now_ns)
    gateway = int(np.flatnonzero(day.roster.cloud_of_gateway == 0)[0])
    behind = np.flatnonzero(day.roster.gateway_of_row == gateway)
    day.run(20)
    day.readings.clear()
    day.run(56)
    heard = np.concatenate([batch.device_no for batch in day.readings]) - 1
    assert not np.isin(behind, heard).any()
    day.run(24)
    heard = np.concatenate([batch.device_no for batch in day.readings]) - 1
    assert np.isin(behind, heard).all(), "all report together when the cloud is back"


def test_old_commands_that_come_again_after_an_outage_move_nobody() -> None:
    day = Day(SPEC)
    day.call(ttl_s=20.0, valid_s=10.0)
    day.run(60)
    assert day.delivered_w() == 0.0
    day.region._bring_retained(np.arange(day.roster.n_gateways), day.now_ns)
    day.run(40)
    assert day.delivered_w() == 0.0
    assert day.region.ledger_summary()["every_invariant_held"]
