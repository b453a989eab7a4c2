"""What a simulated region is like: its size, its technologies, its networks and its faults."""

from __future__ import annotations

import msgspec

from unisono.base.errors import InvalidInput
from unisono.model.technology import Technology

# Share of devices by technology: home batteries and water heaters first, as in the programmes that call themselves
# virtual power plants today (US DOE, Pathways to Commercial Liftoff: Virtual Power Plants, 2023, figure 5).
SHARES = {
    Technology.BESS: 0.30,
    Technology.PV: 0.20,
    Technology.WATER_HEATER: 0.15,
    Technology.THERMOSTAT: 0.15,
    Technology.EVSE: 0.12,
    Technology.EV: 0.05,
    Technology.FLEX_LOAD: 0.02,
    Technology.CHP: 0.01,
}


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How messages travel between gateways and the platform on the movable clock; fractions are of messages."""

    latency_median_s: float = 0.12
    latency_max_s: float = 8.0
    loss_frac: float = 0.003
    duplicate_frac: float = 0.003
    # Messages held back so long that newer ones overtake them.
    reorder_frac: float = 0.003
    # A gateway loses its connection about once in so many hours, and comes back within the outage's length.
    gateway_outage_interval_h: float = 200.0
    gateway_outage_s: float = 60.0
    cloud_poll_s: tuple[float, ...] = (30.0, 45.0, 60.0)
    drift_max_ppm: float = 50.0
    clock_offset_max_s: float = 0.2


class Misbehaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong from the moment that the region is told to misbehave; fractions are of devices."""

    cloud_dark_s: float = 60.0
    cloud_dark_after_s: float = 45.0
    # Vendor cloud that goes dark; -1: none.
    dark_cloud: int = 0
    # Devices that fall silent and come back, at some instant within the window, for up to dropout_s.
    dropout_frac: float = 0.05
    dropout_window_s: float = 180.0
    dropout_s: float = 180.0
    # All dropouts again after so long; 0: once.
    repeat_s: float = 0.0
    refuse_frac: float = 0.03
    # Liars, in equal parts: acknowledges and does nothing; frozen telemetry; wrong sign.
    liar_frac: float = 0.02
    skew_frac: float = 0.01
    skew_max_s: float = 600.0
    over_deliver_frac: float = 0.01
    over_deliver_factor: float = 1.15
    mute_frac: float = 0.01
    opt_out_frac: float = 0.01


class InstrumentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What measures the devices, and which of it begins to lie; fractions are of devices, instants from the start."""

    # Devices with a meter beside what they tell themselves, behind the same gateway; its period is drawn from these.
    meter_frac: float = 0.4
    meter_period_s: tuple[float, ...] = (10.0, 30.0, 60.0)
    # Constant scale errors: billing meters of class 0.5 (ANSI C12.20), inverters' own current clamps 2 %.
    meter_error_frac: float = 0.005
    own_error_frac: float = 0.02
    # Devices whose instruments show whole steps only.
    coarse_frac: float = 0.2
    coarse_steps_w: tuple[float, ...] = (10.0, 100.0)
    # Liars, in equal parts of the kinds of ``instruments.Lie``, each beginning at a random instant of the window.
    lie_frac: float = 0.0
    # Only of instruments that are read at least so often.
    lie_period_max_s: float = 60.0
    lie_from_s: float = 0.0
    lie_to_s: float = 0.0


class WorldSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A whole region; the same spec (with its seed) makes the same region bit for bit."""

    seed: int = 1
    n_devices: int = 10_000
    # 0: 0.4 sites a device.
    n_sites: int = 0
    n_states: int = 3
    n_gateways_max: int = 1000
    cloud_device_frac: float = 0.10
    n_clouds: int = 3
    # How often the devices of a cloud report; drawn for each.
    cloud_period_s: tuple[float, ...] = (30.0, 60.0)
    # Gateways that speak for one device only, in single readings, as a share of MQTT gateways.
    single_gateway_frac: float = 0.10
    shares: dict[Technology, float] = msgspec.field(default_factory=SHARES.copy)
    # Batteries that follow their home's net load when nobody calls; the others wait at 0.
    self_consumption_frac: float = 0.02
    # Sites whose interconnection allows less export than their devices could give.
    limited_site_frac: float = 0.03
    # Devices whose owner has opted out beforehand for the whole run; the platform is told, the device is not.
    declared_opt_out_frac: float = 0.005
    # How long the region runs by itself, in coarse steps, before its first instant.
    spin_up_h: float = 8.0
    network: NetworkSpec = NetworkSpec()
    misbehaviour: Misbehaviour = Misbehaviour()
    # None: one source a device, as exact as `devices` says.
    instruments: InstrumentSpec | None = None

    def check(self) -> WorldSpec:
        """Return itself if it can be built, else raise InvalidInput."""
        if self.n_devices < 1:
            raise InvalidInput("n_devices", self.n_devices, "must be at least 1")
        if self.n_sites < 0:
            raise InvalidInput("n_sites", self.n_sites, "must be 0 or more")
        if abs(sum(self.shares.values()) - 1.0) > 1e-6:
            raise InvalidInput("shares", dict(self.shares), "must add up to 1")
        if self.cloud_device_frac * self.n_clouds > 1.0:
            raise InvalidInput("cloud_device_frac", self.cloud_device_frac, "leaves no device for gateways")
        if self.n_gateways_max < 1:
            raise InvalidInput("n_gateways_max", self.n_gateways_max, "must be at least 1")
        return self

    def site_count(self) -> int:
        """Return the number of sites."""
        return self.n_sites or max(1, round(0.4 * self.n_devices))
