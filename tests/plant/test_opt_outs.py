"""Opt-outs that are taken back: the device is in service again in the next cycle, whatever restarts in between."""

from __future__ import annotations

import msgspec
import pytest

from tests.plant.fake_fleet import batteries, dispatch_of, fleet_of, opt_out_of
from unisono.base.instants import NS_PER_S
from unisono.plant.checkpoint import Carried, checkpoint, restore
from unisono.plant.replay import Recorded, replay


@pytest.mark.parametrize("restarts_after", ["nothing", "the opt-out", "the withdrawal"])
def test_a_device_whose_opt_out_is_withdrawn_is_called_again_at_once(restarts_after: str) -> None:
    devices = batteries(4)
    fleet = fleet_of(devices)
    fleet.cycle(dispatch_of(fleet, 20_000.0))
    word = opt_out_of(fleet, 2, 3600.0)

    def restart(after: str) -> None:
        if after == restarts_after:
            payload = checkpoint(fleet.state, Carried(), fleet.now_ns, fleet.mono_ns)
            fleet.state, _ = restore(payload, fleet.state.config, 2, fleet.now_ns, fleet.mono_ns)

    fleet.cycle(word)
    fleet.run(4)
    assert fleet.power_w == 15_000.0
    restart("the opt-out")
    withdrawn = msgspec.structs.replace(word, end_ns=fleet.now_ns)
    fleet.cycle(withdrawn)
    restart("the withdrawal")
    fleet.cycle(word, withdrawn)
    fleet.run(4)
    assert fleet.power_w == 20_000.0
    assert [kind for kind in fleet.log if kind.startswith("device.")] == [
        "device.opted_out",
        "device.opt_out_withdrawn",
    ]


def test_an_opt_out_withdrawn_before_it_begins_leaves_the_device_in_service() -> None:
    fleet = fleet_of(batteries(2))
    start_ns = fleet.now_ns + 8 * NS_PER_S
    word = msgspec.structs.replace(opt_out_of(fleet, 1, 3600.0), start_ns=start_ns)
    fleet.cycle(word, msgspec.structs.replace(word, end_ns=start_ns))
    fleet.cycle(dispatch_of(fleet, 10_000.0))
    fleet.run(6)
    assert fleet.power_w == 10_000.0


def test_a_withdrawal_that_is_replayed_after_a_restart_holds() -> None:
    fleet = fleet_of(batteries(1))
    payload = checkpoint(fleet.state, Carried(), fleet.now_ns, fleet.mono_ns)
    word = opt_out_of(fleet, 1, 3600.0)
    fleet.cycle(word)
    fleet.cycle(withdrawn := msgspec.structs.replace(word, end_ns=fleet.now_ns))
    fleet.state, _ = restore(payload, fleet.state.config, 2, fleet.now_ns, fleet.mono_ns)
    replay(fleet.state, Recorded(requests=[word, withdrawn]), fleet.now_ns, fleet.mono_ns)
    assert fleet.state.fleet.picture.is_opted_out[0] == 0
    fleet.cycle(dispatch_of(fleet, 5_000.0))
    fleet.run(4)
    assert fleet.power_w == 5_000.0
