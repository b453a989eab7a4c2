"""What the gates trim is told of each dispatch, to its own organisation."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.plant.fake_fleet import battery, dispatch_of, fleet_of
from unisono.model.registry import PortfolioRecord, RegistryBatch
from unisono.plant import step
from unisono.plant.checkpoint import Carried, checkpoint, restore


def test_a_trimmed_setpoint_is_told_to_the_organisation_portfolio_and_dispatch_that_it_is_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices = [battery(no, merit=no) for no in range(1, 5)]
    for device in devices[2:]:
        device.record = msgspec.structs.replace(device.record, organisation_id="org_2")
    fleet = fleet_of(devices)
    theirs = PortfolioRecord(
        revision=1, organisation_id="org_2", portfolio_id="pfo_2", portfolio_no=2, device_nos=(3, 4)
    )
    step.step(fleet.state, [], [], [RegistryBatch((theirs,))], fleet.now_ns, fleet.mono_ns)
    asked = {"dispatch_id": "dsp_2", "organisation_id": "org_2", "portfolio_id": "pfo_2", "portfolio_no": 2}
    second = dispatch_of(fleet, 8_000.0, **asked)
    told = []

    def cycle(*requests: object) -> None:
        told.extend(one for one in fleet.cycle(*requests).outcomes.log if one.kind == step.TRIMMED)

    # Of everybody's devices, those of the second organisation alone are trimmed.
    def narrow(table: object, _: float) -> dict[str, np.ndarray]:
        leases = table.leases  # type: ignore[attr-defined]
        is_trimmed = (leases.wanted_no[:4] >= 0) & (np.arange(4) >= 2)
        leases.wanted_no[:4][is_trimmed] = -1
        leases.wanted_w[:4][is_trimmed] = np.nan
        return {"programme": is_trimmed} if is_trimmed.any() else {}

    monkeypatch.setattr(step, "GATES", (*step.GATES, narrow))
    cycle(dispatch_of(fleet, 5_000.0), second)
    cycle()
    cycle()
    payload = checkpoint(fleet.state, Carried(), fleet.now_ns, fleet.mono_ns)
    fleet.state, _ = restore(payload, fleet.state.config, 1, fleet.now_ns, fleet.mono_ns)
    cycle()
    assert [(one.organisation_id, one.portfolio_id, one.subject_id) for one in told] == [("org_2", "pfo_2", "dsp_2")]
    assert told[0].body == {"shard": 0, "revision": 1, "programme": 2}
