"""The region's own papers: what a rehearsal is told of it (registry), and what is enrolled over REST."""

from __future__ import annotations

import math
from typing import Any

from unisono.base.ids import new_id
from unisono.base.instants import LATEST_NS
from unisono.base.units import kw_of_w, kwh_of_wh
from unisono.model.ratings import OptOut, OwnerLimits, Ratings
from unisono.model.registry import DeviceRecord, GatewayRecord, RegistryBatch
from unisono.model.technology import Lifecycle, Technology
from unisono.sim.roster import HTTP_CLOUD, Roster

ORGANISATION_ID = new_id("organisation", 0, bytes(10))
# Owners' opt-outs that are known beforehand hold from the first second of 2000.
OPT_OUT_FROM_NS = 946_684_800_000_000_000


def device_no_of_row(row: int) -> int:
    """Return the number that a rehearsal gives the device."""
    return row + 1


def gateway_no_of(gateway: int) -> int:
    """Return the number that a rehearsal gives the gateway."""
    return gateway + 1


def registry(roster: Roster) -> RegistryBatch:
    """Return all gateways and devices, active, in one batch."""
    gateways = tuple(
        GatewayRecord(
            revision=1,
            organisation_id=ORGANISATION_ID,
            gateway_id=_id("gateway", g),
            gateway_no=gateway_no_of(g),
            link="http" if roster.gateway_kind[g] == HTTP_CLOUD else "mqtt",
            vendor=roster.gateway_vendor[g],
        )
        for g in range(roster.n_gateways)
    )
    return RegistryBatch((*gateways, *(device_record(roster, row) for row in range(roster.n_devices))))


def device_record(roster: Roster, row: int) -> DeviceRecord:
    """Return one device's record."""
    site, gateway = int(roster.site_of_row[row]), int(roster.gateway_of_row[row])
    plate = roster.nameplate
    return DeviceRecord(
        revision=1,
        organisation_id=ORGANISATION_ID,
        device_id=_id("device", row),
        device_no=device_no_of_row(row),
        site_id=_id("site", site),
        site_no=site + 1,
        gateway_id=_id("gateway", gateway),
        gateway_no=gateway_no_of(gateway),
        technology=int(roster.technology[row]),
        lifecycle=int(Lifecycle.ACTIVE),
        ratings=ratings(roster, row),
        limits=OwnerLimits(
            soc_reserve_frac=float(plate.soc_reserve_frac[row]),
            comfort_low_degc=float(plate.comfort_low_degc[row]),
            comfort_high_degc=float(plate.comfort_high_degc[row]),
        ),
        opt_outs=(OptOut(start_ns=OPT_OUT_FROM_NS, end_ns=LATEST_NS, reason="owner"),)
        if roster.is_opted_out[row]
        else (),
        export_limit_w=float(roster.export_limit_w[site]),
        import_limit_w=float(roster.import_limit_w[site]),
        latitude_deg=float(roster.places.latitude_deg[site]),
        longitude_deg=float(roster.places.longitude_deg[site]),
        telemetry_period_s=float(roster.telemetry_period_s[row]),
        command_latency_s=float(roster.command_latency_s[row]),
        command_ttl_s=float(roster.command_ttl_s[row]),
        merit_micros_per_kwh=round(float(plate.merit_usd_per_kwh[row]) * 1e6),
        vendor=roster.vendor[row],
        carrier=roster.carrier_of_gateway[gateway],
        node_path=roster.node_path(site),
    )


