"""Who and what is enrolled, as realtime and the fronts are told it on ``registry.<shard>``.

PostgreSQL holds the effective-dated records behind these (``store/``). A registry record is the whole
present state of one thing with a growing ``revision``: the newest wins, a repeated one changes nothing.
"""

from __future__ import annotations

import msgspec

from unisono.model.ratings import OptOut, OwnerLimits, Ratings


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True, tag="device"):
    """All that realtime needs to know of a device; ``device_no`` is its integer for life, in every stream and file."""

    revision: int
    organisation_id: str
    device_id: str
    device_no: int
    site_id: str
    site_no: int
    gateway_id: str = ""
    gateway_no: int = -1
    technology: int = 0
    lifecycle: int = 0
    ratings: Ratings
    limits: OwnerLimits = OwnerLimits()
    opt_outs: tuple[OptOut, ...] = ()
    # Connection point: export_limit_w >= 0, import_limit_w <= 0 (power into the grid is positive).
    export_limit_w: float = float("inf")
    import_limit_w: float = float("-inf")
    export_is_allowed: bool = True
    # IANA name; seasons begin at its midnights.
    time_zone: str = "UTC"
    latitude_deg: float = float("nan")
    longitude_deg: float = float("nan")
    # How often the device reports; fresh up to 3 periods, stale up to 10, then silent.
    telemetry_period_s: float = 60.0
    command_latency_s: float = 1.0
    command_ttl_s: float = 60.0
    control_kinds: tuple[int, ...] = (0,)
    fallback: int = 0
    # Order in which merit_order calls on the device, in a currency's millionths per kWh.
    merit_micros_per_kwh: int = 0
    # Failure domains.
    vendor: str = ""
    carrier: str = ""
    node_path: str = ""


class GatewayRecord(msgspec.Struct, frozen=True, kw_only=True, tag="gateway"):
    """A gateway (or vendor cloud, or a device that speaks for itself) and how it is reached."""

    revision: int
    organisation_id: str
    gateway_id: str
    gateway_no: int
    # mqtt: frames on c/<gateway>/...; http: it fetches its frames.
    link: str = "mqtt"
    vendor: str = ""
    # sha256 of the gateway's secret, hex; "" means that it may not connect.
    secret_sha256: str = ""
    is_revoked: bool = False


class PortfolioRecord(msgspec.Struct, frozen=True, kw_only=True, tag="portfolio"):
    """A portfolio and its present members (portfolios overlap)."""

    revision: int
    organisation_id: str
    portfolio_id: str
    portfolio_no: int
    purpose: str = "trading"
    device_nos: tuple[int, ...] = ()
    is_retired: bool = False


RegistryRecord = DeviceRecord | GatewayRecord | PortfolioRecord


class RegistryBatch(msgspec.Struct, frozen=True):
    """One message on ``registry.<shard>``."""

    records: tuple[RegistryRecord, ...]


def encode_registry(batch: RegistryBatch) -> bytes:
    """Return the message's bytes (MessagePack: infinities and NaN survive)."""
    return msgspec.msgpack.encode(batch)


def decode_registry(payload: bytes) -> RegistryBatch:
    """Return the batch; raises msgspec.DecodeError on a foreign payload."""
    return msgspec.msgpack.decode(payload, type=RegistryBatch)
