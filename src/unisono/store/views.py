"""Reading queries of the API: pages and sums over one organisation's records. Nothing here writes.

Every function names the organisation first: a row of another one is as good as absent. Pages go by the growing
integer key, ``after`` exclusive, so that a page never skips or repeats while rows are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, case, func, select, tuple_
from sqlalchemy.sql.elements import ColumnElement

from unisono.base.errors import NotFound
from unisono.model.technology import Lifecycle
from unisono.store.tables.devices import DEVICE, DEVICE_RATING, GATEWAY, OPT_OUT
from unisono.store.tables.dispatches import DISPATCH, DISPATCH_CYCLE, DISPATCH_REVISION
from unisono.store.tables.operations import ALARM, JOB, JOB_ERROR, OUTBOX
from unisono.store.tables.parties import API_KEY, ORGANISATION
from unisono.store.tables.places import CONNECTION_POINT, SITE
from unisono.store.tables.portfolios import PORTFOLIO, PORTFOLIO_MEMBER

INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class DeviceFilter:
    """Conditions on devices that must all hold; None and "" admit everything."""

    technology: int | None = None
    lifecycle: int | None = None
    vendor: str = ""
    node_path_prefix: str = ""
    partner_reference: str = ""
    site_id: str = ""
    gateway_id: str = ""
    portfolio_id: str = ""
    every_nth: int | None = None


def devices(
    connection: Connection, organisation_id: str, filters: DeviceFilter, *, after: int, limit: int
) -> Sequence[RowMapping]:
    """Return devices in order of device_no, with their open rating, site and gateway ids."""
    query = _device_query().where(DEVICE.c.organisation_id == organisation_id, DEVICE.c.device_no > after)
    query = query.where(*_conditions(organisation_id, filters)).order_by(DEVICE.c.device_no).limit(limit)
    return connection.execute(query).mappings().all()


def device(connection: Connection, organisation_id: str, device_id: str) -> RowMapping:
    """Return one device; raises NotFound."""
    query = _device_query().where(DEVICE.c.organisation_id == organisation_id, DEVICE.c.device_id == device_id)
    return _one(connection, query, "device", device_id)


def device_nos(connection: Connection, organisation_id: str, filters: DeviceFilter) -> list[int]:
    """Return the numbers of all devices that meet the filters and are not retired."""
    query = (
        select(DEVICE.c.device_no)
        .where(DEVICE.c.organisation_id == organisation_id, DEVICE.c.lifecycle != Lifecycle.RETIRED)
        .where(*_conditions(organisation_id, filters))
        .order_by(DEVICE.c.device_no)
    )
    return list(connection.execute(query).scalars())


def device_no_of_id(connection: Connection, organisation_id: str, device_ids: Sequence[str]) -> dict[str, int]:
    """Return the numbers of those of ``device_ids`` that are the organisation's."""
    query = select(DEVICE.c.device_id, DEVICE.c.device_no).where(
        DEVICE.c.organisation_id == organisation_id, DEVICE.c.device_id == func.any(list(device_ids))
    )
    return {row.device_id: row.device_no for row in connection.execute(query)}


def portfolios_of_device(connection: Connection, organisation_id: str, device_no: int) -> list[str]:
    """Return the ids of the portfolios that a device is now a member of."""
    query = (
        select(PORTFOLIO.c.portfolio_id)
        .join(PORTFOLIO_MEMBER, PORTFOLIO_MEMBER.c.portfolio_no == PORTFOLIO.c.portfolio_no)
        .where(
            PORTFOLIO.c.organisation_id == organisation_id,
            PORTFOLIO_MEMBER.c.device_no == device_no,
            PORTFOLIO_MEMBER.c.valid_to_ns.is_(None),
            PORTFOLIO.c.retired_ns.is_(None),
        )
        .order_by(PORTFOLIO.c.portfolio_no)
    )
    return list(connection.execute(query).scalars())


