"""Who and what is enrolled, as realtime and the fronts are told it on ``registry.<shard>``.

PostgreSQL holds the effective-dated records behind these (``store/``). A registry record is the whole
present state of one thing with a growing ``revision``: the newest wins, a repeated one changes nothing.

Many devices are told as columns: one array a fact, in the order of the devices. A fact that is the same for all of them
is kept once; text is UTF-8 in arrays of a fixed width. So 5,000 devices are 60 pieces of memory and no object a device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.model.ratings import OptOut, OwnerLimits, Ratings

_KIND_OF_TYPE: Final = {float: "<f8", int: "<i8", bool: "|b1", str: "S"}
_GROUPS: Final[dict[str, type[msgspec.Struct]]] = {"ratings": Ratings, "limits": OwnerLimits}
# A code is kept one higher: numpy takes zeros at the end of a text for nothing.
_CODE_SHIFT: Final = 1


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


class Column(msgspec.Struct, frozen=True, array_like=True):
    """One fact: its numpy dtype, and its values, or the one that all share."""

    dtype: str
    data: bytes

    def values(self, n: int) -> NDArray[Any]:
        """Return ``n`` values, not to be written to; raises ValueError for a column of another length."""
        values = np.frombuffer(self.data, np.dtype(self.dtype))
        return np.broadcast_to(values, n) if values.size == 1 else values.reshape(n)


class DeviceColumns(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of ``n`` devices by the names that DeviceRecord, Ratings and OwnerLimits give them."""

    n: int
    columns: dict[str, Column]
    # By place; only of devices that have any.
    opt_outs: dict[int, tuple[OptOut, ...]] = {}

    @classmethod
    def of(cls, records: Collection[DeviceRecord]) -> DeviceColumns:
        """Return the columns of records."""
        facts: dict[str, list[Any]] = {
            name: [getattr(record, name) for record in records] for name in FIELDS if name not in _GROUP_OF_FIELD
        }
        for group in _GROUPS:
            parts = [getattr(record, group) for record in records]
            facts |= {name: [getattr(part, name) for part in parts] for name in _GROUPS[group].__struct_fields__}
        opt_outs = {at: record.opt_outs for at, record in enumerate(records) if record.opt_outs}
        return cls.of_facts(len(records), facts, opt_outs)

    @classmethod
    def of_facts(
        cls, n: int, facts: Mapping[str, Sequence[Any]], opt_outs: Mapping[int, tuple[OptOut, ...]] | None = None
    ) -> DeviceColumns:
        """Return columns of lists by name, each of ``n`` values or of one that all share."""
        columns = {name: _column(name, values) for name, values in facts.items()}
        return cls(n=n, columns=columns, opt_outs=dict(opt_outs or {}))

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a fact of all devices; text as bytes, control_kinds as in ``kinds_of``."""
        return self.columns[name].values(self.n)

    def records(self) -> list[DeviceRecord]:
        """Return one record a device: for those who look at single ones."""
        facts = {name: _said(name, self[name]) for name in self.columns}
        parts = {
            group: [kind(**dict(zip(kind.__struct_fields__, row, strict=True))) for row in zip(*lists, strict=True)]
            for group, kind in _GROUPS.items()
            for lists in [[facts.pop(name) for name in kind.__struct_fields__]]
        }
        rows = zip(*facts.values(), *parts.values(), strict=True)
        return [
            DeviceRecord(**dict(zip((*facts, *parts), row, strict=True)), opt_outs=self.opt_outs.get(at, ()))
            for at, row in enumerate(rows)
        ]


class RegistryBatch(msgspec.Struct, frozen=True):
    """One message on ``registry.<shard>``: single records, and those of many devices as columns."""

    records: tuple[RegistryRecord, ...] = ()
    devices: DeviceColumns | None = None

    def everything(self) -> tuple[RegistryRecord, ...]:
        """Return a record for each thing that the batch tells of."""
        return self.records if self.devices is None else (*self.records, *self.devices.records())

    def all_devices(self) -> tuple[DeviceColumns, ...]:
        """Return what is told of devices, as columns, in the order in which it is to be taken in."""
        told = [record for record in self.records if isinstance(record, DeviceRecord)]
        columns = (DeviceColumns.of(told),) if told else ()
        return columns if self.devices is None else (*columns, self.devices)


def kinds_of(code: bytes) -> tuple[int, ...]:
    r"""Return the control_kinds that a value of that column stands for.

    >>> kinds_of(b"\x01\x04")
    (0, 3)
    """
    return tuple(byte - _CODE_SHIFT for byte in code)


def encode_registry(batch: RegistryBatch) -> bytes:
    """Return the message's bytes (MessagePack: infinities and NaN survive)."""
    return msgspec.msgpack.encode(batch)


def decode_registry(payload: bytes) -> RegistryBatch:
    """Return the batch; raises msgspec.DecodeError on a foreign payload."""
    return msgspec.msgpack.decode(payload, type=RegistryBatch)


def _column(name: str, values: Sequence[Any]) -> Column:
    kind = FIELDS[name]
    if name == "control_kinds":
        array = np.array([bytes(code + _CODE_SHIFT for code in codes) for codes in values], "S")
    elif kind == "S":
        array = np.array([text.encode() for text in values], "S")
    else:
        array = np.array(values, kind)
    data, first = array.tobytes(), array[:1].tobytes()
    return Column(array.dtype.str, first if data == first * array.size else data)


def _said(name: str, values: NDArray[Any]) -> list[Any]:
    """Return what the records say for a column."""
    if name == "control_kinds":
        return [kinds_of(code) for code in values.tolist()]
    return [text.decode() for text in values.tolist()] if values.dtype.kind == "S" else values.tolist()


def _fields() -> dict[str, str]:
    """Return every fact and the kind of its column."""
    fields: dict[str, str] = {"control_kinds": "S"}
    for group in _GROUPS.values():
        fields |= {field.name: _KIND_OF_TYPE[field.type] for field in msgspec.structs.fields(group)}
    return _DEVICE_FIELDS | fields


# Those of DeviceRecord itself; a test compares them with it.
_DEVICE_FIELDS: Final = {
    **dict.fromkeys(
        ("organisation_id", "device_id", "site_id", "gateway_id", "time_zone", "vendor", "carrier", "node_path"), "S"
    ),
    **dict.fromkeys(
        (
            *("revision", "device_no", "site_no", "gateway_no", "technology", "lifecycle", "fallback"),
            "merit_micros_per_kwh",
        ),
        "<i8",
    ),
    **dict.fromkeys(
        (
            *("export_limit_w", "import_limit_w", "latitude_deg", "longitude_deg"),
            *("telemetry_period_s", "command_latency_s", "command_ttl_s"),
        ),
        "<f8",
    ),
    "export_is_allowed": "|b1",
}
_GROUP_OF_FIELD: Final = {name: group for group, kind in _GROUPS.items() for name in kind.__struct_fields__}
FIELDS: Final = _fields()
