"""Pages of an organisation's things, as the API lists them. Nothing here writes.

Pages go by the growing key, beyond ``after`` (or below ``before``), so that none skips or repeats while rows are added.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, and_, func, select
from sqlalchemy.sql.elements import ColumnElement

from unisono.base.errors import NotFound
from unisono.model.dispatch import Dispatch, TargetPoint
from unisono.model.registry import DeviceRecord, GatewayRecord
from unisono.model.technology import Lifecycle
from unisono.store import device_records
from unisono.store.dispatches import StoredDispatch
from unisono.store.keys import ApiKey
from unisono.store.portfolios import Portfolio
from unisono.store.tables.devices import DEVICE, DEVICE_RATING, GATEWAY
from unisono.store.tables.dispatches import DISPATCH, DISPATCH_REVISION
from unisono.store.tables.parties import API_KEY
from unisono.store.tables.places import SITE
from unisono.store.tables.portfolios import PORTFOLIO, PORTFOLIO_MEMBER

_D = DEVICE.c
_G = GATEWAY.c
_P = PORTFOLIO.c
_M = PORTFOLIO_MEMBER.c


class StoredDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device's registry record, with the name that its partner gave it and the instant of its enrolment."""

    record: DeviceRecord
    partner_reference: str
    enrolled_ns: int


class DeviceChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which devices of an organisation are meant; conditions left at their default admit everything."""

    technology: int | None = None
    lifecycle: int | None = None
    vendor: str | None = None
    node_path_prefix: str | None = None
    partner_reference: str | None = None
    site_id: str | None = None
    gateway_id: str | None = None
    portfolio_id: str | None = None
    # Keep one in n, by device_no.
    every_nth: int = 1
    with_retired: bool = True


class GatewayRow(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway's registry record, with what a list shows besides."""

    record: GatewayRecord
    partner_reference: str
    n_devices: int


def device(connection: Connection, organisation_id: str, device_id: str, now_ns: int) -> StoredDevice:
    """Return a device; NotFound if the organisation has none of that id."""
    mine = (_D.organisation_id == organisation_id) & (_D.device_id == device_id)
    device_no = connection.execute(select(_D.device_no).where(mine)).scalar_one_or_none()
    if device_no is None:
        raise NotFound("device", device_id)
    return _stored_devices(connection, [device_no], now_ns)[0]


def device_nos(
    connection: Connection, organisation_id: str, choice: DeviceChoice, *, after: int = 0, limit: int | None = None
) -> list[int]:
    """Return the device_nos, growing and beyond ``after``, of the devices that meet every condition of ``choice``."""
    found = select(_D.device_no).where(and_(*_conditions(organisation_id, choice)), _D.device_no > after)
    return list(connection.execute(found.order_by(_D.device_no).limit(limit)).scalars())


def devices(
    connection: Connection, organisation_id: str, now_ns: int, choice: DeviceChoice, *, after: int, limit: int
) -> list[StoredDevice]:
    """Return up to ``limit`` devices that meet ``choice``, with device_no > ``after``, in that order."""
    return _stored_devices(
        connection, device_nos(connection, organisation_id, choice, after=after, limit=limit), now_ns
    )


def gateway(connection: Connection, organisation_id: str, gateway_id: str) -> GatewayRow:
    """Return the gateway; NotFound if the organisation has none of that id."""
    found = _gateways(connection, (_G.organisation_id == organisation_id) & (_G.gateway_id == gateway_id), 1)
    if not found:
        raise NotFound("gateway", gateway_id)
    return found[0]


def gateways(
    connection: Connection, organisation_id: str, *, gateway_id: str | None = None, after: int, limit: int
) -> list[GatewayRow]:
    """Return up to ``limit`` gateways (of that id, if one is given) with gateway_no > ``after``, in that order."""
    which = (_G.organisation_id == organisation_id) & (_G.gateway_no > after)
    return _gateways(connection, which if gateway_id is None else which & (_G.gateway_id == gateway_id), limit)


def keys(connection: Connection, organisation_id: str, *, after: str, limit: int) -> list[ApiKey]:
    """Return up to ``limit`` API keys with an id beyond ``after``, good or not."""
    c = API_KEY.c
    page = select(*(c[name] for name in ApiKey.__struct_fields__)).where(
        (c.organisation_id == organisation_id) & (c.key_id > after)
    )
    rows = connection.execute(page.order_by(c.key_id).limit(limit)).mappings()
    return [ApiKey(**{**row, "scopes": tuple(row["scopes"])}) for row in rows]


