"""Bulk enrolment: devices with their sites and gateways, in one transaction with their announcement.

A partner reference makes it repeatable: what is there already is found, not made again, and not changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Table, select, text

from unisono.base.errors import InvalidInput, NotFound
from unisono.model.ratings import OwnerLimits, Ratings
from unisono.store import device_records, gateways, outbox
from unisono.store.bulk import copy_rows
from unisono.store.identity import fresh_id, shard_of_site, take_numbers
from unisono.store.tables.devices import DEVICE, DEVICE_RATING, DEVICE_TOPOLOGY, GATEWAY
from unisono.store.tables.places import CONNECTION_POINT, SITE

_LINK: Final = "mqtt"


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


class NewDevice(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A device to enrol. ``site`` and ``gateway``: a new one, or the id of one that the organisation has."""

    site: NewSite | str
    gateway: NewGateway | str | None = None
    partner_reference: str = ""
    name: str = ""
    technology: int
    lifecycle: int = 0
    ratings: Ratings
    limits: OwnerLimits = OwnerLimits()
    vendor: str = ""
    model: str = ""
    serial: str = ""
    carrier: str = ""
    node_path: str = ""
    telemetry_period_s: float = 60.0
    command_latency_s: float = 1.0
    command_ttl_s: float = 60.0
    control_kinds: tuple[int, ...] = (0,)
    fallback: int = 0
    merit_micros_per_kwh: int = 0


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one device; ``is_new`` is False if its reference was known (or came earlier in the same batch)."""

    device_id: str
    device_no: int
    site_id: str
    gateway_id: str
    partner_reference: str
    is_new: bool
    # Made for it just now, with a secret that nobody has been told yet.
    is_new_gateway: bool = False


class Place(msgspec.Struct, frozen=True):
    """A site or gateway: number, id, (of a site) its connection point, and whether it was made just now."""

    number: int
    id: str
    connection_point_id: str | None = None
    is_new: bool = False


def enrol(connection: Connection, organisation_id: str, devices: Sequence[NewDevice], now_ns: int) -> list[Enrolled]:
    """Enrol ``devices`` (best 500 to 5,000 at once) and return what became of each, in their order.

    One organisation enrols one batch at a time. All or nothing: NotFound for a site or gateway id that the
    organisation lacks, InvalidInput for a value that a table's check refuses, or for a site or gateway that is said
    to be another one than it is (its ZIP, a stated limit, its link).
    """
    _take_turn(connection, organisation_id)
    known = _known_devices(connection, organisation_id, devices)
    fresh: dict[str | int, NewDevice] = {}
    for device in devices:
        if _key(device) not in known:
            fresh.setdefault(_key(device), device)
    todo = list(fresh.items())
    sites = _settle_sites(connection, organisation_id, [device.site for _, device in todo], now_ns)
    asked = [device.gateway for _, device in todo if device.gateway is not None]
    hosts = _settle_gateways(connection, organisation_id, asked, now_ns)
    made = _insert_devices(connection, organisation_id, todo, (sites, hosts), now_ns)
    device_records.announce(connection, organisation_id, [one.device_no for one in made.values()], now_ns)
    answers = []
    for device in devices:
        key = _key(device)
        answers.append(made.get(key) or known[key])
        if key in made:
            known[key] = msgspec.structs.replace(made.pop(key), is_new=False, is_new_gateway=False)
    return answers


def settle_gateway(connection: Connection, organisation_id: str, gateway: NewGateway | str, now_ns: int) -> Place:
    """Return the gateway of that reference or id; a reference that is not there yet is made, and announced.

    NotFound for an id that the organisation lacks, InvalidInput for a gateway that speaks another link than told.
    """
    _take_turn(connection, organisation_id)
    found = _settle_gateways(connection, organisation_id, [gateway], now_ns)
    return found[gateway if isinstance(gateway, str) else _key(gateway)]


def _take_turn(connection: Connection, organisation_id: str) -> None:
    """Wait for the organisation's other enrolments; else two that share a new reference would collide."""
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended('enrol ' || :organisation_id, 0))")
    connection.execute(lock, {"organisation_id": organisation_id})


def _key(thing: NewDevice | NewSite | NewGateway) -> str | int:
    """Return what makes two of them the same: the partner's reference, else the object itself."""
    return thing.partner_reference or id(thing)


def _known_devices(
    connection: Connection, organisation_id: str, devices: Iterable[NewDevice]
) -> dict[str | int, Enrolled]:
    references = [device.partner_reference for device in devices if device.partner_reference]
    c = DEVICE.c
    found = (
        select(c.device_id, c.device_no, SITE.c.site_id, GATEWAY.c.gateway_id, c.partner_reference)
        .join_from(DEVICE, SITE, SITE.c.site_no == c.site_no)
        .outerjoin(GATEWAY, GATEWAY.c.gateway_no == c.gateway_no)
        .where((c.organisation_id == organisation_id) & c.partner_reference.in_(references))
    )
    return {
        row.partner_reference: Enrolled(**{**row._asdict(), "gateway_id": row.gateway_id or ""}, is_new=False)
        for row in (connection.execute(found) if references else ())
    }


