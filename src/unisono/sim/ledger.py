"""The truth: what really happened, kept by the simulator for judging the platform, and never shown to it.

Per 4 s interval the true power and the undispatched twins' power; every command that was acted on; and every broken
invariant, checked on what devices did, not on what their own logic thinks.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import MISSING_NS, NS_PER_S
from unisono.model.technology import AckCode, Technology
from unisono.sim import leases
from unisono.sim.physics import battery
from unisono.sim.roster import Floats, Roster
from unisono.sim.world import World

Whole = NDArray[np.int64]

INTERVAL_S: Final = 4
# A lease may outlive its ttl by the drift of the device's clock and one step of the region.
GRACE_FRAC: Final = 0.001
GRACE_NS: Final = NS_PER_S
VIOLATIONS: Final = (
    "beyond_limits",
    "below_reserve",
    "opted_out_moved",
    "acted_after_expiry",
    "began_after_expiry",
    "old_epoch_obeyed",
    "site_export_exceeded",
)
# A site's export may pass its limit by this share, and for this long, before it counts: power control systems have
# 30 s to bring it back (UL 1741, certification requirement decision for power control systems).
SITE_SLACK_FRAC: Final = 0.02
SITE_GRACE_S: Final = 30.0
LISTED_MAX: Final = 200


class Ledger:
    """Sums and lists that grow; ``summary`` is what a report needs."""

    def __init__(self, roster: Roster, start_ns: int) -> None:
        self._roster = roster
        self.start_ns = start_ns
        self.misbehaves_from_ns = MISSING_NS
        n = roster.n_devices
        self.was_called: NDArray[np.bool_] = np.zeros(n, bool)
        # Watt-seconds in the open interval: all true, all twins, called true, called twins, delivered by technology.
        self._open: Floats = np.zeros(4 + len(Technology) + 1)
        self._open_s = 0.0
        self._open_index = start_ns // (INTERVAL_S * NS_PER_S)
        self._intervals: list[tuple[int, Floats]] = []
        self._event_chunks: list[Whole] = []
        self.delivered_wh: Floats = np.zeros(n)
        self.n_commands_by_code: Whole = np.zeros(256, np.int64)
        self.n_renewals = 0
        self.counters: dict[str, int] = {}
        self.violations: list[dict[str, Any]] = []
        self.n_violations: dict[str, int] = dict.fromkeys(VIOLATIONS, 0)
        self._over_since_s: Floats = np.zeros(roster.size_of_site.size)
        self._flagged: dict[str, NDArray[np.bool_]] = {name: np.zeros(n, bool) for name in VIOLATIONS}
        self._delta: Floats = np.zeros(n)
        self._low = roster.nameplate.power_min_w * 1.005 - 1.0
        self._high = roster.nameplate.power_max_w * 1.005 + 1.0

    def note_commands(self, command: Whole, code: NDArray[np.uint8]) -> None:
        """Count received commands by what was answered."""
        assert command.shape[1] == code.size, "one answer a command"
        self.n_commands_by_code += np.bincount(code, minlength=256)

    def count(self, name: str, n: int = 1) -> None:
        """Add to a named counter (readings sent, readings acknowledged...)."""
        self.counters[name] = self.counters.get(name, 0) + n

    def note_events(self, event: Whole, newest_epoch: Whole) -> None:
        """Keep begun and ended leases; check those that began, by the newest epoch that each one's gateway has seen."""
        if event.shape[1] == 0:
            return
        self._event_chunks.append(event.copy())
        is_begun = event[leases.E_WHAT] == leases.BEGAN
        began = event[:, is_begun]
        rows = began[leases.E_ROW]
        self.was_called[rows] = True
        late = began[leases.E_AT_NS] > began[leases.E_EXPIRES_NS] + GRACE_NS + INTERVAL_S * NS_PER_S
        self._flag("began_after_expiry", rows[late], began[leases.E_AT_NS][late])
        old = began[leases.E_EPOCH] < newest_epoch[is_begun]
        self._flag("old_epoch_obeyed", rows[old], began[leases.E_AT_NS][old])

    def observe(
        self, now_ns: int, mono_ns: int, step_s: float, world: World, *, lease: Whole, trait: NDArray[np.uint8]
    ) -> None:
        """Take the meters' word for the step that ended at ``now_ns`` and check every invariant."""
        if step_s <= 0.0:
            return
        power, twin = world.power_w, world.twin_w
        self._roll((now_ns - round(0.5 * step_s * NS_PER_S)) // (INTERVAL_S * NS_PER_S))
        np.subtract(power, twin, out=self._delta)
        self._open[0] += power.sum() * step_s
        self._open[1] += twin.sum() * step_s
        self._open_s += step_s
        if self.was_called.any():
            self._open[2] += power[self.was_called].sum() * step_s
            self._open[3] += twin[self.was_called].sum() * step_s
            for t, rows in self._roster.rows_of.items():
                self._open[4 + int(t)] += self._delta[rows].sum() * step_s
            self.delivered_wh += self._delta * (step_s / 3600.0)
        self._check(now_ns, mono_ns, step_s, world, lease=lease, trait=trait)

    def summary(self) -> dict[str, Any]:
        """Return everything but the open interval as plain JSON values: nanoseconds, watts, watt-hours."""
        stack = np.array([values for _, values in self._intervals]).reshape(-1, 4 + len(Technology) + 1)
        power, twin = stack[:, 0], stack[:, 1]
        events = self.events()
        began = events[leases.E_WHAT] == leases.BEGAN
        return {
            "start_ns": self.start_ns,
            "misbehaves_from_ns": self.misbehaves_from_ns,
            "n_devices": self._roster.n_devices,
            "n_called": int(self.was_called.sum()),
            "interval_s": INTERVAL_S,
            "interval_start_ns": [index * INTERVAL_S * NS_PER_S for index, _ in self._intervals],
            "power_w": power.round(1).tolist(),
            "twin_w": twin.round(1).tolist(),
            "called_power_w": stack[:, 2].round(1).tolist(),
            "called_twin_w": stack[:, 3].round(1).tolist(),
            "delivered_w": (power - twin).round(1).tolist(),
            "delivered_w_by_technology": {
                t.asset_type: stack[:, 4 + int(t)].round(1).tolist() for t in sorted(self._roster.rows_of)
            },
            "by_technology": self._shares([Technology(int(t)).asset_type for t in self._roster.technology]),
            "by_vendor": self._shares(list(self._roster.vendor)),
            "n_commands_by_answer": {
                ("no_answer" if code == leases.NO_ANSWER else AckCode(int(code)).name.lower()): int(
                    self.n_commands_by_code[code]
                )
                for code in np.flatnonzero(self.n_commands_by_code)
            },
            "n_renewals": self.n_renewals,
            "n_acted": int(began.sum()),
            "n_expired": int((events[leases.E_WHAT] == leases.EXPIRED).sum()),
            "n_released": int((events[leases.E_WHAT] == leases.RELEASED).sum()),
            "counters": dict(sorted(self.counters.items())),
            "n_violations": dict(self.n_violations),
            "violations": self.violations,
            "every_invariant_held": not any(self.n_violations.values()),
        }

    def events(self) -> Whole:
        """Return every begun and ended lease (``leases.E_*`` columns)."""
        return np.hstack(self._event_chunks) if self._event_chunks else np.zeros((leases.N_EVENT, 0), np.int64)

    def delivered_w_between(self, start_ns: int, end_ns: int) -> Floats:
        """Return true delivered power of each closed interval that lies in [start_ns, end_ns)."""
        span = INTERVAL_S * NS_PER_S
        return np.array(
            [v[0] - v[1] for index, v in self._intervals if start_ns <= index * span and (index + 1) * span <= end_ns]
        )

    def _shares(self, names: list[str]) -> dict[str, dict[str, float]]:
        """Return devices, called devices and delivered energy by name; ``names`` has one a row."""
        shares: dict[str, dict[str, float]] = {}
        for name, called, energy in zip(names, self.was_called.tolist(), self.delivered_wh.tolist(), strict=True):
            share = shares.setdefault(name, {"n_devices": 0, "n_called": 0, "delivered_wh": 0.0})
            share["n_devices"] += 1
            share["n_called"] += called
            share["delivered_wh"] += energy
        return dict(sorted(shares.items()))

    def _roll(self, index: int) -> None:
        if index != self._open_index:
            self._close()
            self._open_index = index

    def _close(self) -> None:
        if self._open_s > 0.0:
            self._intervals.append((self._open_index, self._open / self._open_s))
        self._open = np.zeros_like(self._open)
        self._open_s = 0.0

    def _check(
        self, now_ns: int, mono_ns: int, step_s: float, world: World, *, lease: Whole, trait: NDArray[np.uint8]
    ) -> None:
        beyond = (world.power_w > self._high) | (world.power_w < self._low)
        if beyond.any():
            self._flag("beyond_limits", np.flatnonzero(beyond), now_ns)
        is_acting = ~np.isnan(world.commanded_w)
        if not is_acting.any():
            return
        rows = np.flatnonzero(is_acting)
        falls_back = lease[leases.IS_HELD, rows] == 0
        out_of_lease = (
            mono_ns - step_s * NS_PER_S
            > lease[leases.GRANTED_NS, rows] + lease[leases.TTL_NS, rows] * (1 + GRACE_FRAC) + GRACE_NS
        )
        # Zero power or hold after the end of a lease is the fallback that the command itself asked for.
        asked = falls_back & (lease[leases.FALLBACK, rows] != 0)
        late = out_of_lease & ~asked
        self._flag("acted_after_expiry", rows[late], now_ns)
        opted_out = self._roster.is_opted_out[rows] | ((trait[rows] & leases.OPTS_OUT) > 0)
        moved = np.abs(self._delta[rows]) > 50.0
        self._flag("opted_out_moved", rows[opted_out & moved], now_ns)
        if Technology.BESS in self._roster.rows_of:
            self._check_reserve(now_ns, world)
        self._check_sites(now_ns, step_s, world, is_acting)

    def _check_reserve(self, now_ns: int, world: World) -> None:
        slice_ = self._roster.rows_of[Technology.BESS]
        fixed, soc = world.fixed[Technology.BESS], world.state[Technology.BESS][battery.SOC, 0]
        low = (soc < fixed[battery.RESERVE] - 0.005) & (world.power_w[slice_] > 50.0)
        self._flag("below_reserve", np.flatnonzero(low) + slice_.start, now_ns)

    def _check_sites(self, now_ns: int, step_s: float, world: World, is_acting: NDArray[np.bool_]) -> None:
        """A site that a command drives beyond its export limit, for longer than the grace."""
        sites = self._roster.site_of_row
        n_sites = self._over_since_s.size
        pushes = np.bincount(sites, is_acting & (self._delta > 50.0), n_sites) > 0
        over = pushes & (
            np.bincount(sites, world.power_w, n_sites) > self._roster.export_limit_w * (1 + SITE_SLACK_FRAC) + 50.0
        )
        self._over_since_s = np.where(over, self._over_since_s + step_s, 0.0)
        worst = self._over_since_s > SITE_GRACE_S
        if worst.any():
            self._flag(
                "site_export_exceeded", np.flatnonzero(worst[sites] & is_acting & (world.power_w > 50.0)), now_ns
            )

    def _flag(self, name: str, rows: NDArray[Any], at_ns: int | Whole) -> None:
        """Count each device once a kind, list the first ones."""
        new = ~self._flagged[name][rows]
        if not new.any():
            return
        instants = np.broadcast_to(np.asarray(at_ns, np.int64), rows.shape)
        for row, instant in zip(rows[new], instants[new], strict=True):
            if len(self.violations) < LISTED_MAX:
                self.violations.append({"what": name, "row": int(row), "at_ns": int(instant)})
        self.n_violations[name] += int(np.unique(rows[new]).size)
        self._flagged[name][rows] = True
