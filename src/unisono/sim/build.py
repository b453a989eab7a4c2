"""One seed makes one region: sites with real ZIPs, homes with devices that go together, gateways and vendor clouds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisono.model.technology import Technology
from unisono.sim.chance import keys_of
from unisono.sim.nameplates import DEFAULTS, DRAW_OF_TECHNOLOGY
from unisono.sim.places import choose_places
from unisono.sim.roster import HTTP_CLOUD, MQTT_BATCH, MQTT_SINGLE, Floats, Ints, Nameplate, Roster
from unisono.sim.spec import WorldSpec

CLOUD_VENDORS = ("helianthe", "nordvolt", "calorix", "ampel", "watten", "joulia")
GATEWAY_VENDORS = ("gridbox", "homelink", "siteport")
CARRIERS = ("fibre-a", "cable-b", "lte-a", "lte-b")
# Devices of one MQTT gateway: a gateway serves a few neighbouring homes.
DEVICES_PER_GATEWAY = 8
# Who has one has the other: factor on the chance that a home with PV, or with a car, gets the device too
# (four in five home batteries stand beside PV: LBNL, Tracking the Sun 2023).
WITH_PV = {Technology.BESS: 6.0, Technology.EVSE: 2.0, Technology.EV: 2.5, Technology.THERMOSTAT: 1.3}
COMMERCIAL = (Technology.FLEX_LOAD, Technology.CHP)
TTL_MQTT_S, TTL_CLOUD_S = 60.0, 240.0


def build_roster(spec: WorldSpec) -> Roster:
    """Return the region's devices, sites and gateways."""
    spec = spec.check()
    rng = np.random.default_rng([spec.seed, 1])
    counts = _counts(spec)
    n_devices, n_sites = spec.n_devices, spec.site_count()
    places = choose_places(rng, n_sites, spec.n_states)
    size_of_site = np.clip(rng.lognormal(0.0, 0.25, n_sites), 0.5, 2.0)
    technology = np.repeat([int(t) for t in counts], list(counts.values())).astype(np.int8)
    site_of_row = _place_devices(rng, counts, n_sites)
    nameplate = _nameplate(rng, counts, size_of_site[site_of_row])
    cloud = _clouds(rng, technology, spec)
    gateway_of_row, kind, cloud_of_gateway = _gateways(rng, site_of_row, cloud, spec)
    is_cloud = cloud >= 0
    ends = np.cumsum(list(counts.values()))
    rows_of = {t: slice(int(end - n), int(end)) for (t, n), end in zip(counts.items(), ends, strict=True)}
    single = kind[gateway_of_row] == MQTT_SINGLE
    export_limit, import_limit = _site_limits(rng, nameplate, site_of_row, n_sites, spec)
    makers = _vendors(rng, cloud)
    return Roster(
        rows_of=rows_of,
        technology=technology,
        key=keys_of(spec.seed, n_devices, 2),
        site_of_row=site_of_row,
        zone_of_row=places.zone_of_site[site_of_row],
        gateway_of_row=gateway_of_row,
        vendor=makers,
        nameplate=nameplate,
        telemetry_period_s=_periods(
            rng, is_cloud, single, gateway_of_row, kind.size, cloud_period_s=spec.cloud_period_s
        ),
        command_latency_s=np.where(is_cloud, 45.0, 1.0),
        command_ttl_s=np.where(is_cloud, TTL_CLOUD_S, TTL_MQTT_S),
        is_opted_out=rng.random(n_devices) < spec.declared_opt_out_frac,
        places=places,
        size_of_site=size_of_site,
        export_limit_w=export_limit,
        import_limit_w=import_limit,
        gateway_kind=kind,
        cloud_of_gateway=cloud_of_gateway,
        carrier_of_gateway=tuple(CARRIERS[int(c)] for c in rng.integers(0, len(CARRIERS), kind.size)),
        gateway_vendor=_vendors(rng, cloud_of_gateway),
    )


def _counts(spec: WorldSpec) -> dict[Technology, int]:
    """Return devices by technology that add up exactly (largest remainders)."""
    wanted = {t: spec.n_devices * share for t, share in spec.shares.items()}
    counts = {t: int(w) for t, w in wanted.items()}
    by_remainder = sorted(wanted, key=lambda t: (counts[t] - wanted[t], t))
    for t in by_remainder[: spec.n_devices - sum(counts.values())]:
        counts[t] += 1
    return dict(sorted(counts.items()))


def _place_devices(rng: np.random.Generator, counts: dict[Technology, int], n_sites: int) -> Ints:
    """Return each device's site: few sites are commercial; at most one device of a kind a home, where there is room."""
    n_business = min(n_sites, max(1, sum(counts.get(t, 0) for t in COMMERCIAL)))
    homes = np.arange(n_business, n_sites) if n_sites > n_business else np.arange(n_sites)
    has_pv = np.zeros(n_sites, bool)
    parts: dict[Technology, NDArray[np.int64]] = {}
    for t in sorted(counts, key=lambda t: t != Technology.PV):
        if t in COMMERCIAL:
            parts[t] = (
                rng.integers(0, n_business, counts[t])
                if counts[t] > n_business
                else rng.permutation(n_business)[: counts[t]]
            )
            continue
        weight = rng.random(homes.size) ** 0.5 * np.where(has_pv[homes], WITH_PV.get(t, 1.0), 1.0)
        # Weighted choice without replacement: the largest of u^(1/w) (Efraimidis, Spirakis 2006).
        order = np.argsort(-(rng.random(homes.size) ** (1.0 / np.maximum(weight, 1e-9))), kind="stable")
        parts[t] = homes[order[np.arange(counts[t]) % homes.size]]
        if t == Technology.PV:
            has_pv[parts[t]] = True
    return np.concatenate([parts[t] for t in counts]).astype(np.int32)


