"""Who is in the region: one row a device, sorted by technology so that each kernel works on one slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.model.technology import Technology
from unisono.sim.places import Places

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

MQTT_BATCH, MQTT_SINGLE, HTTP_CLOUD = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Nameplate:
    """What is enrolled of each device: columns as in ``model.ratings``; NaN where it does not apply."""

    power_max_w: Floats
    power_min_w: Floats
    energy_capacity_wh: Floats
    efficiency_frac: Floats
    ramp_w_per_s: Floats
    power_step_min_w: Floats
    is_on_off: NDArray[np.bool_]
    min_on_s: Floats
    min_off_s: Floats
    notice_s: Floats
    duration_max_s: Floats
    rebound_frac: Floats
    soc_reserve_frac: Floats
    comfort_low_degc: Floats
    comfort_high_degc: Floats
    merit_usd_per_kwh: Floats


@dataclass(frozen=True, slots=True)
class Roster:
    """All static facts of the region's devices, sites and gateways."""

    rows_of: dict[Technology, slice]
    technology: NDArray[np.int8]
    key: NDArray[np.uint64]
    site_of_row: Ints
    zone_of_row: Ints
    gateway_of_row: Ints
    vendor: tuple[str, ...]
    nameplate: Nameplate
    telemetry_period_s: Floats
    command_latency_s: Floats
    command_ttl_s: Floats
    is_opted_out: NDArray[np.bool_]
    # Sites.
    places: Places
    size_of_site: Floats
    export_limit_w: Floats
    import_limit_w: Floats
    # Gateways: kind is MQTT_BATCH, MQTT_SINGLE or HTTP_CLOUD; cloud_of_gateway is -1 or the vendor cloud's index.
    gateway_kind: NDArray[np.int8]
    cloud_of_gateway: Ints
    carrier_of_gateway: tuple[str, ...]
    gateway_vendor: tuple[str, ...]

    @property
    def n_devices(self) -> int:
        """Number of devices."""
        return int(self.technology.size)

    @property
    def n_gateways(self) -> int:
        """Number of gateways, vendor clouds included."""
        return int(self.gateway_kind.size)

    def node_path(self, site: int) -> str:
        """Return zone/substation/feeder/transformer of a site; they follow its ZIP."""
        zip_code = self.places.zip_code[site]
        state = self.places.zones[int(self.places.zone_of_site[site])].state
        return f"{state}/S{zip_code[:3]}/F{zip_code}-{site % 3}/T{zip_code}-{site % 9}"
