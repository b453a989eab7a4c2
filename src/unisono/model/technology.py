"""The technologies a device can be of, and the vocabularies that readings and commands share.

Integer codes are written into columns, streams and history: they are never renumbered.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class Technology(IntEnum):
    """What kind of resource a device is; the text form (``asset_type`` in the API) is the lower-case name."""

    PV = 1
    BESS = 2
    EV = 3
    EVSE = 4
    WATER_HEATER = 5
    THERMOSTAT = 6
    FLEX_LOAD = 7
    CHP = 8

    @property
    def asset_type(self) -> str:
        """The name that the API uses."""
        return self.name.lower()


TECHNOLOGY_OF_ASSET_TYPE: Final = {technology.asset_type: technology for technology in Technology}


class Lifecycle(IntEnum):
    """Where a device stands; only ACTIVE devices are dependable, DECLARED ones are enrolled on paper."""

    DECLARED = 0
    COMMISSIONING = 1
    ACTIVE = 2
    SUSPENDED = 3
    RETIRED = 4


class SourceKind(IntEnum):
    """Where a reading comes from; a lower number wins when two fresh sources disagree."""

    METER = 0
    DEVICE = 1
    VENDOR_CLOUD = 2
    ESTIMATE = 3


class ReadingKind(IntEnum):
    """What a reading's value is: a power now, an energy between two instants, or a register that rolls over."""

    POWER = 0
    INTERVAL_ENERGY = 1
    REGISTER = 2


class Trust(IntEnum):
    """How far a device's picture can be believed; capability is counted accordingly."""

    UNKNOWN = 0
    FRESH = 1
    STALE = 2
    SILENT = 3
    SUSPECT = 4


class CommandKind(IntEnum):
    """The tags of the command union."""

    POWER_SETPOINT = 0
    IMPORT_EXPORT_LIMIT = 1
    MODE = 2
    TEMPERATURE_OFFSET = 3
    SHED_LEVEL = 4
    SCHEDULE = 5
    RELEASE = 6


class AckCode(IntEnum):
    """What a device answered to a command; every refusal has its cause."""

    ACCEPTED = 0
    REFUSED_BOUNDS = 1
    REFUSED_OPT_OUT = 2
    REFUSED_LOCAL_OVERRIDE = 3
    REFUSED_UNSUPPORTED = 4
    REFUSED_RATE_LIMITED = 5
    REFUSED_EXPIRED = 6
    REFUSED_OLD_EPOCH = 7
    UNREACHABLE = 8
    REFUSED_OTHER = 9


class Fallback(IntEnum):
    """What a device does by itself when its lease has run out."""

    NORMAL_OPERATION = 0
    ZERO_POWER = 1
    HOLD = 2


class EventKind(StrEnum):
    """What a dispatch asks for."""

    CHANGE_W = "change_w"
    NET_W = "net_w"
    LIMIT_W = "limit_w"


class Policy(StrEnum):
    """How a target is shared out."""

    MERIT_ORDER = "merit_order"
    PRO_RATA = "pro_rata"
    SOC_FAIR = "soc_fair"


class ReferenceMethod(IntEnum):
    """How ``reference_w``, what the device would do without the event, was found."""

    NONE = 0
    RECENT_MEAN = 1
    PLAN_OR_ZERO = 2
    CLEAR_SKY_RATIO = 3
    LAST_VALUE = 4
