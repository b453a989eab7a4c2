"""A row as a person reads it: the four-level truth of one device, with None where nothing is known."""

from __future__ import annotations

import math

import numpy as np

from unisono.base.errors import NotFound
from unisono.fleet.table import FleetTable
from unisono.fleet.trust import LeaseState, SuspectReason
from unisono.model.technology import SourceKind
from unisono.model.totals import DeviceState

_NONE_CODE = 255


class Snapshot:
    """A view of the table at an instant; it shows what the table holds when it is asked."""

    def __init__(self, table: FleetTable, now_ns: int, mono_ns: int) -> None:
        self._table = table
        self._now_ns = now_ns
        self._mono_ns = mono_ns

    def device(self, device_id: str) -> DeviceState:
        """Return the state of a device by its id; raises NotFound."""
        rows = np.flatnonzero(self._table.device_ids[: self._table.n_devices] == device_id.encode())
        if not rows.size:
            raise NotFound("device", device_id)
        return self.row(int(rows[0]))

    def device_no(self, device_no: int) -> DeviceState:
        """Return the state of a device by its number; raises NotFound."""
        row = self._table.row(device_no)
        if row < 0:
            raise NotFound("device", str(device_no))
        return self.row(row)

    def row(self, row: int) -> DeviceState:
        """Return the state of the device at ``row``."""
        table = self._table
        nameplate, picture, leases, slots = table.nameplate, table.picture, table.leases, table.slots
        is_held = leases.state[row] == LeaseState.HELD
        received_ns = int(picture.received_mono_ns[row])
        reported_w = _known(slots.power_w[SourceKind.DEVICE, row])
        if reported_w is None:
            reported_w = _known(slots.power_w[SourceKind.VENDOR_CLOUD, row])
        source = int(picture.source[row])
        offset_s = None if source == _NONE_CODE else _known(slots.offset_s[source, row])
        return DeviceState(
            device_no=int(nameplate.device_no[row]),
            device_id=table.device_id(row),
            technology=int(nameplate.technology[row]),
            lifecycle=int(nameplate.lifecycle[row]),
            trust=int(picture.trust[row]),
            at_ns=self._now_ns,
            age_s=None if received_ns < 0 else max(0.0, (self._mono_ns - received_ns) * 1e-9),
            commanded_w=_known(leases.setpoint_w[row]) if is_held else None,
            acknowledged_w=_known(leases.acked_w[row]) if is_held else None,
            reported_w=reported_w,
            measured_w=_known(slots.power_w[SourceKind.METER, row]),
            power_w=_known(picture.power_w[row]),
            power_sd_w=_known(picture.power_sd_w[row]),
            expected_w=_known(leases.expected_w[row]),
            reference_w=_known(leases.reference_w[row] if is_held else picture.reference_w[row]),
            reference_method=int(picture.reference_method[row]),
            soc_frac=_known(picture.soc_frac[row]),
            temperature_degc=_known(picture.temperature_degc[row]),
            up_w=max(0.0, float(picture.high_w[row] - picture.reference_w[row])),
            down_w=max(0.0, float(picture.reference_w[row] - picture.low_w[row])),
            hold_up_s=float(picture.hold_up_s[row]),
            hold_down_s=float(picture.hold_down_s[row]),
            lease_seq=int(leases.seq[row]),
            lease_expires_ns=int(leases.expires_ns[row]),
            last_ack_code=None if leases.ack_code[row] == _NONE_CODE else int(leases.ack_code[row]),
            dispatch_no=int(leases.dispatch_no[row]) if is_held else -1,
            clock_skew_s=None if offset_s is None else -offset_s,
            suspect_reason=self._suspect_reason(row),
        )

    def _suspect_reason(self, row: int) -> str:
        picture = self._table.picture
        if self._mono_ns >= picture.suspect_until_mono_ns[row]:
            return ""
        return SuspectReason(int(picture.suspect_code[row])).name.lower()


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