def ratings(roster: Roster, row: int) -> Ratings:
    """Return one device's nameplate."""
    plate = roster.nameplate
    return Ratings(
        power_max_w=float(plate.power_max_w[row]),
        power_min_w=float(plate.power_min_w[row]),
        energy_capacity_wh=float(plate.energy_capacity_wh[row]),
        charge_efficiency_frac=float(plate.efficiency_frac[row]),
        discharge_efficiency_frac=float(plate.efficiency_frac[row]),
        ramp_w_per_s=float(plate.ramp_w_per_s[row]),
        power_step_min_w=float(plate.power_step_min_w[row]),
        is_on_off=bool(plate.is_on_off[row]),
        min_on_s=float(plate.min_on_s[row]),
        min_off_s=float(plate.min_off_s[row]),
        notice_s=float(plate.notice_s[row]),
        duration_max_s=float(plate.duration_max_s[row]),
        rebound_frac=float(plate.rebound_frac[row]),
    )


def enrolment_line(roster: Roster, row: int) -> dict[str, Any]:
    """Return one line of a bulk enrolment: kW, kWh, only what applies."""
    site, gateway = int(roster.site_of_row[row]), int(roster.gateway_of_row[row])
    plate, technology = roster.nameplate, Technology(int(roster.technology[row]))
    line: dict[str, Any] = {
        "partner_reference": device_reference(row),
        "asset_type": technology.asset_type,
        "zip": roster.places.zip_code[site],
        "site_reference": f"site-{site:06d}",
        "gateway_reference": gateway_reference(gateway),
        "vendor": roster.vendor[row],
        "carrier": roster.carrier_of_gateway[gateway],
        "node_path": roster.node_path(site),
        "latitude_deg": round(float(roster.places.latitude_deg[site]), 4),
        "longitude_deg": round(float(roster.places.longitude_deg[site]), 4),
        "max_discharge_kw": kw_of_w(float(plate.power_max_w[row])),
        "max_charge_kw": kw_of_w(-float(plate.power_min_w[row])) + 0.0,
        "telemetry_period_s": float(roster.telemetry_period_s[row]),
        "command_latency_s": float(roster.command_latency_s[row]),
        "command_ttl_s": float(roster.command_ttl_s[row]),
        "merit_usd_per_kwh": float(plate.merit_usd_per_kwh[row]),
        "site_export_limit_kw": kw_of_w(float(roster.export_limit_w[site])),
        "site_import_limit_kw": kw_of_w(-float(roster.import_limit_w[site])),
        "lifecycle": "active",
        "link": "http" if roster.gateway_kind[gateway] == HTTP_CLOUD else "mqtt",
    }
    line.update(_optional(roster, row))
    return line


def device_reference(row: int) -> str:
    """Return the partner's name of a device."""
    return f"sim-{row:06d}"


def gateway_reference(gateway: int) -> str:
    """Return the partner's name of a gateway."""
    return f"gateway-{gateway:05d}"


def _optional(roster: Roster, row: int) -> dict[str, Any]:
    plate = roster.nameplate
    line: dict[str, Any] = {}
    if plate.energy_capacity_wh[row] > 0.0:
        line["capacity_kwh"] = kwh_of_wh(float(plate.energy_capacity_wh[row]))
    if plate.efficiency_frac[row] < 1.0:
        line["charge_efficiency_frac"] = line["discharge_efficiency_frac"] = round(float(plate.efficiency_frac[row]), 4)
    if math.isfinite(plate.ramp_w_per_s[row]):
        line["ramp_kw_per_s"] = kw_of_w(float(plate.ramp_w_per_s[row]))
    if plate.is_on_off[row]:
        line["is_on_off"] = True
    if plate.power_step_min_w[row] > 0.0:
        line["min_power_kw"] = kw_of_w(float(plate.power_step_min_w[row]))
    for name in ("min_on_s", "min_off_s", "notice_s", "rebound_frac", "soc_reserve_frac"):
        value = float(getattr(plate, name)[row])
        if value > 0.0:
            line[name] = value
    for name in ("comfort_low_degc", "comfort_high_degc", "duration_max_s"):
        value = float(getattr(plate, name)[row])
        if math.isfinite(value):
            line[name] = value
    return line


def _id(kind: str, number: int) -> str:
    return new_id(kind, 0, (number + 1).to_bytes(10, "big"))
