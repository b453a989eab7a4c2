"""Rows and pictures in the API's words: kW, kWh, RFC 3339, names instead of codes. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from unisono.api.schemas import admin, fleet, portfolios
from unisono.api.schemas.types import finite, frac, instant_text, kw, kwh, milli
from unisono.base.units import kw_of_w, kwh_of_wh
from unisono.model.technology import AckCode, Lifecycle, ReferenceMethod, Technology, Trust
from unisono.model.totals import DeviceState, PortfolioTotals
from unisono.services.picture import PortfolioPicture, count_of_trust
from unisono.store.alarms import Alarm
from unisono.store.jobs import Job
from unisono.store.keys import ApiKey
from unisono.store.listings import GatewayRow, StoredDevice
from unisono.store.portfolios import Portfolio

Row = Mapping[Any, Any]

BASIS = (
    "conservative_lower_bound: only active devices that are fresh, beyond their reference and within all their limits, "
    "each weighted with its technology's derate and its own record, over dispatchable_hold_s; stale ones count half of "
    "that; pv (upwards), opted-out, refusing, silent, suspect, unknown and not yet active ones count 0"
)


def portfolio(found: Portfolio) -> portfolios.Portfolio:
    """Return a portfolio's record."""
    return portfolios.Portfolio(
        portfolio_id=found.portfolio_id,
        portfolio_no=found.portfolio_no,
        name=found.name,
        purpose=found.purpose,
        partner_reference=found.partner_reference or None,
        created_at=instant_text(found.created_ns),
        n_devices=found.n_devices,
        status_url=f"/v1/vpp/portfolios/{found.portfolio_id}/status",
    )


def portfolio_status(
    portfolio_id: str, enrolled: Sequence[Row], points: Sequence[Row], picture: PortfolioPicture
) -> portfolios.PortfolioStatus:
    """Return the status: enrolment from the records, power and trust from realtime's picture."""
    by_technology = _enrolled_by_technology(enrolled)
    by_lifecycle: dict[str, int] = {}
    for part in enrolled:
        name = Lifecycle(part["lifecycle"]).name.lower()
        by_lifecycle[name] = by_lifecycle.get(name, 0) + part["n_devices"]
    totals = picture.totals
    known = None if totals is None or _knows_nobody(totals) else totals
    n_devices = sum(by_lifecycle.values())
    levels = ("commanded", "acknowledged", "reported", "measured")
    return portfolios.PortfolioStatus(
        portfolio_id=portfolio_id,
        as_of=instant_text(picture.as_of_ns),
        age_s=milli(picture.age_s),
        stale=bool(picture.stale_reason),
        stale_reason=picture.stale_reason or None,
        n_devices=n_devices,
        enrolled_by_technology=by_technology,
        enrolled_kw=milli(sum(one.discharge_kw for one in by_technology.values())) or 0.0,
        enrolled_kwh=milli(sum(one.capacity_kwh for one in by_technology.values())) or 0.0,
        by_lifecycle=by_lifecycle,
        by_trust=count_of_trust(totals) if totals else {"unknown": n_devices},
        interconnect=_interconnect(points),
        power=portfolios.PowerNow(
            power_kw=kw(known.power_w) if known else None,
            power_sd_kw=kw(known.power_sd_w) if known else None,
            **{
                f"{level}_kw": kw(getattr(known, f"{level}_w")) if known and n_known else None
                for level, n_known in zip(levels, known.n_by_level if known else (0, 0, 0, 0), strict=True)
            },
        ),
        dispatchable_capacity_kw=_dispatchable_kw(picture, by_lifecycle),
        dispatchable_down_kw=kw(totals.dispatchable_down_w) if totals else None,
        dispatchable_hold_s=milli(totals.dispatchable_hold_s) if totals else None,
        dispatchable_basis=BASIS,
        flexibility_up_kw=kw(totals.up_w) if totals else None,
        flexibility_down_kw=kw(totals.down_w) if totals else None,
        energy_up_kwh=kwh(totals.energy_up_wh) if totals else None,
        energy_down_kwh=kwh(totals.energy_down_wh) if totals else None,
        completeness_frac=frac(totals.completeness_frac) if totals else None,
    )


def device(found: StoredDevice) -> fleet.Device:
    """Return a device's record."""
    return fleet.Device(**_device_fields(found))