def _nameplate(rng: np.random.Generator, counts: dict[Technology, int], size: Floats) -> Nameplate:
    columns = {name: np.full(size.size, missing) for name, missing in DEFAULTS.items()}
    at = 0
    for t, n in counts.items():
        for name, values in DRAW_OF_TECHNOLOGY[t](rng, size[at : at + n]).items():
            columns[name][at : at + n] = values
        at += n
    is_on_off = columns.pop("is_on_off") > 0.0
    return Nameplate(is_on_off=is_on_off, **columns)


def _clouds(rng: np.random.Generator, technology: NDArray[np.int8], spec: WorldSpec) -> Ints:
    """Return each device's vendor cloud or -1; only home devices are behind one."""
    cloud = np.full(technology.size, -1, np.int32)
    homes = np.flatnonzero(~np.isin(technology, [int(t) for t in COMMERCIAL]))
    each = min(round(spec.cloud_device_frac * technology.size), homes.size // max(1, spec.n_clouds))
    chosen = rng.permutation(homes)[: each * spec.n_clouds]
    cloud[chosen] = np.arange(chosen.size) % max(1, spec.n_clouds)
    return cloud


def _gateways(
    rng: np.random.Generator, site_of_row: Ints, cloud: Ints, spec: WorldSpec
) -> tuple[Ints, NDArray[np.int8], Ints]:
    """Return (gateway of each row, kind and cloud of each gateway): MQTT gateways first, then the clouds."""
    local = np.flatnonzero(cloud < 0)
    n_wanted = max(1, min(spec.n_gateways_max, -(-local.size // DEVICES_PER_GATEWAY)))
    n_single = min(int(spec.single_gateway_frac * n_wanted), local.size // 10)
    n_shared = max(1, n_wanted - n_single)
    gateway_of_row = np.full(cloud.size, -1, np.int64)
    singles = rng.permutation(local)[:n_single]
    gateway_of_row[singles] = n_shared + np.arange(singles.size)
    shared = local[gateway_of_row[local] < 0]
    # Neighbouring sites share a gateway; numbers that stay empty are closed up.
    sites, site_rank = np.unique(site_of_row[shared], return_inverse=True)
    gateway_of_row[shared] = site_rank.reshape(-1) * n_shared // max(1, sites.size)
    used, gateway_of_row[local] = np.unique(gateway_of_row[local], return_inverse=True)
    n_mqtt = used.size
    kind = np.full(n_mqtt + spec.n_clouds, HTTP_CLOUD, np.int8)
    kind[:n_mqtt] = np.where(used >= n_shared, MQTT_SINGLE, MQTT_BATCH)
    gateway_of_row[cloud >= 0] = n_mqtt + cloud[cloud >= 0]
    cloud_of_gateway = np.full(kind.size, -1, np.int32)
    cloud_of_gateway[n_mqtt:] = np.arange(spec.n_clouds)
    return gateway_of_row.astype(np.int32), kind, cloud_of_gateway


def _periods(
    rng: np.random.Generator,
    is_cloud: NDArray[np.bool_],
    single: NDArray[np.bool_],
    gateway_of_row: Ints,
    n_gateways: int,
    *,
    cloud_period_s: tuple[float, ...],
) -> Floats:
    """Return telemetry periods: one a gateway (most 10 s); a cloud's devices slower, singles as fast as 2 s."""
    of_gateway = rng.choice([5.0, 10.0, 20.0, 30.0, 60.0], n_gateways, p=[0.08, 0.67, 0.12, 0.08, 0.05])
    of_single = rng.choice([2.0, 5.0, 10.0], is_cloud.size)
    of_cloud = rng.choice(cloud_period_s, is_cloud.size)
    period: Floats = np.where(is_cloud, of_cloud, np.where(single, of_single, of_gateway[gateway_of_row]))
    return period


def _site_limits(
    rng: np.random.Generator, nameplate: Nameplate, site_of_row: Ints, n_sites: int, spec: WorldSpec
) -> tuple[Floats, Floats]:
    """Return export (>= 0) and import (<= 0) limits: room for all devices, less at a few sites."""
    most = np.bincount(site_of_row, nameplate.power_max_w, n_sites)
    least = np.bincount(site_of_row, nameplate.power_min_w, n_sites)
    share = np.where(rng.random(n_sites) < spec.limited_site_frac, rng.uniform(0.6, 0.9, n_sites), 1.0)
    # 200 A at 240 V is 48 kW: what a home's service carries in any case (NEC 230.79 sets 100 A as the least).
    return np.ceil(most * share / 100.0) * 100.0, np.minimum(-48_000.0, np.floor(least / 100.0) * 100.0)


def _vendors(rng: np.random.Generator, cloud: Ints) -> tuple[str, ...]:
    """Return a maker for each device (or gateway): the cloud's own, else one of those that speak for themselves."""
    other = rng.integers(0, len(GATEWAY_VENDORS), cloud.size)
    return tuple(
        CLOUD_VENDORS[int(c) % len(CLOUD_VENDORS)] if c >= 0 else GATEWAY_VENDORS[int(o)]
        for c, o in zip(cloud, other, strict=True)
    )
