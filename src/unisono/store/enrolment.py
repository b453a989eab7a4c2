"""Bulk enrolment: devices with their sites and gateways, in one transaction with their announcement.

A partner reference makes it repeatable: what is there already is found, not made again, and not changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, nan
from typing import Final

import msgspec
from sqlalchemy import Connection, select, text

from unisono.model.ratings import OwnerLimits, Ratings
from unisono.store import outbox
from unisono.store.bulk import copy_columns
from unisono.store.device_records import LIMIT_FIELDS, RATING_FIELDS
from unisono.store.identity import fresh_ids, take_numbers
from unisono.store.lookup import rows_by
from unisono.store.new_places import Lists, NewGateway, NewSite, Place, Site, key_of, settle_gateways, settle_sites
from unisono.store.tables.devices import DEVICE, DEVICE_RATING, DEVICE_TOPOLOGY, GATEWAY
from unisono.store.tables.places import SITE


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


def enrol(connection: Connection, organisation_id: str, devices: Sequence[NewDevice], now_ns: int) -> list[Enrolled]:
    """Enrol ``devices`` (best 500 to 5,000 at once) and return what became of each, in their order.

    One organisation enrols one batch at a time. All or nothing: NotFound for a site or gateway id that the
    organisation lacks, InvalidInput for a value that a table's check refuses, or for a site or gateway that is said
    to be another one than it is (its ZIP, a stated limit, its link).
    """
    _take_turn(connection, organisation_id)
    keys = [device.partner_reference or id(device) for device in devices]
    known = _known_devices(connection, organisation_id, devices)
    fresh: dict[str | int, NewDevice] = {}
    for key, device in zip(keys, devices, strict=True):
        if key not in known:
            fresh.setdefault(key, device)
    todo = list(fresh.values())
    sites = settle_sites(connection, organisation_id, [device.site for device in todo], now_ns)
    asked = [device.gateway for device in todo if device.gateway is not None]
    hosts = settle_gateways(connection, organisation_id, asked, now_ns)
    lots = _Lot(organisation_id, todo, [sites[key_of(device.site)] for device in todo], _hosts_of(todo, hosts), now_ns)
    made = dict(zip(fresh, lots.insert(connection), strict=True))
    answers = []
    for key in keys:
        answers.append(made.get(key) or known[key])
        if key in made:
            known[key] = msgspec.structs.replace(made.pop(key), is_new=False, is_new_gateway=False)
    return answers


def settle_gateway(connection: Connection, organisation_id: str, gateway: NewGateway | str, now_ns: int) -> Place:
    """Return the gateway of that reference or id; a reference that is not there yet is made, and announced.

    NotFound for an id that the organisation lacks, InvalidInput for a gateway that speaks another link than told.
    """
    _take_turn(connection, organisation_id)
    return settle_gateways(connection, organisation_id, [gateway], now_ns)[key_of(gateway)]


def _take_turn(connection: Connection, organisation_id: str) -> None:
    """Wait for the organisation's other enrolments; else two that share a new reference would collide."""
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended('enrol ' || :organisation_id, 0))")
    connection.execute(lock, {"organisation_id": organisation_id})
    # Checks of foreign keys keep their plans: one that reads a table whole, made while it was small, must not be met.
    connection.execute(text("DISCARD PLANS"))
    connection.execute(text("SET LOCAL enable_seqscan = off"))


def _known_devices(
    connection: Connection, organisation_id: str, devices: Iterable[NewDevice]
) -> dict[str | int, Enrolled]:
    c = DEVICE.c
    query = (
        select(c.device_id, c.device_no, SITE.c.site_id, GATEWAY.c.gateway_id)
        .join_from(DEVICE, SITE, SITE.c.site_no == c.site_no)
        .outerjoin(GATEWAY, GATEWAY.c.gateway_no == c.gateway_no)
        .where((c.organisation_id == organisation_id) & (c.partner_reference != ""))
    )
    references = {device.partner_reference for device in devices} - {""}
    return {
        row.value: Enrolled(
            device_id=row.device_id,
            device_no=row.device_no,
            site_id=row.site_id,
            gateway_id=row.gateway_id or "",
            partner_reference=row.value,
            is_new=False,
        )
        for row in rows_by(connection, query, c.partner_reference, references)
    }


def _hosts_of(devices: Sequence[NewDevice], hosts: Mapping[str | int, Place]) -> list[Place | None]:
    return [None if device.gateway is None else hosts[key_of(device.gateway)] for device in devices]