def device_detail(
    found: StoredDevice, portfolio_ids: list[str], state: DeviceState | None, missing_reason: str | None
) -> fleet.DeviceDetail:
    """Return a device's record with ratings, limits and, when there is one, its present picture."""
    ratings, limits = found.record.ratings, found.record.limits
    return fleet.DeviceDetail(
        **_device_fields(found),
        ratings={
            "ramp_kw_per_s": kw(ratings.ramp_w_per_s),
            "min_power_kw": kw(ratings.power_step_min_w),
            **_plain_fields(
                ratings,
                (
                    "charge_efficiency_frac",
                    "discharge_efficiency_frac",
                    "is_on_off",
                    "min_on_s",
                    "min_off_s",
                    "notice_s",
                    "duration_max_s",
                    "rebound_frac",
                ),
            ),
            **_plain_fields(found.record, ("telemetry_period_s", "command_latency_s", "command_ttl_s")),
        },
        limits={
            **_plain_fields(limits, ("soc_reserve_frac", "soc_max_frac", "comfort_low_degc", "comfort_high_degc")),
            "site_export_limit_kw": kw(found.record.export_limit_w),
            "site_import_limit_kw": kw(0.0 - found.record.import_limit_w),
        },
        portfolios=portfolio_ids,
        now=None if state is None else device_now(state),
        now_missing_reason=missing_reason,
    )


def device_now(state: DeviceState) -> fleet.DeviceNow:
    """Return realtime's picture of a device."""
    return fleet.DeviceNow(
        as_of=instant_text(state.at_ns),
        age_s=milli(state.age_s),
        trust=Trust(state.trust).name.lower(),
        suspect_reason=state.suspect_reason,
        truth=fleet.FourLevels(
            commanded_kw=kw(state.commanded_w),
            acknowledged_kw=kw(state.acknowledged_w),
            reported_kw=kw(state.reported_w),
            measured_kw=kw(state.measured_w),
        ),
        power_kw=kw(state.power_w),
        power_sd_kw=kw(state.power_sd_w),
        expected_kw=kw(state.expected_w),
        reference_kw=kw(state.reference_w),
        reference_method=ReferenceMethod(state.reference_method).name.lower(),
        soc_frac=frac(state.soc_frac),
        temperature_degc=milli(state.temperature_degc),
        up_kw=kw(state.up_w),
        down_kw=kw(state.down_w),
        hold_up_s=milli(state.hold_up_s),
        hold_down_s=milli(state.hold_down_s),
        lease_expires_at=instant_text(state.lease_expires_ns if state.lease_expires_ns > 0 else None),
        last_answer=None if state.last_ack_code is None else AckCode(state.last_ack_code).name.lower(),
        dispatch_no=state.dispatch_no if state.dispatch_no > 0 else None,
        clock_skew_s=milli(state.clock_skew_s),
    )


def site(row: Row) -> fleet.Site:
    """Return a site's record."""
    return fleet.Site(
        site_id=row["site_id"],
        site_no=row["site_no"],
        partner_reference=row["partner_reference"] or None,
        zip=row["zip"] or None,
        time_zone=row["time_zone"],
        latitude_deg=finite(row["latitude_deg"]),
        longitude_deg=finite(row["longitude_deg"]),
        n_devices=row["n_devices"],
    )


def gateway(found: GatewayRow) -> fleet.Gateway:
    """Return a gateway's record, without any secret."""
    record = found.record
    return fleet.Gateway(
        gateway_id=record.gateway_id,
        gateway_no=record.gateway_no,
        link=record.link,
        vendor=record.vendor,
        partner_reference=found.partner_reference or None,
        is_revoked=record.is_revoked,
        n_devices=found.n_devices,
    )


def gateway_ingest(found: GatewayRow, counts: dict[str, int] | None) -> admin.GatewayIngest:
    """Return what became of a gateway's readings."""
    return admin.GatewayIngest(
        gateway_id=found.record.gateway_id,
        gateway_no=found.record.gateway_no,
        partner_reference=found.partner_reference or None,
        counts=counts,
    )


def key(found: ApiKey) -> admin.Key:
    """Return an API key's record, without its secret."""
    return admin.Key(
        key_id=found.key_id,
        organisation_id=found.organisation_id,
        name=found.name,
        scopes=list(found.scopes),
        created_at=instant_text(found.created_ns),
        expires_at=instant_text(found.expires_at_ns),
        revoked_at=instant_text(found.revoked_at_ns),
    )


def alarm(found: Alarm) -> admin.Alarm:
    """Return an alarm's record."""
    return admin.Alarm(
        alarm_id=found.alarm_id,
        kind=found.kind,
        severity=found.severity,
        subject_id=found.subject_id,
        detail=found.detail,
        state=found.state,
        raised_at=instant_text(found.raised_ns),
        acknowledged_at=instant_text(found.acknowledged_ns),
        acknowledged_by=found.acknowledged_by or None,
        note=found.note or None,
        n_raised=found.n_raised,
        cleared_at=instant_text(found.cleared_ns),
    )


def job(found: Job) -> admin.Job:
    """Return a job's progress."""
    url = f"/v1/jobs/{found.job_id}"
    return admin.Job(
        job_id=found.job_id,
        kind=found.kind,
        state=found.state,
        n_total=found.n_total,
        n_done=found.n_done,
        n_enrolled=found.n_done - found.n_failed,
        n_errors=found.n_failed,
        n_remaining=found.n_total - found.n_done,
        progress_frac=round(found.n_done / found.n_total, 4) if found.n_total else 1.0,
        created_at=instant_text(found.created_ns),
        finished_at=instant_text(found.finished_ns),
        reason=found.problem or None,
        status_url=url,
        errors_url=f"{url}/errors",
        result_url=f"{url}/result",
    )


