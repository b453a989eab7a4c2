"""Sites and gateways of an enrolment: what is there already is found and held against what is told, others are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, Select, Table, select

from unisono.base.errors import InvalidInput, NotFound
from unisono.base.ids import shard_of_site
from unisono.model.registry import GatewayRecord
from unisono.store import layout, outbox
from unisono.store.bulk import copy_columns
from unisono.store.identity import fresh_ids, take_numbers
from unisono.store.lookup import rows_by
from unisono.store.tables.devices import GATEWAY
from unisono.store.tables.places import CONNECTION_POINT, SITE

_LINK: Final = "mqtt"
Lists = dict[str, list[Any]]


class NewSite(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A place with one connection point. Devices share it by its reference, or by giving the same object."""

    partner_reference: str = ""
    name: str = ""
    zip: str = ""
    time_zone: str = "UTC"
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    participant_id: str | None = None
    # Power into the grid is positive: import <= 0 <= export.
    import_limit_w: float = float("-inf")
    export_limit_w: float = float("inf")
    export_is_allowed: bool = True
    utility: str = ""
    utility_account: str = ""
    utility_meter: str = ""
    interconnection_status: str = "none"


class NewGateway(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A gateway; shared as sites are. ``link`` "": that of the gateway if it is there already, else mqtt."""

    partner_reference: str = ""
    link: str = "mqtt"
    vendor: str = ""
    secret_sha256: str = ""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """A site with its present connection point (None: it has none), as its devices' records tell of it."""

    number: int
    id: str
    zip: str
    shard: int
    time_zone: str
    latitude_deg: float | None
    longitude_deg: float | None
    connection_point_id: str | None
    export_limit_w: float | None
    import_limit_w: float | None
    export_is_allowed: bool | None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway: its number, its id, its link, and whether it was made just now."""

    number: int
    id: str
    link: str
    is_new: bool = False


def key_of(thing: NewSite | NewGateway | str) -> str | int:
    """Return what makes two of them the same: the id, or the partner's reference, else the object itself."""
    return thing if isinstance(thing, str) else thing.partner_reference or id(thing)


def settle_sites(
    connection: Connection, organisation_id: str, wanted: Iterable[NewSite | str], now_ns: int
) -> dict[str | int, Site]:
    """Return the site of each reference or id, by ``key_of``; what is not there yet is made.

    NotFound for an id that the organisation lacks, InvalidInput for a site that is told of in two ways.
    """
    wanted = list(dict.fromkeys(wanted))
    query = (
        select(
            SITE.c.site_no.label("number"),
            SITE.c.site_id.label("id"),
            *(SITE.c[name] for name in ("zip", "shard", "time_zone", "latitude_deg", "longitude_deg")),
            *(CONNECTION_POINT.c[name] for name in _POINT_FIELDS),
        )
        .select_from(SITE)
        .outerjoin(
            CONNECTION_POINT,
            (CONNECTION_POINT.c.site_no == SITE.c.site_no) & CONNECTION_POINT.c.valid_to_ns.is_(None),
        )
    )
    rows = _existing(connection, SITE, organisation_id, query, wanted)
    found = {key: Site(**row) for key, row in rows.items()}
    _check_sites(wanted, found)
    new: dict[str | int, NewSite] = {}
    for site in wanted:
        if isinstance(site, NewSite) and key_of(site) not in found:
            new.setdefault(key_of(site), site)
    if new:
        found |= _made_sites(connection, organisation_id, new, now_ns)
    return found


def settle_gateways(
    connection: Connection, organisation_id: str, wanted: Iterable[NewGateway | str], now_ns: int
) -> dict[str | int, Place]:
    """Return the gateway of each reference or id, by ``key_of``; what is not there yet is made, and announced.

    NotFound for an id that the organisation lacks, InvalidInput for a gateway that is said to speak two links.
    """
    wanted = list(dict.fromkeys(wanted))
    query = select(GATEWAY.c.gateway_no.label("number"), GATEWAY.c.gateway_id.label("id"), GATEWAY.c.link)
    rows = _existing(connection, GATEWAY, organisation_id, query, wanted)
    found = {key: Place(**row) for key, row in rows.items()}
    _check_gateways(wanted, found)
    new: dict[str | int, NewGateway] = {}
    for host in wanted:
        if isinstance(host, NewGateway) and key_of(host) not in found:
            new.setdefault(key_of(host), host)
    if new:
        found |= _made_gateways(connection, organisation_id, new, now_ns)
    return found


_POINT_FIELDS: Final = ("connection_point_id", "export_limit_w", "import_limit_w", "export_is_allowed")


def _existing(
    connection: Connection,
    table: Table,
    organisation_id: str,
    query: Select[Any],
    things: Sequence[NewSite | NewGateway | str],
) -> dict[str | int, dict[str, Any]]:
    """Return what is there already of ``things``, by reference or id; NotFound for an id that is not."""
    mine = query.where(table.c.organisation_id == organisation_id)
    ids = [thing for thing in things if isinstance(thing, str)]
    references = {thing.partner_reference for thing in things if not isinstance(thing, str)} - {""}
    rows: list[Row[Any]] = rows_by(connection, mine, table.c[f"{table.name}_id"], ids)
    reference = table.c.partner_reference
    # Without the second half the unique index, which leaves empty ones out, could not be used.
    rows += rows_by(connection, mine.where(reference != ""), reference, references)
    found: dict[str | int, dict[str, Any]] = {row.value: {**row._asdict()} for row in rows}
    for row in found.values():
        del row["value"]
    for missing in sorted(set(ids) - found.keys()):
        raise NotFound(table.name, str(missing))
    return found


def _check_sites(wanted: Sequence[NewSite | str], found: Mapping[str | int, Site]) -> None:
    """Raise InvalidInput for a site that is told of twice, in two ways; a limit that is left out agrees with any."""
    agreed = {key: (site.zip, site.export_limit_w, site.import_limit_w) for key, site in found.items()}
    for site in wanted:
        if isinstance(site, str):
            continue
        its_zip, export_w, import_w = agreed.setdefault(
            key_of(site), (site.zip, site.export_limit_w, site.import_limit_w)
        )
        its = f"its site {site.partner_reference!r}"
        if site.zip[:5] != its_zip[:5]:
            raise InvalidInput("zip", site.zip, f"must be that of {its}, which lies at {its_zip}")
        for name, told_w, its_w in (
            ("export_limit_w", site.export_limit_w, export_w),
            ("import_limit_w", site.import_limit_w, import_w),
        ):
            if its_w is not None and isfinite(told_w) and told_w != its_w:
                raise InvalidInput(name, told_w, f"must be that of {its}, which has {its_w:g} W")


def _check_gateways(wanted: Sequence[NewGateway | str], found: Mapping[str | int, Place]) -> None:
    """Raise InvalidInput for a gateway that is said to speak two ways: one of them would get no commands."""
    agreed = {key: place.link for key, place in found.items()}
    for host in wanted:
        if isinstance(host, str):
            continue
        link = agreed.setdefault(key_of(host), host.link or _LINK)
        if host.link and host.link != link:
            rule = f"must be that of its gateway {host.partner_reference!r}, which speaks {link}"
            raise InvalidInput("link", host.link, rule)


def _made_sites(
    connection: Connection, organisation_id: str, new: Mapping[str | int, NewSite], now_ns: int
) -> dict[str | int, Site]:
    n, told = len(new), list(new.values())
    numbers = take_numbers(connection, SITE, n)
    ids, point_ids = fresh_ids("site", now_ns, n), fresh_ids("connection_point", now_ns, n)
    n_shards = layout.n_shards(connection)
    shards = [shard_of_site(one, n_shards) for one in ids]
    of_all: Lists = {"organisation_id": [organisation_id] * n, "site_no": numbers}
    own: Lists = {"site_id": ids, "shard": shards, "created_ns": [now_ns] * n}
    copy_columns(connection, SITE, of_all | own | _lists(told, _SITE_FIELDS))
    since: Lists = {"connection_point_id": point_ids, "valid_from_ns": [now_ns] * n, "known_at_ns": [now_ns] * n}
    copy_columns(connection, CONNECTION_POINT, of_all | since | _lists(told, _NEW_POINT_FIELDS))
    return {
        key: Site(
            number=number,
            id=site_id,
            zip=site.zip,
            shard=shard,
            time_zone=site.time_zone,
            latitude_deg=site.latitude_deg,
            longitude_deg=site.longitude_deg,
            connection_point_id=point_id,
            export_limit_w=site.export_limit_w,
            import_limit_w=site.import_limit_w,
            export_is_allowed=site.export_is_allowed,
        )
        for (key, site), number, site_id, point_id, shard in zip(
            new.items(), numbers, ids, point_ids, shards, strict=True
        )
    }


_SITE_FIELDS: Final = (
    *("participant_id", "name", "zip", "time_zone", "latitude_deg", "longitude_deg", "partner_reference"),
)
_NEW_POINT_FIELDS: Final = (
    *("utility", "utility_account", "utility_meter", "import_limit_w", "export_limit_w", "export_is_allowed"),
    "interconnection_status",
)


def _made_gateways(
    connection: Connection, organisation_id: str, new: Mapping[str | int, NewGateway], now_ns: int
) -> dict[str | int, Place]:
    n, told = len(new), list(new.values())
    numbers, ids = take_numbers(connection, GATEWAY, n), fresh_ids("gateway", now_ns, n)
    links = [host.link or _LINK for host in told]
    own: Lists = {"organisation_id": [organisation_id] * n, "gateway_no": numbers, "gateway_id": ids, "link": links}
    rest = _lists(told, ("partner_reference", "vendor", "secret_sha256")) | {"created_ns": [now_ns] * n}
    copy_columns(connection, GATEWAY, own | rest)
    records = [
        GatewayRecord(
            revision=1,
            organisation_id=organisation_id,
            gateway_id=gateway_id,
            gateway_no=number,
            link=link,
            vendor=host.vendor,
            secret_sha256=host.secret_sha256,
        )
        for host, number, gateway_id, link in zip(told, numbers, ids, links, strict=True)
    ]
    outbox.put_records_for_all(connection, records, organisation_id, now_ns)
    return {
        key: Place(number=record.gateway_no, id=record.gateway_id, link=record.link, is_new=True)
        for key, record in zip(new, records, strict=True)
    }


def _lists(things: Sequence[msgspec.Struct], names: Iterable[str]) -> Lists:
    return {name: [getattr(thing, name) for thing in things] for name in names}
