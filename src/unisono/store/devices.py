"""Devices after their enrolment: finding them, and the changes of their life, each announced with a higher revision."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select, update

from unisono.base.errors import Conflict, InvalidInput, NotFound
from unisono.model.dispatch import OptOutChange
from unisono.model.ratings import OwnerLimits, Ratings
from unisono.model.registry import DeviceRecord
from unisono.model.technology import Lifecycle
from unisono.store import device_records, outbox
from unisono.store.tables.devices import DEVICE, DEVICE_RATING, DEVICE_TOPOLOGY, OPT_OUT
from unisono.store.tables.places import SITE

_D = DEVICE.c

# Where a device may go from each state; retired is the end.
NEXT_OF_LIFECYCLE: Final = {
    Lifecycle.DECLARED: (Lifecycle.COMMISSIONING, Lifecycle.RETIRED),
    Lifecycle.COMMISSIONING: (Lifecycle.DECLARED, Lifecycle.ACTIVE, Lifecycle.SUSPENDED, Lifecycle.RETIRED),
    Lifecycle.ACTIVE: (Lifecycle.SUSPENDED, Lifecycle.RETIRED),
    Lifecycle.SUSPENDED: (Lifecycle.COMMISSIONING, Lifecycle.ACTIVE, Lifecycle.RETIRED),
    Lifecycle.RETIRED: (),
}
# States in which a device is expected to be heard.
_REACHED: Final = (Lifecycle.COMMISSIONING, Lifecycle.ACTIVE)


def numbers_of_ids(connection: Connection, organisation_id: str, device_ids: Sequence[str]) -> list[int]:
    """Return the device_no of each id, in their order; NotFound names the first that is not the organisation's."""
    mine = select(_D.device_id, _D.device_no).where(
        (_D.organisation_id == organisation_id) & _D.device_id.in_(device_ids)
    )
    no_of_id = {row.device_id: row.device_no for row in connection.execute(mine)}
    for device_id in device_ids:
        if device_id not in no_of_id:
            raise NotFound("device", device_id)
    return [no_of_id[device_id] for device_id in device_ids]


def set_lifecycle(
    connection: Connection, organisation_id: str, device_ids: Sequence[str], lifecycle: Lifecycle, now_ns: int
) -> list[DeviceRecord]:
    """Move devices to a state of their life, announce them, and return their records; those there already stay.

    All or none: Conflict names the first that may not go there (see NEXT_OF_LIFECYCLE; without a gateway, nowhere but
    to suspended or retired), NotFound the first unknown.
    """
    device_nos = numbers_of_ids(connection, organisation_id, device_ids)
    columns = (_D.device_no, _D.device_id, _D.lifecycle, _D.gateway_no)
    present = connection.execute(select(*columns).where(_D.device_no.in_(device_nos)).with_for_update()).all()
    moving = [row for row in present if row.lifecycle != lifecycle]
    wanted = lifecycle.name.lower()
    for row in moving:
        if lifecycle not in NEXT_OF_LIFECYCLE[Lifecycle(row.lifecycle)]:
            before = Lifecycle(row.lifecycle).name.lower()
            next_ones = ", ".join(one.name.lower() for one in NEXT_OF_LIFECYCLE[Lifecycle(row.lifecycle)])
            rule = f"must be one of {next_ones or 'none'}: device {row.device_id} is {before} and can't become {wanted}"
            raise Conflict("lifecycle", wanted, rule)
        if lifecycle in _REACHED and row.gateway_no is None:
            rule = f"must be given before device {row.device_id} becomes {wanted}: nothing could reach it"
            raise Conflict("gateway_id", "", rule)
    return _change(connection, organisation_id, [row.device_no for row in moving], now_ns, lifecycle=int(lifecycle))


def locked(connection: Connection, organisation_id: str, device_id: str, now_ns: int) -> DeviceRecord:
    """Return a device's record and keep it from being changed elsewhere until the transaction ends; else NotFound."""
    mine = (_D.organisation_id == organisation_id) & (_D.device_id == device_id)
    device_no = connection.execute(select(_D.device_no).where(mine).with_for_update()).scalar_one_or_none()
    if device_no is None:
        raise NotFound("device", device_id)
    return device_records.of_devices(connection, [device_no], now_ns)[0]


def change(
    connection: Connection,
    before: DeviceRecord,
    now_ns: int,
    *,
    gateway_no: int | None = None,
    ratings: Ratings | None = None,
    limits: OwnerLimits | None = None,
    **columns: object,
) -> DeviceRecord:
    """Let other facts of a device hold from now on, announce it, and return its record; None: as before.

    ``before`` is what ``locked`` returned, ``columns`` are those of the table ``device``. Former ratings and places in
    the grid stay, with their validity. Conflict if the device is retired, or is active behind another gateway;
    InvalidInput if a value is refused by a table's check.
    """
    if before.lifecycle == Lifecycle.RETIRED:
        raise Conflict("device", before.device_id, "is retired: nothing of it changes any more")
    if gateway_no is not None and gateway_no != before.gateway_no:
        if before.gateway_no >= 0 and before.lifecycle == Lifecycle.ACTIVE:
            # It may be obeying a lease that came through the one it has.
            raise Conflict("gateway_id", before.gateway_id, "must stay while the device is active: suspend it first")
        columns["gateway_no"] = gateway_no
    owner = {"organisation_id": before.organisation_id, "device_no": before.device_no}
    since = {**owner, "valid_from_ns": now_ns, "known_at_ns": now_ns}
    values = device_records.rating_values(ratings or before.ratings, limits or before.limits)
    # A NaN that is not told anew is the same object, and so is equal here.
    if values != device_records.rating_values(before.ratings, before.limits):
        _close(connection, DEVICE_RATING, before.device_no, now_ns)
        connection.execute(insert(DEVICE_RATING), {**since, **values})
    if columns.get("node_path", before.node_path) != before.node_path:
        _close(connection, DEVICE_TOPOLOGY, before.device_no, now_ns)
        if columns["node_path"]:
            connection.execute(insert(DEVICE_TOPOLOGY), {**since, "node_path": columns["node_path"]})
    return _change(connection, before.organisation_id, [before.device_no], now_ns, **columns)[0]