def event(row: Row) -> portfolios.EventEntry:
    """Return an entry of the event log."""
    return portfolios.EventEntry(
        seq=row["seq"],
        at=instant_text(row["at_ns"]),
        kind=row["kind"],
        portfolio_id=row["portfolio_id"],
        subject_id=row["subject_id"],
        body={name: value for field, kept in row["body"].items() for name, value in _told(field, kept)},
        hash=bytes(row["hash"]).hex(),
    )


def _told(field: str, kept: Any) -> Iterator[tuple[str, Any]]:
    """Yield a fact of the event log in the API's words: what is kept in W, Wh and ns in kW, kWh and RFC 3339."""
    if field == "target_w" and isinstance(kept, list):
        yield "target_kw", [[instant_text(at_ns), kw(power_w)] for at_ns, power_w in kept]
    elif field.endswith("_wh") and isinstance(kept, int | float):
        yield field.removesuffix("_wh") + "_kwh", kwh(kept)
    elif field.endswith("_w") and isinstance(kept, int | float):
        yield field.removesuffix("_w") + "_kw", kw(kept)
    elif field.endswith("_ns") and isinstance(kept, int):
        yield field.removesuffix("_ns"), instant_text(kept)
    else:
        yield field, kept


def sse_status(portfolio_id: str, picture: PortfolioPicture) -> dict[str, Any]:
    """Return what a portfolio's live stream tells each cycle: the picture alone, without the records."""
    status = portfolio_status(portfolio_id, [], [], picture).model_dump()
    for name in ("enrolled_by_technology", "enrolled_kw", "enrolled_kwh", "by_lifecycle", "interconnect", "n_devices"):
        status.pop(name)
    if picture.totals is not None:
        status["n_devices"] = picture.totals.n_devices
    return status


def json_of(body: object) -> bytes:
    """Return JSON bytes of plain values."""
    return msgspec.json.encode(body)


def _device_fields(found: StoredDevice) -> dict[str, Any]:
    record = found.record
    return {
        "device_id": record.device_id,
        "device_no": record.device_no,
        "partner_reference": found.partner_reference or None,
        "asset_type": Technology(record.technology).asset_type,
        "lifecycle": Lifecycle(record.lifecycle).name.lower(),
        "site_id": record.site_id,
        "gateway_id": record.gateway_id or None,
        "vendor": record.vendor,
        "max_discharge_kw": kw(record.ratings.power_max_w),
        "max_charge_kw": kw(0.0 - record.ratings.power_min_w),
        "capacity_kwh": kwh(record.ratings.energy_capacity_wh),
    }


def _enrolled_by_technology(enrolled: Iterable[Row]) -> dict[str, portfolios.EnrolledCapacity]:
    sums: dict[str, list[float]] = {}
    for part in enrolled:
        row = sums.setdefault(Technology(part["technology"]).asset_type, [0, 0.0, 0.0, 0.0])
        for at, name in enumerate(("n_devices", "export_w", "import_w", "capacity_wh")):
            row[at] += part[name]
    return {
        asset_type: portfolios.EnrolledCapacity(
            n_devices=int(n),
            discharge_kw=kw_of_w(export_w),
            charge_kw=kw_of_w(import_w),
            capacity_kwh=kwh_of_wh(capacity_wh),
        )
        for asset_type, (n, export_w, import_w, capacity_wh) in sums.items()
    }


def _interconnect(points: Sequence[Row]) -> portfolios.Interconnect:
    n_limited = sum(point["n_export_limited"] for point in points)
    return portfolios.Interconnect(
        n_connection_points=sum(point["n_points"] for point in points),
        n_export_allowed=sum(point["n_export_allowed"] for point in points),
        n_export_limited=n_limited,
        export_limit_kw=kw_of_w(sum(point["export_limit_w"] for point in points)) if n_limited else None,
        by_status={point["status"]: point["n_points"] for point in points},
    )


def _knows_nobody(totals: PortfolioTotals) -> bool:
    """No member has been heard: sums over nobody are 0 inside, but unknown to a reader."""
    return totals.n_by_trust[Trust.UNKNOWN] >= totals.n_devices


def _dispatchable_kw(picture: PortfolioPicture, by_lifecycle: Mapping[str, int]) -> float | None:
    """Nothing active means 0, known for certain without any picture; active devices nobody has heard of: unknown."""
    if picture.totals is not None:
        return kw(picture.totals.dispatchable_up_w)
    return None if by_lifecycle.get("active", 0) else 0.0


def _plain_fields(record: object, names: Sequence[str]) -> dict[str, Any]:
    """Return fields as JSON can hold them: what is infinite or NaN inside means "none" and is null outside."""
    values = {name: getattr(record, name) for name in names}
    return {name: frac(value) if isinstance(value, float) else value for name, value in values.items()}