def portfolios(connection: Connection, organisation_id: str, *, after: int, limit: int) -> list[Portfolio]:
    """Return up to ``limit`` portfolios that are not retired, with portfolio_no > ``after``, in that order."""
    inside = (_M.portfolio_no == _P.portfolio_no) & _M.valid_to_ns.is_(None)
    count = select(func.count()).select_from(PORTFOLIO_MEMBER).where(inside).scalar_subquery().label("n_devices")
    fields = [_P[name] for name in Portfolio.__struct_fields__ if name != "n_devices"]
    mine = (_P.organisation_id == organisation_id) & (_P.portfolio_no > after) & _P.retired_ns.is_(None)
    page = select(*fields, count).where(mine).order_by(_P.portfolio_no).limit(limit)
    return [Portfolio(**row) for row in connection.execute(page).mappings()]


def portfolio_ids_of_device(connection: Connection, organisation_id: str, device_no: int) -> list[str]:
    """Return the ids of the portfolios that a device is in now."""
    mine = (_M.device_no == device_no) & (_M.organisation_id == organisation_id) & _M.valid_to_ns.is_(None)
    found = select(_P.portfolio_id).join_from(PORTFOLIO_MEMBER, PORTFOLIO, _P.portfolio_no == _M.portfolio_no)
    return list(connection.execute(found.where(mine).order_by(_P.portfolio_no)).scalars())


# Columns of a revision that carry a Dispatch's field of the same name.
_SAME: Final = tuple(
    name
    for name in Dispatch.__struct_fields__
    if name in DISPATCH_REVISION.c and name not in ("dispatch_no", "targets")
)