def ratings_at(connection: Connection, device_no: int, at_ns: int, known_ns: int) -> tuple[Ratings, OwnerLimits]:
    """Return what held at ``at_ns`` as far as it was known at ``known_ns``; NotFound before the enrolment."""
    c = DEVICE_RATING.c
    names = (*device_records.RATING_FIELDS, *device_records.LIMIT_FIELDS)
    held = (c.device_no == device_no) & (c.valid_from_ns <= at_ns) & (c.known_at_ns <= known_ns)
    newest = select(*(c[name] for name in names)).where(held).order_by(c.valid_from_ns.desc(), c.known_at_ns.desc())
    row = connection.execute(newest.limit(1)).first()
    if row is None:
        raise NotFound("rating of device", str(device_no))
    values = row._asdict()
    ratings = Ratings(**{name: values[name] for name in device_records.RATING_FIELDS})
    return ratings, OwnerLimits(**{name: values[name] for name in device_records.LIMIT_FIELDS})


def replace(
    connection: Connection, organisation_id: str, device_id: str, new_device_id: str, now_ns: int
) -> list[DeviceRecord]:
    """Retire a device in favour of another one of the same site, announce it, and return its record.

    Conflict if the new one stands elsewhere, is retired, or is the same.
    """
    old_no, new_no = numbers_of_ids(connection, organisation_id, [device_id, new_device_id])
    record_of_no = {one.device_no: one for one in device_records.of_devices(connection, {old_no, new_no}, now_ns)}
    old, new = record_of_no[old_no], record_of_no[new_no]
    if old_no == new_no or new.lifecycle == Lifecycle.RETIRED or old.site_no != new.site_no:
        raise Conflict("device", new_device_id, "must be another device of the same site that is not retired")
    values = {"lifecycle": int(Lifecycle.RETIRED), "replaced_by": new_no}
    return _change(connection, organisation_id, [old_no], now_ns, **values)


def opt_out(
    connection: Connection,
    organisation_id: str,
    device_id: str,
    window: tuple[int, int],
    now_ns: int,
    *,
    request_id: str,
    reason: str = "",
) -> OptOutChange:
    """Keep an owner's word to leave the device alone in [start_ns, end_ns), tell the shard, and return it.

    ``request_id`` makes it repeatable. InvalidInput if the window ends before it starts.
    """
    start_ns, end_ns = window
    if end_ns <= start_ns:
        raise InvalidInput("end", end_ns, "must be after start")
    device_no = numbers_of_ids(connection, organisation_id, [device_id])[0]
    word = OptOutChange(request_id=request_id, device_no=device_no, start_ns=start_ns, end_ns=end_ns, reason=reason)
    connection.execute(
        insert(OPT_OUT), {**msgspec.structs.asdict(word), "organisation_id": organisation_id, "known_at_ns": now_ns}
    )
    outbox.put_request(connection, word, organisation_id, now_ns, _shard(connection, device_no))
    _change(connection, organisation_id, [device_no], now_ns)
    return word


def withdraw_opt_out(connection: Connection, organisation_id: str, request_id: str, now_ns: int) -> OptOutChange:
    """Take an opt-out back from now on: its window ends here (empty if it has not begun); tell the shard, return it.

    NotFound if the organisation has none of that id; again, it changes nothing.
    """
    c = OPT_OUT.c
    mine = (c.organisation_id == organisation_id) & (c.request_id == request_id)
    row = connection.execute(select(OPT_OUT).where(mine).with_for_update()).first()
    if row is None:
        raise NotFound("opt_out", request_id)
    end_ns = min(row.end_ns, max(row.start_ns, row.withdrawn_ns or now_ns))
    word = OptOutChange(
        request_id=request_id, device_no=row.device_no, start_ns=row.start_ns, end_ns=end_ns, reason=row.reason
    )
    if row.withdrawn_ns is None:
        connection.execute(update(OPT_OUT).where(mine).values(withdrawn_ns=now_ns))
        outbox.put_request(connection, word, organisation_id, now_ns, _shard(connection, row.device_no))
        _change(connection, organisation_id, [row.device_no], now_ns)
    return word


def _change(
    connection: Connection, organisation_id: str, device_nos: Collection[int], now_ns: int, **values: object
) -> list[DeviceRecord]:
    if not device_nos:
        return []
    raised = update(DEVICE).where(_D.device_no.in_(device_nos)).values(revision=_D.revision + 1, **values)
    connection.execute(raised)
    return device_records.announce(connection, organisation_id, device_nos, now_ns)


def _close(connection: Connection, table: Any, device_no: int, now_ns: int) -> None:
    """End the open row of an effective-dated fact; one that began at this very instant never held and goes."""
    is_open = (table.c.device_no == device_no) & table.c.valid_to_ns.is_(None)
    connection.execute(table.delete().where(is_open & (table.c.valid_from_ns >= now_ns)))
    connection.execute(update(table).where(is_open).values(valid_to_ns=now_ns))


def _shard(connection: Connection, device_no: int) -> int:
    found = select(SITE.c.shard).join_from(DEVICE, SITE, SITE.c.site_no == _D.site_no).where(_D.device_no == device_no)
    return int(connection.execute(found).scalar_one())
