"""Reading queries of the API: pages and sums over one organisation's records. Nothing here writes.

Every function names the organisation first: a row of another one is as good as absent. Pages go by the growing
integer key, ``after`` exclusive, so that a page never skips or repeats while rows are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, case, exists, func, select, tuple_, union_all
from sqlalchemy.sql.elements import ColumnElement

from unisono.base.errors import NotFound
from unisono.model.technology import Lifecycle
from unisono.store.alarms import Alarm
from unisono.store.tables.devices import DEVICE, DEVICE_RATING, GATEWAY, OPT_OUT
from unisono.store.tables.dispatches import DISPATCH_CYCLE
from unisono.store.tables.operations import ALARM, JOB_ERROR, OUTBOX
from unisono.store.tables.parties import ORGANISATION
from unisono.store.tables.places import CONNECTION_POINT, SITE
from unisono.store.tables.portfolios import PORTFOLIO, PORTFOLIO_MEMBER
from unisono.store.tables.records import EVENT_LOG

INFINITY = float("inf")


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


def portfolio_numbers(connection: Connection) -> Sequence[RowMapping]:
    """Return (portfolio_no, portfolio_id, organisation_id) of all organisations, for the alarm loop only."""
    query = select(PORTFOLIO.c.portfolio_no, PORTFOLIO.c.portfolio_id, PORTFOLIO.c.organisation_id)
    return connection.execute(query.where(PORTFOLIO.c.retired_ns.is_(None))).mappings().all()


def organisation_ids(connection: Connection) -> list[str]:
    """Return the ids of all organisations, for the alarm loop only."""
    return list(connection.execute(select(ORGANISATION.c.organisation_id)).scalars())


def gateway_numbers(connection: Connection, gateway_ids: Sequence[str]) -> list[int]:
    """Return the numbers of these gateways, for the alarm loop only."""
    query = select(GATEWAY.c.gateway_no).where(GATEWAY.c.gateway_id.in_(gateway_ids))
    return list(connection.execute(query).scalars()) if gateway_ids else []


def gateways_in_service(connection: Connection, gateway_nos: Sequence[int]) -> Sequence[RowMapping]:
    """Return those of the gateways that are not revoked and carry active devices, for the alarm loop only."""
    query = (
        select(GATEWAY.c.gateway_no, GATEWAY.c.gateway_id, GATEWAY.c.organisation_id, func.count().label("n_devices"))
        .join_from(GATEWAY, DEVICE, DEVICE.c.gateway_no == GATEWAY.c.gateway_no)
        .where(
            GATEWAY.c.gateway_no.in_(gateway_nos),
            GATEWAY.c.is_revoked.is_(False),
            DEVICE.c.lifecycle == Lifecycle.ACTIVE,
        )
        .group_by(GATEWAY.c.gateway_no)
        .order_by(GATEWAY.c.gateway_no)
    )
    return connection.execute(query).mappings().all() if gateway_nos else ()


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
    """Return (status, n_points, n_export_allowed, n_export_limited, export_limit_w) of members' connection points."""
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


def alarms(connection: Connection, organisation_id: str, *, is_open_only: bool, before: str, limit: int) -> list[Alarm]:
    """Return alarms, newest first, with alarm_id < ``before`` ("": no bound)."""
    query = select(*(ALARM.c[name] for name in Alarm.__struct_fields__))
    query = query.where(ALARM.c.organisation_id == organisation_id)
    if before:
        query = query.where(ALARM.c.alarm_id < before)
    if is_open_only:
        query = query.where(ALARM.c.cleared_ns.is_(None))
    query = query.order_by(ALARM.c.alarm_id.desc()).limit(limit)
    return [Alarm(**row) for row in connection.execute(query).mappings()]


def job_errors(connection: Connection, job_id: str, *, after: int, limit: int) -> Sequence[RowMapping]:
    """Return the errors of a job's rows behind row number ``after``."""
    query = select(JOB_ERROR).where(JOB_ERROR.c.job_id == job_id, JOB_ERROR.c.row > after)
    return connection.execute(query.order_by(JOB_ERROR.c.row, JOB_ERROR.c.field).limit(limit)).mappings().all()