def opt_outs(connection: Connection, organisation_id: str, device_no: int, after_ns: int) -> Sequence[RowMapping]:
    """Return the opt-outs of a device that end after ``after_ns`` and were not withdrawn."""
    query = (
        select(OPT_OUT)
        .where(
            OPT_OUT.c.organisation_id == organisation_id,
            OPT_OUT.c.device_no == device_no,
            OPT_OUT.c.end_ns > after_ns,
            OPT_OUT.c.withdrawn_ns.is_(None),
        )
        .order_by(OPT_OUT.c.start_ns)
        .limit(1000)
    )
    return connection.execute(query).mappings().all()


def sites(connection: Connection, organisation_id: str, *, after: int, limit: int) -> Sequence[RowMapping]:
    """Return sites in order of site_no, each with its number of devices that are not retired."""
    query = _site_query().where(SITE.c.organisation_id == organisation_id, SITE.c.site_no > after)
    return connection.execute(query.order_by(SITE.c.site_no).limit(limit)).mappings().all()


def site(connection: Connection, organisation_id: str, site_id: str) -> RowMapping:
    """Return one site; raises NotFound."""
    query = _site_query().where(SITE.c.organisation_id == organisation_id, SITE.c.site_id == site_id)
    return _one(connection, query, "site", site_id)


def gateways(connection: Connection, organisation_id: str, *, after: int, limit: int) -> Sequence[RowMapping]:
    """Return gateways in order of gateway_no, each with its number of devices that are not retired."""
    query = _gateway_query().where(GATEWAY.c.organisation_id == organisation_id, GATEWAY.c.gateway_no > after)
    return connection.execute(query.order_by(GATEWAY.c.gateway_no).limit(limit)).mappings().all()


def gateway(connection: Connection, organisation_id: str, gateway_id: str) -> RowMapping:
    """Return one gateway; raises NotFound."""
    query = _gateway_query().where(GATEWAY.c.organisation_id == organisation_id, GATEWAY.c.gateway_id == gateway_id)
    return _one(connection, query, "gateway", gateway_id)


def portfolios(connection: Connection, organisation_id: str, *, after: int, limit: int) -> Sequence[RowMapping]:
    """Return portfolios that are not retired in order of portfolio_no, each with its number of members."""
    query = _portfolio_query().where(
        PORTFOLIO.c.organisation_id == organisation_id,
        PORTFOLIO.c.portfolio_no > after,
        PORTFOLIO.c.retired_ns.is_(None),
    )
    return connection.execute(query.order_by(PORTFOLIO.c.portfolio_no).limit(limit)).mappings().all()


def portfolio(connection: Connection, organisation_id: str, portfolio_id: str) -> RowMapping:
    """Return one portfolio with its number of members; raises NotFound."""
    query = _portfolio_query().where(
        PORTFOLIO.c.organisation_id == organisation_id, PORTFOLIO.c.portfolio_id == portfolio_id
    )
    return _one(connection, query, "portfolio", portfolio_id)


def portfolio_numbers(connection: Connection) -> Sequence[RowMapping]:
    """Return (portfolio_no, portfolio_id, organisation_id) of every organisation's portfolios, for the alarm loop only."""
    query = select(PORTFOLIO.c.portfolio_no, PORTFOLIO.c.portfolio_id, PORTFOLIO.c.organisation_id)
    return connection.execute(query.where(PORTFOLIO.c.retired_ns.is_(None))).mappings().all()


