"""Dispatches: what is asked of a portfolio, and what came of it, as it travels on ``requests.<shard>``."""

from __future__ import annotations

import math

import msgspec


class TargetPoint(msgspec.Struct, frozen=True):
    """From ``start_ns`` on, aim for ``power_w`` (the last point holds to the dispatch's end)."""

    start_ns: int
    power_w: float


class Dispatch(msgspec.Struct, frozen=True, kw_only=True, tag="dispatch"):
    """One dispatch in one revision; (dispatch_id, revision) makes it idempotent, the highest revision holds.

    ``kind``: change_w (against the reference), net_w (absolute portfolio power) or limit_w (a cap: the portfolio
    may not export more than target when ``limit_is_export``, nor import more than -target otherwise).
    Targets are in watts, positive into the grid. The target ramps linearly over ``ramp_s`` at the start and the end,
    inside [start_ns, end_ns).
    """

    dispatch_id: str
    # Its integer for life, given by the store; carried by every command frame. -1: not stored yet.
    dispatch_no: int = -1
    revision: int
    organisation_id: str
    portfolio_id: str
    portfolio_no: int
    kind: str
    start_ns: int
    end_ns: int
    targets: tuple[TargetPoint, ...]
    ramp_s: float = 0.0
    limit_is_export: bool = True
    policy: str = "merit_order"
    # Lower is more urgent, as in OpenADR 3.1; a device serves one dispatch at a time.
    priority: int = 100
    is_test: bool = False
    is_cancelled: bool = False
    reason: str = ""
    requested_ns: int = 0


class OptOutChange(msgspec.Struct, frozen=True, kw_only=True, tag="opt_out"):
    """An owner's word that arrived during operation: from ``start_ns`` to ``end_ns`` leave the device alone.

    The same request with an earlier end takes the rest of the window back, with ``end_ns`` at the start all of it.
    """

    request_id: str
    device_no: int
    start_ns: int
    end_ns: int
    reason: str = ""


class DispatchShare(msgspec.Struct, frozen=True, kw_only=True, tag="share"):
    """A shard's part of a dispatch, from the coordinator; of one revision the highest ``round`` holds.

    The shard is to give ``share_frac`` of the change that the plant is asked for. ``elsewhere_w`` is the base of the
    portfolio's members on other shards, which targets of absolute power are counted from; NaN for ``change_w``.
    """

    dispatch_id: str
    revision: int
    round: int
    share_frac: float
    elsewhere_w: float = math.nan


Request = Dispatch | OptOutChange | DispatchShare


def encode_request(request: Request) -> bytes:
    """Return the message's bytes."""
    return msgspec.msgpack.encode(request)


def decode_request(payload: bytes) -> Request:
    """Return the request; raises msgspec.DecodeError on a foreign payload."""
    request: Request = msgspec.msgpack.decode(payload, type=Request)
    return request


class ShardPart(msgspec.Struct, frozen=True, kw_only=True):
    """What the coordinator must know of a dispatch on one shard of several."""

    portfolio_no: int
    kind: str
    limit_is_export: bool
    # The share that is held, the round that told it (0: none did) and the base elsewhere that was told with it.
    round: int
    share_frac: float
    elsewhere_w: float
    # What the plant is asked for, ramps aside: now, or at the most, before it begins.
    power_w: float
    # This shard's members without the dispatch.
    base_w: float
    # What nobody was left for here, of what this shard was to give in this cycle.
    left_w: float


class DispatchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What one cycle knows of one dispatch: the funnel, the power, the shortfall. Counts are devices."""

    dispatch_id: str
    revision: int
    organisation_id: str
    portfolio_id: str
    shard: int
    epoch: int
    cycle: int
    at_ns: int
    # scheduled, active, completed, cancelled
    state: str
    target_w: float
    # Sum of setpoints less references; what was reported; what the meters among the sources show. None: not one of the
    # devices that hold this dispatch is known at that level.
    commanded_w: float | None
    acknowledged_w: float | None
    reported_w: float | None
    measured_w: float | None
    # Best estimate with one standard deviation.
    delivered_w: float
    delivered_sd_w: float
    shortfall_w: float
    reference_w: float
    n_eligible: int
    n_targeted: int
    n_sent: int
    n_acknowledged: int
    n_moving: int
    n_delivered: int
    n_opted_out: int
    n_refused: int
    n_silent: int
    n_suspect: int
    # Devices called in this cycle because others fell short, and those let go because of over-delivery.
    n_refilled: int = 0
    n_released: int = 0
    # Of each message of the cycle's frames (``CommandFrames.parts``), with a space between them.
    frames_digest: str = ""
    n_frames: int = 0
    # None in a plant of one shard.
    part: ShardPart | None = None