def rows_with_errors(connection: Connection, job_id: str, first: int, last: int) -> set[int]:
    """Return which of a job's rows first to last, both included, were refused."""
    c = JOB_ERROR.c
    return set(connection.execute(select(c.row).where(c.job_id == job_id, c.row.between(first, last))).scalars())


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


def events(
    connection: Connection,
    organisation_id: str,
    *,
    portfolio_id: str = "",
    subject_id: str = "",
    after: int,
    limit: int,
) -> Sequence[RowMapping]:
    """Return entries of the organisation's event log behind seq ``after``, of a portfolio or a subject if given.

    A portfolio's are those that name it, and those that name no portfolio and are about who was its member then.
    """
    c = EVENT_LOG.c
    of_organisation = _entries(c.organisation_id == organisation_id, c.seq > after)
    if subject_id:
        of_organisation = of_organisation.where(c.subject_id == subject_id)
    if not portfolio_id:
        return connection.execute(of_organisation.order_by(c.seq).limit(limit)).mappings().all()
    # Each half is read along its own index and ends at the limit.
    halves = (c.portfolio_id == portfolio_id, (c.portfolio_id == "") & _is_about_member(portfolio_id))
    both = union_all(*(of_organisation.where(half).order_by(c.seq).limit(limit).subquery().select() for half in halves))
    return connection.execute(both.order_by("seq").limit(limit)).mappings().all()


def _entries(*where: ColumnElement[bool]) -> Select[Any]:
    names = ("seq", "at_ns", "kind", "portfolio_id", "subject_id", "body", "hash")
    return select(*(EVENT_LOG.c[name] for name in names)).where(*where)


def _is_about_member(portfolio_id: str) -> ColumnElement[bool]:
    """Say whether an entry's subject is a device that was in the portfolio at the entry's instant."""
    member, at_ns = PORTFOLIO_MEMBER.c, EVENT_LOG.c.at_ns
    was_in = (member.valid_from_ns <= at_ns) & (member.valid_to_ns.is_(None) | (member.valid_to_ns > at_ns))
    return exists(
        select(1)
        .select_from(DEVICE)
        .join(PORTFOLIO_MEMBER, member.device_no == DEVICE.c.device_no)
        .join(PORTFOLIO, PORTFOLIO.c.portfolio_no == member.portfolio_no)
        .where(DEVICE.c.device_id == EVENT_LOG.c.subject_id, PORTFOLIO.c.portfolio_id == portfolio_id, was_in)
        .correlate(EVENT_LOG)
    )


def newest_event_seq(connection: Connection) -> int:
    """Return the seq of the log's newest entry, whoever's it is; 0 when there is none."""
    return int(connection.execute(select(func.coalesce(func.max(EVENT_LOG.c.seq), 0))).scalar_one())


def outbox_backlog(connection: Connection) -> tuple[int, int | None]:
    """Return how many outbox rows wait and when the oldest of them was written (None: none waits)."""
    waiting = select(func.count(), func.min(OUTBOX.c.created_ns)).where(OUTBOX.c.published_at_ns.is_(None))
    n_waiting, oldest_ns = connection.execute(waiting).one()
    return int(n_waiting), None if oldest_ns is None else int(oldest_ns)


def _one(connection: Connection, query: Select[Any], kind: str, ref: str) -> RowMapping:
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(kind, ref)
    return row


def _open_rating() -> ColumnElement[bool]:
    return (DEVICE_RATING.c.device_no == DEVICE.c.device_no) & DEVICE_RATING.c.valid_to_ns.is_(None)


def _site_query() -> Select[Any]:
    n_devices = (
        select(func.count())
        .where(DEVICE.c.site_no == SITE.c.site_no, DEVICE.c.lifecycle != Lifecycle.RETIRED)
        .correlate(SITE)
        .scalar_subquery()
    )
    return select(SITE, n_devices.label("n_devices"))