def enrolled(connection: Connection, organisation_id: str, portfolio_no: int) -> Sequence[RowMapping]:
    """Return (technology, lifecycle, n_devices, export_w, import_w, capacity_wh) of a portfolio's present members."""
    query = (
        select(
            DEVICE.c.technology,
            DEVICE.c.lifecycle,
            func.count().label("n_devices"),
            func.coalesce(func.sum(DEVICE_RATING.c.power_max_w), 0.0).label("export_w"),
            func.coalesce(func.sum(-DEVICE_RATING.c.power_min_w), 0.0).label("import_w"),
            func.coalesce(func.sum(DEVICE_RATING.c.energy_capacity_wh), 0.0).label("capacity_wh"),
        )
        .select_from(PORTFOLIO_MEMBER)
        .join(DEVICE, DEVICE.c.device_no == PORTFOLIO_MEMBER.c.device_no)
        .outerjoin(DEVICE_RATING, _open_rating())
        .where(
            PORTFOLIO_MEMBER.c.organisation_id == organisation_id,
            PORTFOLIO_MEMBER.c.portfolio_no == portfolio_no,
            PORTFOLIO_MEMBER.c.valid_to_ns.is_(None),
            DEVICE.c.lifecycle != Lifecycle.RETIRED,
        )
        .group_by(DEVICE.c.technology, DEVICE.c.lifecycle)
        .order_by(DEVICE.c.technology, DEVICE.c.lifecycle)
    )
    return connection.execute(query).mappings().all()


def interconnection(connection: Connection, organisation_id: str, portfolio_no: int) -> Sequence[RowMapping]:
    """Return (status, n_points, n_export_allowed, n_export_limited, export_limit_w) of the members' connection points."""
    is_limited = CONNECTION_POINT.c.export_limit_w < INFINITY
    members = (
        select(DEVICE.c.connection_point_id)
        .join(PORTFOLIO_MEMBER, PORTFOLIO_MEMBER.c.device_no == DEVICE.c.device_no)
        .where(
            PORTFOLIO_MEMBER.c.organisation_id == organisation_id,
            PORTFOLIO_MEMBER.c.portfolio_no == portfolio_no,
            PORTFOLIO_MEMBER.c.valid_to_ns.is_(None),
            DEVICE.c.lifecycle != Lifecycle.RETIRED,
        )
        .distinct()
    )
    query = (
        select(
            CONNECTION_POINT.c.interconnection_status.label("status"),
            func.count().label("n_points"),
            func.count().filter(CONNECTION_POINT.c.export_is_allowed).label("n_export_allowed"),
            func.count().filter(is_limited).label("n_export_limited"),
            func.coalesce(func.sum(case((is_limited, CONNECTION_POINT.c.export_limit_w), else_=0.0)), 0.0).label(
                "export_limit_w"
            ),
        )
        .where(CONNECTION_POINT.c.connection_point_id.in_(members))
        .group_by(CONNECTION_POINT.c.interconnection_status)
        .order_by(CONNECTION_POINT.c.interconnection_status)
    )
    return connection.execute(query).mappings().all()


def dispatches(
    connection: Connection, organisation_id: str, *, portfolio_id: str, state: str, before: int, limit: int
) -> Sequence[RowMapping]:
    """Return dispatches in their newest revision, newest first, with dispatch_no < ``before``; "" admits all."""
    query = _dispatch_query().where(DISPATCH.c.organisation_id == organisation_id, DISPATCH.c.dispatch_no < before)
    if portfolio_id:
        query = query.where(PORTFOLIO.c.portfolio_id == portfolio_id)
    if state:
        query = query.where(DISPATCH.c.state == state)
    return connection.execute(query.order_by(DISPATCH.c.dispatch_no.desc()).limit(limit)).mappings().all()


def dispatch(connection: Connection, organisation_id: str, dispatch_id: str) -> RowMapping:
    """Return one dispatch in its newest revision; raises NotFound."""
    query = _dispatch_query().where(
        DISPATCH.c.organisation_id == organisation_id, DISPATCH.c.dispatch_id == dispatch_id
    )
    return _one(connection, query, "dispatch", dispatch_id)


def dispatch_cycles(
    connection: Connection, dispatch_no: int, *, after: tuple[int, int, int], limit: int
) -> Sequence[RowMapping]:
    """Return the recorded cycles of a dispatch in order of (epoch, cycle, shard), behind ``after``."""
    key = tuple_(DISPATCH_CYCLE.c.epoch, DISPATCH_CYCLE.c.cycle, DISPATCH_CYCLE.c.shard)
    query = (
        select(DISPATCH_CYCLE)
        .where(DISPATCH_CYCLE.c.dispatch_no == dispatch_no, key > after)
        .order_by(DISPATCH_CYCLE.c.epoch, DISPATCH_CYCLE.c.cycle, DISPATCH_CYCLE.c.shard)
        .limit(limit)
    )
    return connection.execute(query).mappings().all()