def dispatches(
    connection: Connection,
    organisation_id: str,
    *,
    portfolio_id: str | None = None,
    state: str | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[StoredDispatch]:
    """Return up to ``limit`` dispatches in their newest revision, newest first, with dispatch_no < ``before``."""
    c = DISPATCH.c
    where = [c.organisation_id == organisation_id]
    where += [_P.portfolio_id == portfolio_id] if portfolio_id else []
    where += [c.state == state] if state else []
    where += [c.dispatch_no < before] if before is not None else []
    return _dispatches(connection, and_(*where), limit)


def rivals(connection: Connection, wanted: Dispatch, limit: int = 1000) -> list[StoredDispatch]:
    """Return the organisation's other open dispatches that overlap ``wanted`` and are as urgent or more so."""
    c = DISPATCH.c
    others = (c.organisation_id == wanted.organisation_id) & (c.dispatch_id != wanted.dispatch_id)
    is_open = c.state.in_(("scheduled", "active")) & (DISPATCH_REVISION.c.priority <= wanted.priority)
    overlaps = (c.start_ns < wanted.end_ns) & (c.end_ns > wanted.start_ns)
    return _dispatches(connection, and_(others, is_open, overlaps), limit)


def shared_w(connection: Connection, portfolio_no: int, other_nos: Collection[int]) -> dict[int, tuple[float, float]]:
    """Return by portfolio_no what active devices that it shares with ``portfolio_no`` are rated, export and import.

    Both are >= 0; a portfolio that shares none is left out.
    """
    mine, theirs = PORTFOLIO_MEMBER.alias(), PORTFOLIO_MEMBER.alias()
    rating = DEVICE_RATING.c
    is_shared = (theirs.c.device_no == mine.c.device_no) & theirs.c.portfolio_no.in_(other_nos)
    query = (
        select(
            theirs.c.portfolio_no,
            func.sum(func.greatest(rating.power_max_w, 0.0)),
            func.sum(func.greatest(-rating.power_min_w, 0.0)),
        )
        .join_from(mine, theirs, is_shared & theirs.c.valid_to_ns.is_(None))
        .join(DEVICE, (_D.device_no == mine.c.device_no) & (_D.lifecycle == Lifecycle.ACTIVE))
        .join(DEVICE_RATING, (rating.device_no == mine.c.device_no) & rating.valid_to_ns.is_(None))
        .where(mine.c.portfolio_no == portfolio_no, mine.c.valid_to_ns.is_(None))
        .group_by(theirs.c.portfolio_no)
    )
    return {no: (float(export_w), float(import_w)) for no, export_w, import_w in connection.execute(query)}


def _dispatches(connection: Connection, which: ColumnElement[bool], limit: int) -> list[StoredDispatch]:
    c, r = DISPATCH.c, DISPATCH_REVISION.c
    own = (c.dispatch_id, c.dispatch_no, c.state, c.partner_reference, c.created_ns, _P.portfolio_id, _P.portfolio_no)
    page = (
        select(*(r[name] for name in _SAME), r.targets, r.requested_by, *own)
        .join_from(DISPATCH, DISPATCH_REVISION, (c.dispatch_no == r.dispatch_no) & (c.revision == r.revision))
        .join(PORTFOLIO, _P.portfolio_no == c.portfolio_no)
        .where(which)
        .order_by(c.dispatch_no.desc())
        .limit(limit)
    )
    return [_stored_dispatch(row) for row in connection.execute(page).mappings()]


def _stored_dispatch(row: Mapping[Any, Any]) -> StoredDispatch:
    same = (*_SAME, "dispatch_id", "dispatch_no", "portfolio_id", "portfolio_no")
    targets = tuple(TargetPoint(int(start_ns), float(power_w)) for start_ns, power_w in row["targets"])
    return StoredDispatch(
        dispatch=Dispatch(**{name: row[name] for name in same}, targets=targets),
        state=row["state"],
        partner_reference=row["partner_reference"],
        requested_by=row["requested_by"],
        created_ns=row["created_ns"],
    )


def _stored_devices(connection: Connection, device_nos: Sequence[int], now_ns: int) -> list[StoredDevice]:
    if not device_nos:
        return []
    beside = select(_D.device_no, _D.partner_reference, _D.created_ns).where(_D.device_no.in_(device_nos))
    beside_of_no = {no: (reference, enrolled_ns) for no, reference, enrolled_ns in connection.execute(beside)}
    return [
        StoredDevice(
            record=record,
            partner_reference=beside_of_no[record.device_no][0],
            enrolled_ns=beside_of_no[record.device_no][1],
        )
        for record in device_records.of_devices(connection, device_nos, now_ns)
    ]


def _gateways(connection: Connection, which: ColumnElement[bool], limit: int) -> list[GatewayRow]:
    through = (_D.gateway_no == _G.gateway_no) & (_D.lifecycle != Lifecycle.RETIRED)
    count = select(func.count()).select_from(DEVICE).where(through).scalar_subquery().label("n_devices")
    fields = GatewayRecord.__struct_fields__
    page = select(*(_G[name] for name in fields), _G.partner_reference, count).where(which)
    return [_gateway(row) for row in connection.execute(page.order_by(_G.gateway_no).limit(limit)).mappings()]


def _gateway(row: Mapping[Any, Any]) -> GatewayRow:
    record = GatewayRecord(**{name: row[name] for name in GatewayRecord.__struct_fields__})
    return GatewayRow(record=record, partner_reference=row["partner_reference"], n_devices=row["n_devices"])


def _conditions(organisation_id: str, choice: DeviceChoice) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [_D.organisation_id == organisation_id]
    where += [_D.technology == choice.technology] if choice.technology is not None else []
    where += [_D.lifecycle == choice.lifecycle] if choice.lifecycle is not None else []
    where += [] if choice.with_retired else [_D.lifecycle != Lifecycle.RETIRED]
    where += [_D.vendor == choice.vendor] if choice.vendor is not None else []
    where += [_D.partner_reference == choice.partner_reference] if choice.partner_reference is not None else []
    where += [_D.node_path.startswith(choice.node_path_prefix, autoescape=True)] if choice.node_path_prefix else []
    where += [_D.device_no % choice.every_nth == 0] if choice.every_nth > 1 else []
    if choice.site_id is not None:
        where.append(_D.site_no.in_(select(SITE.c.site_no).where(SITE.c.site_id == choice.site_id)))
    if choice.gateway_id is not None:
        where.append(_D.gateway_no.in_(select(_G.gateway_no).where(_G.gateway_id == choice.gateway_id)))
    if choice.portfolio_id is not None:
        members = select(_M.device_no).join(PORTFOLIO, _P.portfolio_no == _M.portfolio_no)
        inside = (_P.portfolio_id == choice.portfolio_id) & _M.valid_to_ns.is_(None)
        where.append(_D.device_no.in_(members.where(inside)))
    return where
