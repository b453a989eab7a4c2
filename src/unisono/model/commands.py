"""The command union as devices and links see it; columns of it are ``batches.CommandFrames``."""

from __future__ import annotations

import msgspec


class PowerSetpoint(msgspec.Struct, frozen=True, tag="power_setpoint"):
    """Run at this power, positive into the grid."""

    power_w: int


class ImportExportLimit(msgspec.Struct, frozen=True, tag="import_export_limit"):
    """Stay within [power_min_w, power_max_w]; None leaves a side as it is."""

    power_min_w: int | None = None
    power_max_w: int | None = None


class Mode(msgspec.Struct, frozen=True, tag="mode"):
    """Switch the device's own mode, with the state of charge to keep back (vendor clouds are controlled so)."""

    mode: str
    soc_reserve_frac: float | None = None


class TemperatureOffset(msgspec.Struct, frozen=True, tag="temperature_offset"):
    """Shift the thermostat's setpoint; positive is warmer."""

    offset_k: float


class ShedLevel(msgspec.Struct, frozen=True, tag="shed_level"):
    """0 normal, 1 shed, 2 critical, 3 off (CTA-2045 basic DR names)."""

    level: int


class Schedule(msgspec.Struct, frozen=True, tag="schedule"):
    """A command to begin later, last a while, and begin up to ``randomise_s`` later than asked."""

    command: PowerSetpoint | ImportExportLimit | Mode | TemperatureOffset | ShedLevel
    start_ns: int
    duration_s: float
    randomise_s: float = 0.0


class Release(msgspec.Struct, frozen=True, tag="release"):
    """Return to normal operation now."""


Command = PowerSetpoint | ImportExportLimit | Mode | TemperatureOffset | ShedLevel | Schedule | Release