def alarms(
    connection: Connection, organisation_id: str, *, is_open_only: bool, before_ns: int, limit: int
) -> Sequence[RowMapping]:
    """Return alarms, newest first, raised before ``before_ns``."""
    query = select(ALARM).where(ALARM.c.organisation_id == organisation_id, ALARM.c.raised_ns < before_ns)
    if is_open_only:
        query = query.where(ALARM.c.cleared_ns.is_(None))
    query = query.order_by(ALARM.c.raised_ns.desc(), ALARM.c.alarm_id).limit(limit)
    return connection.execute(query).mappings().all()


def job(connection: Connection, organisation_id: str, job_id: str) -> RowMapping:
    """Return one job with its progress, without its request; raises NotFound."""
    columns = [column for column in JOB.c if column.name != "request"]
    query = select(*columns).where(JOB.c.organisation_id == organisation_id, JOB.c.job_id == job_id)
    return _one(connection, query, "job", job_id)


def job_errors(connection: Connection, job_id: str, *, after: int, limit: int) -> Sequence[RowMapping]:
    """Return the errors of a job's rows behind row number ``after``."""
    query = select(JOB_ERROR).where(JOB_ERROR.c.job_id == job_id, JOB_ERROR.c.row > after)
    return connection.execute(query.order_by(JOB_ERROR.c.row, JOB_ERROR.c.field).limit(limit)).mappings().all()


def enrolled_of_references(
    connection: Connection, organisation_id: str, references: Sequence[str]
) -> Sequence[RowMapping]:
    """Return device and gateway of each partner_reference that is enrolled (ids, numbers, secret_sha256)."""
    query = (
        select(
            DEVICE.c.partner_reference,
            DEVICE.c.device_id,
            DEVICE.c.device_no,
            GATEWAY.c.partner_reference.label("gateway_reference"),
            GATEWAY.c.gateway_id,
            GATEWAY.c.secret_sha256,
        )
        .outerjoin(GATEWAY, GATEWAY.c.gateway_no == DEVICE.c.gateway_no)
        .where(
            DEVICE.c.organisation_id == organisation_id,
            DEVICE.c.partner_reference == func.any(list(references)),
        )
    )
    return connection.execute(query).mappings().all()


def keys(connection: Connection, organisation_id: str, *, after: str, limit: int) -> Sequence[RowMapping]:
    """Return API keys without their hashes, in order of key_id."""
    columns = [column for column in API_KEY.c if column.name != "secret_sha256"]
    query = select(*columns).where(API_KEY.c.organisation_id == organisation_id, API_KEY.c.key_id > after)
    return connection.execute(query.order_by(API_KEY.c.key_id).limit(limit)).mappings().all()


def outbox_backlog(connection: Connection) -> tuple[int, int | None]:
    """Return how many outbox rows wait and when the oldest of them was written (None: none waits)."""
    waiting = select(func.count(), func.min(OUTBOX.c.created_ns)).where(OUTBOX.c.published_at_ns.is_(None))
    n_waiting, oldest_ns = connection.execute(waiting).one()
    return int(n_waiting), None if oldest_ns is None else int(oldest_ns)


def organisations(connection: Connection) -> Sequence[RowMapping]:
    """Return all organisations, for the platform's own administrator only."""
    return connection.execute(select(ORGANISATION).order_by(ORGANISATION.c.organisation_id)).mappings().all()


def _one(connection: Connection, query: Select[Any], kind: str, ref: str) -> RowMapping:
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(kind, ref)
    return row


def _open_rating() -> ColumnElement[bool]:
    return (DEVICE_RATING.c.device_no == DEVICE.c.device_no) & DEVICE_RATING.c.valid_to_ns.is_(None)


