"""Connection points: the devices of a site share what its limits leave.

For export each device counts with the most it may come to by itself before we hear of it: PV in daylight with its
rating, a running load with 0 (it may stop at any moment, told or not), another device that was told something with
that, if it is more than what it does now. Import is counted the other way round, but for loads that may start: those
are held back by their own controls. What is left of the limit goes to those who could add, in proportion; if nothing
is left, nobody adds, and those who were told to feed in take back their part of the excess.
"""

from __future__ import annotations

import math
from typing import Final

from unisono.base.kernel import index, part
from unisono.fleet.columns import Leases, Nameplate, Picture, Sites

_PV: Final = 1
# Below this clear-sky irradiance on the horizontal plane the sun is as good as down. Above it an array may come to its
# rating: planes that face a low sun, and the edges of clouds, give far more than a horizontal plane would.
DARK_W_PER_M2: Final = 20.0


@part
def unheard_w(row: int, nameplate: Nameplate, picture: Picture) -> float:
    """Return what a device that was never heard may feed in by itself: an array in daylight its rating."""
    is_dark = picture.clear_sky_w_per_m2[row] < DARK_W_PER_M2
    return float(nameplate.power_max_w[row]) if nameplate.technology[row] == _PV and not is_dark else 0.0


@part
def _most_w(row: int, at_w: float, nameplate: Nameplate, picture: Picture, leases: Leases) -> float:
    """Return the most power that the device may come to without hearing from us again."""
    if nameplate.power_max_w[row] <= 0.0:
        return max(at_w, 0.0)
    if leases.state[row] == 1:
        return max(at_w, float(leases.setpoint_w[row]))
    is_dark = picture.clear_sky_w_per_m2[row] < DARK_W_PER_M2
    if nameplate.technology[row] == _PV and not is_dark:
        return max(at_w, float(nameplate.power_max_w[row]))
    return at_w


@part
def _least_w(row: int, at_w: float, nameplate: Nameplate, leases: Leases) -> float:
    """Return the least power that the device may come to without hearing from us again."""
    if leases.state[row] == 1:
        return min(at_w, float(leases.setpoint_w[row]))
    return min(at_w, 0.0) if nameplate.technology[row] == _PV else at_w


@part
def _share(could_w: float, all_could_w: float, room_w: float) -> float:
    """Return the device's part of the room left at its connection point."""
    return could_w if all_could_w <= room_w else could_w * room_w / all_could_w


@part
def _cap(row: int, site: int, at_w: float, most_w: float, sites: Sites, picture: Picture, leases: Leases) -> None:
    """Lower the row's high_w to its part of the site's export limit."""
    room_w = sites.export_limit_w[site] - sites.high_w[site]
    high_w = float(picture.high_w[row])
    if room_w >= 0.0:
        if sites.up_w[site] > room_w and high_w > most_w:
            picture.high_w[row] = most_w + _share(high_w - most_w, sites.up_w[site], room_w)
    elif leases.state[row] == 1 and leases.setpoint_w[row] > 0.0:
        told_w = float(leases.setpoint_w[row])
        picture.high_w[row] = min(high_w, max(0.0, told_w + room_w * told_w / sites.told_up_w[site]))
    else:
        picture.high_w[row] = min(high_w, at_w)
    picture.low_w[row] = min(picture.low_w[row], picture.high_w[row])


@part
def _floor(row: int, site: int, at_w: float, least_w: float, sites: Sites, picture: Picture, leases: Leases) -> None:
    """Raise the row's low_w to its part of the site's import limit."""
    room_w = sites.low_w[site] - sites.import_limit_w[site]
    low_w = float(picture.low_w[row])
    if room_w >= 0.0:
        if sites.down_w[site] > room_w and low_w < least_w:
            picture.low_w[row] = least_w - _share(least_w - low_w, sites.down_w[site], room_w)
    elif leases.state[row] == 1 and leases.setpoint_w[row] < 0.0:
        told_w = float(leases.setpoint_w[row])
        picture.low_w[row] = max(low_w, min(0.0, told_w - room_w * told_w / sites.told_down_w[site]))
    else:
        picture.low_w[row] = max(low_w, at_w)
    picture.high_w[row] = max(picture.low_w[row], picture.high_w[row])


@part
def share_sites(n: int, n_sites: int, sites: Sites, nameplate: Nameplate, picture: Picture, leases: Leases) -> None:
    """Narrow high_w and low_w of ``n`` devices to what their ``n_sites`` connection points leave."""
    for site in range(n_sites):
        sites.high_w[site] = 0.0
        sites.low_w[site] = 0.0
        sites.up_w[site] = 0.0
        sites.down_w[site] = 0.0
        sites.told_up_w[site] = 0.0
        sites.told_down_w[site] = 0.0
    for row in range(n):
        at_w = float(leases.expected_w[row])
        site = index(nameplate.site[row])
        if math.isnan(at_w):
            sites.high_w[site] += unheard_w(row, nameplate, picture)
            continue
        most_w = _most_w(row, at_w, nameplate, picture, leases)
        least_w = _least_w(row, at_w, nameplate, leases)
        sites.high_w[site] += most_w
        sites.low_w[site] += least_w
        sites.up_w[site] += max(0.0, picture.high_w[row] - most_w)
        sites.down_w[site] += max(0.0, least_w - picture.low_w[row])
        if leases.state[row] == 1:
            sites.told_up_w[site] += max(0.0, float(leases.setpoint_w[row]))
            sites.told_down_w[site] += min(0.0, float(leases.setpoint_w[row]))
    for row in range(n):
        at_w = float(leases.expected_w[row])
        if math.isnan(at_w):
            continue
        site = index(nameplate.site[row])
        if math.isfinite(sites.export_limit_w[site]):
            most_w = _most_w(row, at_w, nameplate, picture, leases)
            _cap(row, site, at_w, most_w, sites, picture, leases)
        if math.isfinite(sites.import_limit_w[site]):
            least_w = _least_w(row, at_w, nameplate, leases)
            _floor(row, site, at_w, least_w, sites, picture, leases)
