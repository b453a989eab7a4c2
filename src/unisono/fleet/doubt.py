"""What each reading says about whoever sends it: values that stand still, jump, stand on their head, or disagree.

Called for each reading by the fold, before the reading takes its slot. Scores grow with what an honest device does not
show and fall with what a lying one does not; at a bound the device is accused (``picture.accused_code``), and `suspect`
judges it. Every rule, its threshold and its reason: docs/explanation/truth-and-trust.md.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from unisono.base.kernel import part
from unisono.fleet.columns import Leases, Nameplate, Picture, Slots
from unisono.fleet.evidence import INSTANT_SPAN_S

# SuspectReason (trust.py imports nothing from here, kernels need plain numbers).
_FROZEN, _WRONG_SIGN, _JUMP, _DISAGREE = 1, 3, 4, 6
# Below this a power tells nothing of a sign or of a disagreement: standby, taper, the last digit of a coarse meter.
SMALL_FRAC: Final = 0.05
SMALL_W: Final = 100.0

# A jump weighs 30, a plausible reading takes back 1: two within some thirty readings accuse, one glitch does not.
JUMP_WEIGHT: Final = 30
JUMP_ACCUSES: Final = 32
# Beyond this much of its rating no scale error and no sloppy nameplate takes a device.
SPIKE_FACTOR: Final = 1.2

# Repetitions that accuse. A source of which one reading in ten repeated before repeats so often once in 10 million.
FROZEN_RUN: Final = 8
# A run's first repetitions count as repetitions, the rest only as its length: else it would excuse itself.
RUN_LEARNED: Final = 3
# Of 255: one in ten, after the run's own share (three steps of a sixteenth upwards).
REPEATS_MAX: Final = 64
# A source that can't show less than three thousandths of the rating repeats itself honestly.
FINE_FRAC: Final = 0.003
# The finest step seen is forgotten at half a per cent a change: a source may be replaced by a coarser one.
STEP_FORGET: Final = 1.005
ON_FRAC: Final = 0.1

# Stored energy is compared with the state of charge after each hundredth of the capacity: SoC comes in whole per cents.
CHARGE_STEP_FRAC: Final = 0.01
# A state of charge that changes by more at once is another car's, or a new estimate of it.
SOC_JUMP_FRAC: Final = 0.05
# Two such steps the wrong way accuse, or four readings that only fit with their sign turned.
MIRROR_STEP_WEIGHT: Final = 16
MIRROR_READING_WEIGHT: Final = 8
MIRROR_ACCUSES: Final = 32
# Turned round, a reading must fit the rating; what does not is a jump.
MIRROR_FACTOR: Final = 1.1

# Two sources may differ by so much of the larger value, and of the rating: both may be of the coarsest accuracy class
# for billing (2 %) and of a current clamp (3 %), and are read at different instants.
APART_FRAC: Final = 0.05
APART_RATING_FRAC: Final = 0.02
APART_W: Final = 20.0
# One source's readings within so many seconds hardly let the other's, between them, be elsewhere: weighs twice.
CLOSE_S: Final = 65.0
# Clouds pass over an array in less.
CLOSE_ARRAY_S: Final = 45.0
# Two readings that are further apart than this, or three periods, let anything be between them.
BETWEEN_S: Final = 180.0
APART_ACCUSES: Final = 8
# A value that came so much later than usual tells of another instant; a tenth of that is usual.
STALE_S: Final = 6.0
# As near to the opposite of the other source as this is a sign.
OPPOSITE_FRAC: Final = 0.1

_NONE: Final = 255
_PV: Final = 1
_NS: Final = 1e-9
_SECONDS_TO_HOURS: Final = 3600.0


@part
def _small_w(rating_w: float) -> float:
    return max(SMALL_FRAC * rating_w, SMALL_W)


@part
def note_impossible(
    nameplate: Nameplate, slots: Slots, picture: Picture, source: int, row: int, power_w: float
) -> None:
    """Weigh a power beyond what the device can do: turned round it may fit (a meter's sign), else it is a jump."""
    fits = MIRROR_FACTOR * nameplate.power_min_w[row] <= -power_w <= MIRROR_FACTOR * nameplate.power_max_w[row]
    rating_w = nameplate.rating_w[row]
    if not fits or abs(power_w) <= _small_w(rating_w):
        _jump(picture, row)
        return
    _turn(picture, row, MIRROR_READING_WEIGHT)
    other = picture.other_source[row] if source == picture.source[row] else picture.source[row]
    if picture.accused_code[row] == _WRONG_SIGN and other < slots.power_w.shape[0]:
        # What the other source says tells a turned sign from an offset.
        other_w = float(slots.power_w[other, row])
        is_another = int(other) != source and not math.isnan(other_w)
        if is_another and not _is_opposite(power_w, other_w, rating_w):
            picture.accused_code[row] = _DISAGREE


@part
def note_kept(
    nameplate: Nameplate,
    slots: Slots,
    picture: Picture,
    leases: Leases,
    source: int,
    row: int,
    power_w: float,
    span_s: float,
    now_ns: int,
    mono_ns: int,
    measured_ns: int,
) -> None:
    """Weigh a reading that will be kept; ``slots`` still holds the one before."""
    if source <= picture.source[row] and not math.isnan(slots.power_w[source, row]):
        _weigh_step(nameplate, slots, picture, source, row, power_w, mono_ns, measured_ns)
        _weigh_repetition(nameplate, slots, picture, leases, source, row, power_w)
        _weigh_charge(nameplate, slots, picture, source, row, power_w, mono_ns)
    best = picture.source[row]
    if best == _NONE:
        return
    if source != best:
        picture.other_source[row] = source
    other = picture.other_source[row] if source == best else best
    is_another = int(other) != source
    if is_another and other < slots.power_w.shape[0] and span_s <= INSTANT_SPAN_S:
        _weigh_sources(nameplate, slots, picture, source, other, row, power_w, now_ns, mono_ns)


@part
def _jump(picture: Picture, row: int) -> None:
    picture.n_jumps[row] += JUMP_WEIGHT
    if picture.n_jumps[row] >= JUMP_ACCUSES:
        picture.n_jumps[row] = 0
        picture.accused_code[row] = _JUMP


@part
def _turn(picture: Picture, row: int, weight: int) -> None:
    picture.n_mirrored[row] += weight
    if picture.n_mirrored[row] >= MIRROR_ACCUSES:
        picture.n_mirrored[row] = 0
        picture.accused_code[row] = _WRONG_SIGN


@part
def _is_opposite(power_w: float, other_w: float, rating_w: float) -> bool:
    small_w = _small_w(rating_w)
    near_w = OPPOSITE_FRAC * max(abs(power_w), abs(other_w)) + APART_RATING_FRAC * rating_w + APART_W
    return bool(abs(power_w + other_w) <= near_w and min(abs(power_w), abs(other_w)) > 0.5 * small_w)


@part
def _less(score: int, weight: int) -> int:
    return score - weight if score > weight else 0


@part
def _weigh_step(
    nameplate: Nameplate,
    slots: Slots,
    picture: Picture,
    source: int,
    row: int,
    power_w: float,
    mono_ns: int,
    measured_ns: int,
) -> None:
    """A change beyond twice the ramp, or beyond the rating from within it, is a jump.

    A batch that was held up brings readings of a minute in one instant: the longer of both spans counts.
    """
    before_w = float(slots.power_w[source, row])
    high_w = SPIKE_FACTOR * nameplate.power_max_w[row] + SMALL_W
    low_w = SPIKE_FACTOR * nameplate.power_min_w[row] - SMALL_W
    is_jump = not low_w <= power_w <= high_w and low_w <= before_w <= high_w
    ramp = nameplate.ramp_w_per_s[row]
    if math.isfinite(ramp):
        span_ns = max(mono_ns - slots.received_mono_ns[source, row], measured_ns - slots.measured_ns[source, row])
        possible_w = 2.0 * ramp * (span_ns * _NS + nameplate.latency_s[row]) + 0.2 * nameplate.rating_w[row]
        is_jump = is_jump or abs(power_w - before_w) > possible_w
    if is_jump:
        _jump(picture, row)
        return
    picture.n_jumps[row] = _less(picture.n_jumps[row], 1)
    is_one_way = nameplate.power_max_w[row] <= 0.0 or nameplate.power_min_w[row] >= 0.0
    is_alone = picture.other_source[row] == _NONE
    if is_one_way and is_alone and abs(power_w) > _small_w(nameplate.rating_w[row]):
        picture.n_mirrored[row] = _less(picture.n_mirrored[row], MIRROR_READING_WEIGHT)


@part
def _weigh_repetition(
    nameplate: Nameplate, slots: Slots, picture: Picture, leases: Leases, source: int, row: int, power_w: float
) -> None:
    """Exactly the same value, again and again, from a source that never did so: it is frozen.

    Learned apart for idling and running, since what is steady in one may flutter in the other.
    """
    told_w = np.float32(power_w)
    before_w = slots.power_w[source, row]
    is_on = abs(power_w) > ON_FRAC * nameplate.rating_w[row]
    repeats = picture.repeats_on[row] if is_on else picture.repeats_idle[row]
    if told_w != before_w:
        change_w = abs(told_w - before_w)
        step_w = picture.step_w[row]
        picture.step_w[row] = change_w if math.isnan(step_w) else min(step_w * np.float32(STEP_FORGET), change_w)
        picture.n_same[row] = 0
        repeats -= repeats // 16
    else:
        picture.n_same[row] = min(picture.n_same[row] + 1, 255)
        is_as_told = leases.state[row] == 1 and abs(power_w - leases.setpoint_w[row]) <= 1.0
        if power_w == 0.0 or is_as_told:
            # Nothing to measure, or just what it was told: that says nothing of how its source measures.
            return
        if picture.n_same[row] >= FROZEN_RUN:
            _judge_run(nameplate, picture, row, power_w, repeats)
        if picture.n_same[row] > RUN_LEARNED:
            return
        repeats += (255 - repeats) // 16
    if is_on:
        picture.repeats_on[row] = repeats
    else:
        picture.repeats_idle[row] = repeats


@part
def _judge_run(nameplate: Nameplate, picture: Picture, row: int, power_w: float, repeats: int) -> None:
    """Accuse a run of one value from a source that used to flutter, or of an array that goes on in the dark."""
    rating_w = nameplate.rating_w[row]
    is_restless = repeats <= REPEATS_MAX and picture.step_w[row] <= FINE_FRAC * rating_w
    is_dark = nameplate.technology[row] == _PV and picture.clear_sky_w_per_m2[row] <= 0.0
    if is_restless or (is_dark and power_w > _small_w(rating_w)):
        picture.accused_code[row] = _FROZEN


@part
def _weigh_charge(
    nameplate: Nameplate, slots: Slots, picture: Picture, source: int, row: int, power_w: float, mono_ns: int
) -> None:
    """A store whose state of charge falls while it is said to charge, or rises while it gives, has its sign turned."""
    soc_frac = picture.soc_frac[row]
    capacity_wh = nameplate.energy_capacity_wh[row]
    if math.isnan(soc_frac) or capacity_wh <= 0.0:
        return
    span_s = (mono_ns - slots.received_mono_ns[source, row]) * _NS
    from_frac = picture.charge_from_frac[row]
    is_torn = math.isnan(from_frac) or span_s > 3.0 * nameplate.period_s[row]
    mean_w = 0.5 * (power_w + slots.power_w[source, row])
    efficiency = (
        float(nameplate.charge_efficiency_frac[row])
        if mean_w < 0.0
        else 1.0 / float(nameplate.discharge_efficiency_frac[row])
    )
    stored_wh = picture.charge_wh[row] - mean_w * efficiency * span_s / _SECONDS_TO_HOURS
    expected_frac = stored_wh / capacity_wh
    seen_frac = soc_frac - from_frac
    if is_torn or abs(seen_frac - expected_frac) > SOC_JUMP_FRAC:
        picture.charge_from_frac[row] = soc_frac
        picture.charge_wh[row] = 0.0
        return
    picture.charge_wh[row] = stored_wh
    if abs(expected_frac) < CHARGE_STEP_FRAC:
        return
    picture.charge_from_frac[row] = soc_frac
    picture.charge_wh[row] = 0.0
    if seen_frac * expected_frac > 0.0:
        picture.n_mirrored[row] = _less(picture.n_mirrored[row], MIRROR_STEP_WEIGHT)
    elif abs(seen_frac) > 0.5 * abs(expected_frac):
        _turn(picture, row, MIRROR_STEP_WEIGHT)


@part
def _weigh_sources(
    nameplate: Nameplate,
    slots: Slots,
    picture: Picture,
    source: int,
    other: int,
    row: int,
    power_w: float,
    now_ns: int,
    mono_ns: int,
) -> None:
    """What one source says between two readings of another must lie between them, or near.

    So a device that moves is no contradiction. What disagrees to the same side again and again is.
    """
    before_w, other_w = slots.power_w[source, row], float(slots.power_w[other, row])
    before_ns, other_ns = slots.received_mono_ns[source, row], slots.received_mono_ns[other, row]
    span_s = (mono_ns - before_ns) * _NS
    is_between = other_ns >= before_ns >= 0 and slots.span_s[other, row] <= INSTANT_SPAN_S
    between_s = max(3.0 * nameplate.period_s[row], BETWEEN_S)
    if not is_between or math.isnan(before_w) or math.isnan(other_w) or span_s > between_s:
        return
    # How old the other's value was when it came, beyond what is usual for its clock and way.
    age_s = (now_ns - slots.measured_ns[other, row] - (mono_ns - other_ns)) * _NS - slots.offset_s[other, row]
    if age_s > STALE_S:
        return
    rating_w = nameplate.rating_w[row]
    low_w, high_w = min(power_w, before_w), max(power_w, before_w)
    tolerance_w = APART_FRAC * max(abs(other_w), -low_w, high_w) + APART_RATING_FRAC * rating_w + APART_W
    # Counted as seen from the better source, whichever of the two has just spoken.
    side = 1 if other > source else -1
    apart = int(picture.n_apart[row])
    close_s = CLOSE_ARRAY_S if nameplate.technology[row] == _PV else CLOSE_S
    weight = 2 if span_s <= close_s else 1
    if low_w - tolerance_w <= other_w <= high_w + tolerance_w:
        apart -= 1 if apart > 0 else -1 if apart < 0 else 0
        if abs(other_w) > _small_w(rating_w):
            picture.n_mirrored[row] = _less(picture.n_mirrored[row], MIRROR_READING_WEIGHT)
    elif (other_w > high_w) == (side > 0):
        apart = max(apart, 0) + weight
    else:
        apart = min(apart, 0) - weight
    if abs(apart) >= APART_ACCUSES:
        picture.accused_code[row] = _WRONG_SIGN if _is_opposite(power_w, other_w, rating_w) else _DISAGREE
        apart = 0
    picture.n_apart[row] = apart