def _device_query() -> Select[Any]:
    rating = [column for column in DEVICE_RATING.c if column.name not in DEVICE.c]
    return (
        select(DEVICE, *rating, SITE.c.site_id, SITE.c.shard, GATEWAY.c.gateway_id)
        .join(SITE, SITE.c.site_no == DEVICE.c.site_no)
        .outerjoin(GATEWAY, GATEWAY.c.gateway_no == DEVICE.c.gateway_no)
        .outerjoin(DEVICE_RATING, _open_rating())
    )


def _site_query() -> Select[Any]:
    n_devices = (
        select(func.count())
        .where(DEVICE.c.site_no == SITE.c.site_no, DEVICE.c.lifecycle != Lifecycle.RETIRED)
        .correlate(SITE)
        .scalar_subquery()
    )
    return select(SITE, n_devices.label("n_devices"))


def _gateway_query() -> Select[Any]:
    n_devices = (
        select(func.count())
        .where(DEVICE.c.gateway_no == GATEWAY.c.gateway_no, DEVICE.c.lifecycle != Lifecycle.RETIRED)
        .correlate(GATEWAY)
        .scalar_subquery()
    )
    return select(GATEWAY, n_devices.label("n_devices"))


def _dispatch_query() -> Select[Any]:
    content = [
        column
        for column in DISPATCH_REVISION.c
        if column.name not in {"dispatch_no", "revision", "organisation_id", "start_ns", "end_ns"}
    ]
    return (
        select(DISPATCH, *content, PORTFOLIO.c.portfolio_id)
        .join(
            DISPATCH_REVISION,
            (DISPATCH_REVISION.c.dispatch_no == DISPATCH.c.dispatch_no)
            & (DISPATCH_REVISION.c.revision == DISPATCH.c.revision),
        )
        .join(PORTFOLIO, PORTFOLIO.c.portfolio_no == DISPATCH.c.portfolio_no)
    )


def _portfolio_query() -> Select[Any]:
    n_devices = (
        select(func.count())
        .where(PORTFOLIO_MEMBER.c.portfolio_no == PORTFOLIO.c.portfolio_no, PORTFOLIO_MEMBER.c.valid_to_ns.is_(None))
        .correlate(PORTFOLIO)
        .scalar_subquery()
    )
    return select(PORTFOLIO, n_devices.label("n_devices"))


def _conditions(organisation_id: str, filters: DeviceFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if filters.technology is not None:
        conditions.append(DEVICE.c.technology == filters.technology)
    if filters.lifecycle is not None:
        conditions.append(DEVICE.c.lifecycle == filters.lifecycle)
    if filters.vendor:
        conditions.append(DEVICE.c.vendor == filters.vendor)
    if filters.node_path_prefix:
        conditions.append(DEVICE.c.node_path.startswith(filters.node_path_prefix, autoescape=True))
    if filters.partner_reference:
        conditions.append(DEVICE.c.partner_reference == filters.partner_reference)
    if filters.site_id:
        chosen = select(SITE.c.site_no).where(
            SITE.c.organisation_id == organisation_id, SITE.c.site_id == filters.site_id
        )
        conditions.append(DEVICE.c.site_no.in_(chosen))
    if filters.gateway_id:
        through = select(GATEWAY.c.gateway_no).where(
            GATEWAY.c.organisation_id == organisation_id, GATEWAY.c.gateway_id == filters.gateway_id
        )
        conditions.append(DEVICE.c.gateway_no.in_(through))
    if filters.portfolio_id:
        members = (
            select(PORTFOLIO_MEMBER.c.device_no)
            .join(PORTFOLIO, PORTFOLIO.c.portfolio_no == PORTFOLIO_MEMBER.c.portfolio_no)
            .where(
                PORTFOLIO.c.organisation_id == organisation_id,
                PORTFOLIO.c.portfolio_id == filters.portfolio_id,
                PORTFOLIO_MEMBER.c.valid_to_ns.is_(None),
            )
        )
        conditions.append(DEVICE.c.device_no.in_(members))
    if filters.every_nth is not None:
        conditions.append(DEVICE.c.device_no % filters.every_nth == 0)
    return conditions