class _Lot:
    """New devices of one organisation with their places, as columns: of the tables, and of their announcement."""

    def __init__(
        self,
        organisation_id: str,
        devices: Sequence[NewDevice],
        sites: Sequence[Site],
        hosts: Sequence[Place | None],
        now_ns: int,
    ) -> None:
        self._organisation_id = organisation_id
        self._sites, self._hosts, self._now_ns = sites, hosts, now_ns
        n = len(devices)
        self._since: Lists = {"valid_from_ns": [now_ns] * n, "known_at_ns": [now_ns] * n}
        self._ids = fresh_ids("device", now_ns, n)
        self._told = {name: [getattr(device, name) for device in devices] for name in _SAME}
        ratings, limits = [device.ratings for device in devices], [device.limits for device in devices]
        self._ratings = {name: [getattr(one, name) for one in ratings] for name in RATING_FIELDS}
        self._ratings |= {name: [getattr(one, name) for one in limits] for name in LIMIT_FIELDS}

    def insert(self, connection: Connection) -> list[Enrolled]:
        """Write the rows, announce the devices, and return what became of them."""
        if not self._ids:
            return []
        numbers = take_numbers(connection, DEVICE, len(self._ids))
        self._write(connection, numbers)
        self._announce(connection, numbers)
        return [
            Enrolled(
                device_id=device_id,
                device_no=number,
                site_id=site.id,
                gateway_id=host.id if host else "",
                partner_reference=reference,
                is_new=True,
                is_new_gateway=host is not None and host.is_new,
            )
            for device_id, number, site, host, reference in zip(
                self._ids, numbers, self._sites, self._hosts, self._told["partner_reference"], strict=True
            )
        ]

    def _write(self, connection: Connection, numbers: Sequence[int]) -> None:
        n = len(numbers)
        owner: Lists = {"organisation_id": [self._organisation_id] * n, "device_no": list(numbers)}
        places: Lists = {
            "site_no": [site.number for site in self._sites],
            "connection_point_id": [site.connection_point_id for site in self._sites],
            "gateway_no": [host.number if host else None for host in self._hosts],
        }
        own: Lists = {"device_id": self._ids, "created_ns": [self._now_ns] * n}
        copy_columns(connection, DEVICE, owner | own | places | self._told)
        copy_columns(connection, DEVICE_RATING, owner | self._since | self._ratings)
        paths = self._told["node_path"]
        placed = [at for at, path in enumerate(paths) if path]
        if placed:
            columns = owner | self._since | {"node_path": paths}
            copy_columns(connection, DEVICE_TOPOLOGY, {name: [c[at] for at in placed] for name, c in columns.items()})

    def _announce(self, connection: Connection, numbers: Sequence[int]) -> None:
        """Tell the shards what ``device_records`` would read back."""
        sites, hosts = self._sites, self._hosts
        facts: Lists = {name: self._told[name] for name in _TOLD_OF} | self._ratings
        facts |= {
            "revision": [1],
            "organisation_id": [self._organisation_id],
            "device_id": self._ids,
            "device_no": list(numbers),
            "site_id": [site.id for site in sites],
            "site_no": [site.number for site in sites],
            "gateway_id": [host.id if host else "" for host in hosts],
            "gateway_no": [host.number if host else -1 for host in hosts],
            "export_limit_w": [inf if site.export_limit_w is None else site.export_limit_w for site in sites],
            "import_limit_w": [-inf if site.import_limit_w is None else site.import_limit_w for site in sites],
            "export_is_allowed": [site.export_is_allowed is not False for site in sites],
            "time_zone": [site.time_zone for site in sites],
            "latitude_deg": [nan if site.latitude_deg is None else site.latitude_deg for site in sites],
            "longitude_deg": [nan if site.longitude_deg is None else site.longitude_deg for site in sites],
        }
        shards = [site.shard for site in sites]
        outbox.put_devices(connection, shards, facts, self._organisation_id, self._now_ns)


# Fields of NewDevice that are columns of the same name.
_SAME: Final = (
    *("partner_reference", "name", "technology", "lifecycle", "vendor", "model", "serial", "carrier", "node_path"),
    *("telemetry_period_s", "command_latency_s", "command_ttl_s", "fallback", "merit_micros_per_kwh", "control_kinds"),
)
# Those of them that fronts and realtime are told.
_TOLD_OF: Final = (
    *("technology", "lifecycle", "vendor", "carrier", "node_path", "telemetry_period_s", "command_latency_s"),
    *("command_ttl_s", "fallback", "merit_micros_per_kwh", "control_kinds"),
)
