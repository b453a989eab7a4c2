"""A device's way from paper into service: facts completed, a gateway given, one state of its life after the other."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from unisono.api import present
from unisono.api.auth import Enroller
from unisono.api.context import Context
from unisono.api.enrolment.facts import DeviceFacts
from unisono.api.enrolment.line import default_limits, default_ratings
from unisono.api.event_notes import note, note_of_device
from unisono.api.idempotency import IdempotencyKey, Once
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.schemas.fleet import Device, DeviceChanged, DevicePatch, LifecycleAsked
from unisono.base.errors import Conflict, InvalidInput, NotFound
from unisono.base.ids import check_id
from unisono.base.instants import format_rfc3339
from unisono.model.registry import DeviceRecord
from unisono.model.technology import Lifecycle, Technology
from unisono.store import devices, enrolment, keys, listings
from unisono.store.new_places import NewGateway, Place

router = APIRouter(prefix="/v1", tags=["devices"], responses=PROBLEM_RESPONSES)


@router.patch(
    "/devices/{device_id}", response_model=DeviceChanged, summary="Complete or correct what is known of a device"
)
async def change_device(
    device_id: str,
    asked: DevicePatch,
    request: Request,
    caller: Enroller,
    context: Context,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Give a declared device its gateway and the facts that were not known; also later, for all but retired ones.

    What is left out stays. A fact told as null is taken back: it is what it is for a device enrolled without it. What
    the device can't be without is refused as null (422, with field and rule): the power of its direction, a store's
    capacity_kwh, gateway_id, partner_reference. Fronts and realtime hear of it within a second. Ratings hold from now
    on, the former ones stay on record.
    """
    check_id("device", device_id, "device_id")

    def work(connection: Connection) -> DeviceChanged:
        now_ns = context.clock.wall_ns()
        before = devices.locked(connection, caller.organisation_id, device_id, now_ns)
        technology = Technology(before.technology)
        ratings = asked.ratings_from(before.ratings, technology, default_ratings(technology))
        limits = asked.limits_from(before.limits, default_limits(technology))
        asked.check(technology, Lifecycle(before.lifecycle), ratings, limits)
        latency_s, ttl_s = asked.lease_from(before.command_latency_s, before.command_ttl_s)
        lease = {"command_latency_s": latency_s, "command_ttl_s": ttl_s}
        secret = secrets.token_urlsafe(32)
        gateway = _gateway(connection, before, asked, secret, now_ns)
        devices.change(
            connection,
            before,
            now_ns,
            gateway_no=None if gateway is None else gateway.number,
            ratings=ratings,
            limits=limits,
            **asked.columns() | lease,
            **_reference(connection, before, asked, now_ns),
        )
        changed = present.device(listings.device(connection, caller.organisation_id, device_id, now_ns))
        shown = None
        if gateway is not None and gateway.is_new:
            shown = secret
            reference, link = asked.gateway_reference, asked.link or "mqtt"
            note(connection, caller, now_ns, "gateway.created", subject_id=gateway.id, reference=reference, link=link)
        facts = {**asked.model_dump(exclude_none=True), **dict.fromkeys(sorted(asked.cleared))}
        facts["gateway_id"] = changed.gateway_id
        if asked.ready_by is not None:
            facts["ready_by"] = format_rfc3339(asked.ready_by)
        note_of_device(connection, caller, now_ns, "device.changed", before, facts=facts)
        return DeviceChanged(**changed.model_dump(), gateway_secret=shown)

    once = Once(context, caller, request, idempotency_key)
    return await once.answer(work, status=200, hidden=("gateway_secret",))


@router.post("/devices/{device_id}/lifecycle", response_model=Device, summary="Move a device to its next state of life")
async def change_lifecycle(
    device_id: str,
    asked: LifecycleAsked,
    request: Request,
    caller: Enroller,
    context: Context,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """From declared over commissioning, active and suspended to retired; 409 names what is in the way.

    Commissioning and active need a gateway and the largest power of the device's direction.
    """
    check_id("device", device_id, "device_id")

    def work(connection: Connection) -> Device:
        now_ns = context.clock.wall_ns()
        lifecycle = Lifecycle[asked.lifecycle.upper()]
        before = devices.locked(connection, caller.organisation_id, device_id, now_ns)
        for record in devices.set_lifecycle(connection, caller.organisation_id, [device_id], lifecycle, now_ns):
            _check_ready(record)
            change = {"before": Lifecycle(before.lifecycle).name.lower(), "after": asked.lifecycle}
            note_of_device(
                connection, caller, now_ns, "device.lifecycle_changed", record, **change, reason=asked.reason or ""
            )
        return present.device(listings.device(connection, caller.organisation_id, device_id, now_ns))

    return await Once(context, caller, request, idempotency_key).answer(work, status=200)


def _gateway(
    connection: Connection, before: DeviceRecord, asked: DevicePatch, secret: str, now_ns: int
) -> Place | None:
    """Return the gateway that is asked for, made if its reference is new; None: none is asked for."""
    if asked.gateway_id is not None and asked.gateway_reference is not None:
        raise InvalidInput("gateway_id", asked.gateway_id, "must not be given beside gateway_reference")
    if asked.gateway_reference is None and asked.link is not None:
        raise InvalidInput("link", asked.link, "must be given with gateway_reference only")
    if asked.gateway_id is None and "gateway_id" in asked.model_fields_set and before.gateway_no >= 0:
        raise InvalidInput("gateway_id", None, "must not be null: a device keeps its gateway until it has another one")
    wanted: NewGateway | str | None = asked.gateway_id
    if asked.gateway_reference is not None:
        wanted = NewGateway(
            partner_reference=asked.gateway_reference,
            link=asked.link or "",
            vendor=before.vendor if asked.vendor is None else asked.vendor,
            secret_sha256=keys.digest(secret),
        )
    if wanted is None:
        return None
    try:
        return enrolment.settle_gateway(connection, before.organisation_id, wanted, now_ns)
    except NotFound as unknown:
        raise InvalidInput("gateway_id", asked.gateway_id, "must be a gateway of this organisation") from unknown


def _reference(connection: Connection, before: DeviceRecord, asked: DevicePatch, now_ns: int) -> dict[str, str]:
    """Return the partner's reference if it is told; raises InvalidInput for a second name: the first finds it again."""
    if "partner_reference" not in asked.model_fields_set:
        return {}
    known = listings.device(connection, before.organisation_id, before.device_id, now_ns).partner_reference
    if known not in ("", asked.partner_reference):
        raise InvalidInput("partner_reference", asked.partner_reference, f"must stay what it is: {known!r}")
    return {"partner_reference": asked.partner_reference or ""}


def _check_ready(record: DeviceRecord) -> None:
    """Raise Conflict, which undoes the move, unless all is known that the device's present state needs."""
    lifecycle = Lifecycle(record.lifecycle)
    if lifecycle not in (Lifecycle.COMMISSIONING, Lifecycle.ACTIVE):
        return
    try:
        DeviceFacts().check(Technology(record.technology), lifecycle, record.ratings, record.limits)
    except InvalidInput as lacking:
        raise Conflict(lacking.field, "", lacking.rule) from lacking