def _existing(
    connection: Connection, table: Table, organisation_id: str, things: Iterable[NewSite | NewGateway | str]
) -> dict[str | int, Place]:
    """Return what is there already of ``things``, by reference or id; NotFound for an id that is not."""
    kind = table.name
    number, identity, reference = table.c[f"{kind}_no"], table.c[f"{kind}_id"], table.c.partner_reference
    ids = {thing for thing in things if isinstance(thing, str)}
    references = {thing.partner_reference for thing in things if not isinstance(thing, str)} - {""}
    found: dict[str | int, Place] = {}
    for wanted, column in ((ids, identity), (references, reference)):
        mine = select(column, number, identity).where((table.c.organisation_id == organisation_id) & column.in_(wanted))
        found |= {row[0]: Place(row[1], row[2]) for row in (connection.execute(mine) if wanted else ())}
    for missing in sorted(ids - found.keys()):
        raise NotFound(kind, missing)
    return found


def _settle_sites(
    connection: Connection, organisation_id: str, wanted: Sequence[NewSite | str], now_ns: int
) -> dict[str | int, Place]:
    found = _existing(connection, SITE, organisation_id, wanted)
    found = _with_connection_points(connection, found)
    _check_sites(connection, wanted, found)
    new = {_key(site): site for site in wanted if not isinstance(site, str) and _key(site) not in found}
    numbers = take_numbers(connection, SITE, len(new))
    site_rows, point_rows = [], []
    for (key, site), number in zip(new.items(), numbers, strict=True):
        place = Place(number, fresh_id("site", now_ns), fresh_id("connection_point", now_ns))
        found[key] = place
        site_rows.append(_site_row(site, place, organisation_id, now_ns))
        point_rows.append(_connection_point_row(site, place, organisation_id, now_ns))
    copy_rows(connection, SITE, site_rows)
    copy_rows(connection, CONNECTION_POINT, point_rows)
    return found


def _check_sites(connection: Connection, wanted: Sequence[NewSite | str], found: Mapping[str | int, Place]) -> None:
    """Raise InvalidInput for a site that is told of twice, in two ways; a limit that is left out agrees with any."""
    point = CONNECTION_POINT.c
    facts = (
        select(SITE.c.site_no, SITE.c.zip, point.export_limit_w, point.import_limit_w)
        .join_from(SITE, CONNECTION_POINT, (point.site_no == SITE.c.site_no) & point.valid_to_ns.is_(None))
        .where(SITE.c.site_no.in_([place.number for place in found.values()]))
    )
    of_number = {row.site_no: (row.zip, row[2], row[3]) for row in (connection.execute(facts) if found else ())}
    agreed = {key: of_number[place.number] for key, place in found.items() if place.number in of_number}
    for site in wanted:
        if isinstance(site, str):
            continue
        its_zip, export_w, import_w = agreed.setdefault(
            _key(site), (site.zip, site.export_limit_w, site.import_limit_w)
        )
        its = f"its site {site.partner_reference!r}"
        if site.zip[:5] != its_zip[:5]:
            raise InvalidInput("zip", site.zip, f"must be that of {its}, which lies at {its_zip}")
        for name, told_w, its_w in (
            ("export_limit_w", site.export_limit_w, export_w),
            ("import_limit_w", site.import_limit_w, import_w),
        ):
            if isfinite(told_w) and told_w != its_w:
                raise InvalidInput(name, told_w, f"must be that of {its}, which has {its_w:g} W")


def _check_gateways(
    connection: Connection, wanted: Sequence[NewGateway | str], found: Mapping[str | int, Place]
) -> None:
    """Raise InvalidInput for a gateway that is said to speak two ways: one of them would get no commands."""
    numbers = [place.number for place in found.values()]
    links = select(GATEWAY.c.gateway_no, GATEWAY.c.link).where(GATEWAY.c.gateway_no.in_(numbers))
    of_number = {row.gateway_no: row.link for row in (connection.execute(links) if found else ())}
    agreed = {key: of_number[place.number] for key, place in found.items()}
    for host in wanted:
        if isinstance(host, str):
            continue
        link = agreed.setdefault(_key(host), host.link or _LINK)
        if host.link and host.link != link:
            rule = f"must be that of its gateway {host.partner_reference!r}, which speaks {link}"
            raise InvalidInput("link", host.link, rule)


def _with_connection_points(connection: Connection, found: dict[str | int, Place]) -> dict[str | int, Place]:
    c = CONNECTION_POINT.c
    mine = select(c.site_no, c.connection_point_id).where(
        c.site_no.in_([place.number for place in found.values()]) & c.valid_to_ns.is_(None)
    )
    point_of_site = {row.site_no: row.connection_point_id for row in (connection.execute(mine) if found else ())}
    return {key: Place(place.number, place.id, point_of_site.get(place.number)) for key, place in found.items()}


