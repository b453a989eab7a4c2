from __future__ import annotations

import numpy as np
import pytest

from unisono.base.instants import NS_PER_S
from unisono.main.rehearse import Call, RehearsalSpec, rehearse
from unisono.sim.spec import Misbehaviour, WorldSpec

START_NS = RehearsalSpec(world=WorldSpec()).start_ns
HOUR_NS = 3600 * NS_PER_S
RAMP_S, MISBEHAVES_S = 30.0, 132.0
CALL = Call(start_s=100.0, end_s=280.0, share_frac=0.85, ramp_s=RAMP_S)


@pytest.mark.parametrize(("seed", "hour"), [(1, 0), (2, 12), (3, 20)])
def test_a_call_is_delivered_and_truly_estimated_while_the_region_misbehaves(seed: int, hour: int) -> None:
    """Ten thousand devices, a third of them behind clouds that poll once a minute; every fault begins with the hold."""
    spec = RehearsalSpec(
        world=WorldSpec(seed=seed),
        calls=(CALL,),
        duration_s=300.0,
        start_ns=START_NS + hour * HOUR_NS,
        misbehave_at_s=MISBEHAVES_S,
    )
    result = rehearse(spec)
    starts_s = (np.array(result.ledger["interval_start_ns"]) - spec.start_ns) / NS_PER_S
    true_w = dict(zip(starts_s.tolist(), result.ledger["delivered_w"], strict=True))
    target_w = max(target_w for _, target_w in result.targets)
    hold_s = [at_s for at_s in true_w if CALL.start_s + RAMP_S <= at_s < CALL.end_s - RAMP_S - 4.0]
    errors = np.array([true_w[at_s] / target_w - 1.0 for at_s in hold_s])
    replay = f"seed {seed}, hour {hour}"
    assert abs(errors.mean()) <= 0.015, replay
    assert np.abs(errors).max() <= 0.05, replay
    # Setpoints reach their devices in the interval after the one that they were decided in.
    guesses = dict(result.estimates)
    differences = np.array([guesses[at_s + 4.0] / true_w[at_s] - 1.0 for at_s in hold_s])
    assert np.abs(differences).max() <= 0.025, replay
    assert result.ledger["every_invariant_held"], replay


def test_clocks_that_are_wrong_within_the_bound_harm_nothing() -> None:
    """A third of the devices are up to 290 s ahead or behind, far more than the life of a command."""
    nothing = Misbehaviour(
        dark_cloud=-2, dropout_frac=0.0, refuse_frac=0.0, liar_frac=0.0, over_deliver_frac=0.0, mute_frac=0.0,
        opt_out_frac=0.0, skew_frac=0.33, skew_max_s=290.0,
    )  # fmt: skip
    spec = RehearsalSpec(
        world=WorldSpec(seed=5, n_devices=2000, misbehaviour=nothing),
        calls=(Call(start_s=400.0, end_s=700.0, share_frac=0.6, ramp_s=RAMP_S),),
        duration_s=760.0,
        start_ns=START_NS + 14 * HOUR_NS,
        misbehave_at_s=0.0,
    )
    ledger = rehearse(spec).ledger
    assert ledger["n_commands_by_answer"]["accepted"] > 1000
    assert "refused_expired" not in ledger["n_commands_by_answer"]
    assert ledger["every_invariant_held"]
