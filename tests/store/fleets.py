"""Small fleets to enrol."""

from __future__ import annotations

from sqlalchemy import Connection

from unisono.model.ratings import OwnerLimits, Ratings
from unisono.model.technology import Lifecycle, Technology
from unisono.store.enrolment import Enrolled, NewDevice, enrol
from unisono.store.new_places import NewGateway, NewSite

NOW_NS = 1_795_000_000_000_000_000
# Everything that would be NaN when left out is given, so that records can be compared.
PORTLAND = {"latitude_deg": 45.5, "longitude_deg": -122.6}
LIMITS = OwnerLimits(soc_reserve_frac=0.1, comfort_low_degc=18.0, comfort_high_degc=27.0)
BATTERY = Ratings(power_max_w=7600.0, power_min_w=-5000.0, energy_capacity_wh=13500.0)


def batteries(n: int, prefix: str = "home") -> list[NewDevice]:
    """Return ``n`` batteries, two at a site, fifty at a gateway, all with references."""
    return [
        NewDevice(
            site=NewSite(partner_reference=f"{prefix}-{i // 2}", zip="97214", export_limit_w=10_000.0, **PORTLAND),
            gateway=NewGateway(partner_reference=f"{prefix}-gw-{i // 50}"),
            partner_reference=f"{prefix}-{i}/battery",
            technology=Technology.BESS,
            lifecycle=Lifecycle.ACTIVE,
            ratings=BATTERY,
            limits=LIMITS,
            vendor="acme",
            node_path="pdx/sub-1",
        )
        for i in range(n)
    ]


def enrol_batteries(connection: Connection, organisation_id: str, n: int) -> list[Enrolled]:
    """Enrol them at NOW_NS."""
    return enrol(connection, organisation_id, batteries(n), NOW_NS)