def _site_row(site: NewSite, place: Place, organisation_id: str, now_ns: int) -> dict[str, Any]:
    return {
        "site_no": place.number,
        "site_id": place.id,
        "organisation_id": organisation_id,
        "participant_id": site.participant_id,
        "name": site.name,
        "zip": site.zip,
        "time_zone": site.time_zone,
        "latitude_deg": site.latitude_deg,
        "longitude_deg": site.longitude_deg,
        "shard": shard_of_site(place.id),
        "partner_reference": site.partner_reference,
        "created_ns": now_ns,
    }


def _connection_point_row(site: NewSite, place: Place, organisation_id: str, now_ns: int) -> dict[str, Any]:
    return {
        "connection_point_id": place.connection_point_id,
        "organisation_id": organisation_id,
        "site_no": place.number,
        "utility": site.utility,
        "utility_account": site.utility_account,
        "utility_meter": site.utility_meter,
        "import_limit_w": site.import_limit_w,
        "export_limit_w": site.export_limit_w,
        "export_is_allowed": site.export_is_allowed,
        "interconnection_status": site.interconnection_status,
        "valid_from_ns": now_ns,
        "known_at_ns": now_ns,
    }


def _settle_gateways(
    connection: Connection, organisation_id: str, wanted: Sequence[NewGateway | str], now_ns: int
) -> dict[str | int, Place]:
    found = _existing(connection, GATEWAY, organisation_id, wanted)
    _check_gateways(connection, wanted, found)
    new = {_key(host): host for host in wanted if not isinstance(host, str) and _key(host) not in found}
    numbers = take_numbers(connection, GATEWAY, len(new))
    rows = []
    for (key, host), number in zip(new.items(), numbers, strict=True):
        found[key] = Place(number, fresh_id("gateway", now_ns), is_new=True)
        identity = {"gateway_no": number, "gateway_id": found[key].id, "organisation_id": organisation_id}
        told = {**msgspec.structs.asdict(host), "link": host.link or _LINK}
        rows.append({**identity, **told, "created_ns": now_ns})
    copy_rows(connection, GATEWAY, rows)
    outbox.put_records(connection, 0, gateways.records(connection, numbers) if numbers else [], organisation_id, now_ns)
    return found


def _insert_devices(
    connection: Connection,
    organisation_id: str,
    todo: Sequence[tuple[str | int, NewDevice]],
    places: tuple[Mapping[str | int, Place], Mapping[str | int, Place]],
    now_ns: int,
) -> dict[str | int, Enrolled]:
    sites, hosts = places
    numbers = take_numbers(connection, DEVICE, len(todo))
    made: dict[str | int, Enrolled] = {}
    rows: dict[Table, list[dict[str, Any]]] = {DEVICE: [], DEVICE_RATING: [], DEVICE_TOPOLOGY: []}
    since = {"valid_from_ns": now_ns, "known_at_ns": now_ns}
    for (key, device), number in zip(todo, numbers, strict=True):
        site = sites[device.site if isinstance(device.site, str) else _key(device.site)]
        host = None
        if device.gateway is not None:
            host = hosts[device.gateway if isinstance(device.gateway, str) else _key(device.gateway)]
        made[key] = Enrolled(
            device_id=fresh_id("device", now_ns),
            device_no=number,
            site_id=site.id,
            gateway_id=host.id if host else "",
            partner_reference=device.partner_reference,
            is_new=True,
            is_new_gateway=host is not None and host.is_new,
        )
        owner = {"organisation_id": organisation_id, "device_no": number}
        rows[DEVICE].append({**owner, **_device_row(device, made[key], site, host), "created_ns": now_ns})
        rows[DEVICE_RATING].append({**owner, **since, **device_records.rating_values(device.ratings, device.limits)})
        if device.node_path:
            rows[DEVICE_TOPOLOGY].append({**owner, **since, "node_path": device.node_path})
    for table, some in rows.items():
        copy_rows(connection, table, some)
    return made


# Fields of NewDevice that are columns of the same name.
_SAME = (
    *("partner_reference", "name", "technology", "lifecycle", "vendor", "model", "serial", "carrier", "node_path"),
    *("telemetry_period_s", "command_latency_s", "command_ttl_s", "fallback", "merit_micros_per_kwh"),
)


def _device_row(device: NewDevice, made: Enrolled, site: Place, host: Place | None) -> dict[str, Any]:
    return {
        **{name: getattr(device, name) for name in _SAME},
        "device_id": made.device_id,
        "site_no": site.number,
        "connection_point_id": site.connection_point_id,
        "gateway_no": host.number if host else None,
        "control_kinds": list(device.control_kinds),
    }
