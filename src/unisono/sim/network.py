"""The way between devices and the platform, for the movable clock: latency, loss, duplicates, reordering, outages.

Messages are columns with an instant at which they arrive. A frame is lost, doubled or held back as a whole: whatever
one gateway is sent at one time shares its fate. Vendor clouds fetch their commands every 30-60 s.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_S
from unisono.sim import leases
from unisono.sim.chance import keys_of
from unisono.sim.roster import Floats, Roster
from unisono.sim.spec import WorldSpec

Whole = NDArray[np.int64]

# A vendor cloud passes a command on to its device some seconds after it has fetched it.
CLOUD_PASSES_ON_S = (1.0, 6.0)


class ColumnQueue:
    """Messages under way: whole-number columns and watts, taken out in order of arrival."""

    def __init__(self, n_columns: int) -> None:
        self._columns: Whole = np.zeros((n_columns, 0), np.int64)
        self._values: Floats = np.zeros(0)
        self._due_ns: Whole = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return int(self._due_ns.size)

    def push(self, columns: Whole, values: Floats, due_ns: Whole) -> None:
        """Add messages that arrive at ``due_ns``."""
        if due_ns.size:
            self._columns = np.hstack([self._columns, columns])
            self._values = np.concatenate([self._values, values])
            self._due_ns = np.concatenate([self._due_ns, due_ns])

    def pop_due(self, now_ns: int) -> tuple[Whole, Floats, Whole]:
        """Take out (columns, values, due_ns) of what has arrived by now, the earliest first."""
        is_due = self._due_ns <= now_ns
        if not is_due.any():
            return self._columns[:, :0], self._values[:0], self._due_ns[:0]
        order = np.flatnonzero(is_due)[np.argsort(self._due_ns[is_due], kind="stable")]
        taken = self._columns[:, order], self._values[order], self._due_ns[order]
        keep = ~is_due
        self._columns, self._values, self._due_ns = self._columns[:, keep], self._values[keep], self._due_ns[keep]
        return taken


class Network:
    """Draws what happens to each message; one seed and the same calls give the same network."""

    def __init__(self, spec: WorldSpec, roster: Roster, start_ns: int) -> None:
        self.spec = spec.network
        self._roster = roster
        self._rng = np.random.default_rng([spec.seed, 8])
        self._start_ns = start_ns
        n = roster.n_gateways
        self._is_cloud = roster.cloud_of_gateway >= 0
        polls = np.array(self.spec.cloud_poll_s)
        self._poll_s = polls[np.maximum(roster.cloud_of_gateway, 0) % polls.size]
        self._poll_phase_s = np.random.default_rng([spec.seed, 9]).random(n) * self._poll_s
        self._outage_key = keys_of(spec.seed, n, 10)
        self._outage_until_ns: Whole = np.zeros(n, np.int64)
        self._minute = start_ns // (60 * NS_PER_S)

    def travel_s(self, n: int) -> Floats:
        """Return latencies of ``n`` messages: lognormal, as seen on residential access networks."""
        latency = self.spec.latency_median_s * np.exp(0.5 * self._rng.standard_normal(n))
        late = self._rng.random(n) < self.spec.reorder_frac
        latency[late] += self._rng.uniform(1.0, self.spec.latency_max_s, int(late.sum()))
        return np.minimum(latency, self.spec.latency_max_s)

    def to_gateways(self, gateway: Whole, now_ns: int) -> tuple[NDArray[np.intp], Whole]:
        """Return (positions that arrive, their instants) of messages to ``gateway``; a doubled one appears twice."""
        involved, frame = np.unique(gateway, return_inverse=True)
        frame = frame.reshape(-1)
        due = now_ns + (self.travel_s(involved.size) * NS_PER_S).astype(np.int64)
        cloud = self._is_cloud[involved]
        due[cloud] = self.next_poll_ns(involved[cloud], due[cloud])
        arrives = (self._rng.random(involved.size) >= self.spec.loss_frac) | cloud
        doubles = arrives & (self._rng.random(involved.size) < self.spec.duplicate_frac)
        first = np.flatnonzero(arrives[frame])
        second = np.flatnonzero(doubles[frame])
        due_first = due[frame[first]]
        passed_on = self._is_cloud[gateway[first]]
        due_first[passed_on] += (self._rng.uniform(*CLOUD_PASSES_ON_S, int(passed_on.sum())) * NS_PER_S).astype(
            np.int64
        )
        due_second = due[frame[second]] + round(2.5 * NS_PER_S)
        return np.concatenate([first, second]), np.concatenate([due_first, due_second])

    def next_poll_ns(self, gateway: Whole, after_ns: Whole) -> Whole:
        """Return the first poll of each vendor cloud at or after an instant."""
        since_s = (after_ns - self._start_ns) / NS_PER_S - self._poll_phase_s[gateway]
        polls = np.ceil(since_s / self._poll_s[gateway]) * self._poll_s[gateway] + self._poll_phase_s[gateway]
        at: Whole = self._start_ns + np.ceil(polls * NS_PER_S).astype(np.int64)
        return at

    def outages(self, now_ns: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return (gateways that have just gone, gateways that have just come back), looked at once a minute."""
        minute = now_ns // (60 * NS_PER_S)
        back = np.flatnonzero((self._outage_until_ns > 0) & (self._outage_until_ns <= now_ns))
        self._outage_until_ns[back] = 0
        gone = np.zeros(0, np.intp)
        if minute != self._minute and self.spec.gateway_outage_interval_h > 0.0:
            self._minute = minute
            chance = 1.0 / (60.0 * self.spec.gateway_outage_interval_h)
            gone = np.flatnonzero(
                (self._rng.random(self._is_cloud.size) < chance) & ~self._is_cloud & (self._outage_until_ns == 0)
            )
            length_s = self._rng.uniform(0.1, 1.0, gone.size) * self.spec.gateway_outage_s
            self._outage_until_ns[gone] = now_ns + (length_s * NS_PER_S).astype(np.int64)
        return gone, back

    def fate_of_readings(self, n: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return (lost, doubled, held back) for each of ``n`` readings."""
        draw = self._rng.random(n)
        lost = draw < self.spec.loss_frac
        doubled = ~lost & (draw < self.spec.loss_frac + self.spec.duplicate_frac)
        held = ~lost & ~doubled & (draw < self.spec.loss_frac + self.spec.duplicate_frac + self.spec.reorder_frac)
        return lost, doubled, held

    def held_s(self, n: int) -> Floats:
        """Return how long ``n`` held-back readings are late."""
        return self._rng.uniform(2.0, 2.0 * self.spec.latency_max_s, n)


class SteadyNetwork(Network):
    """The same ways without their chances: each message arrives once, after the median latency.

    Clouds still fetch at their pace, and gateways still lose their connection. What one message meets does not depend
    on how many others there are, so that two regions which are told the same things in other words stay the same.
    """

    def travel_s(self, n: int) -> Floats:
        """Return the median latency ``n`` times."""
        return np.full(n, self.spec.latency_median_s)

    def to_gateways(self, gateway: Whole, now_ns: int) -> tuple[NDArray[np.intp], Whole]:
        """Return all positions and their instants."""
        due = np.full(gateway.size, now_ns + round(self.spec.latency_median_s * NS_PER_S), np.int64)
        cloud = self._is_cloud[gateway]
        due[cloud] = self.next_poll_ns(gateway[cloud], due[cloud]) + round(CLOUD_PASSES_ON_S[0] * NS_PER_S)
        return np.arange(gateway.size), due

    def fate_of_readings(self, n: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return that none is lost, doubled or held back."""
        return np.zeros(n, np.bool_), np.zeros(n, np.bool_), np.zeros(n, np.bool_)


class Retained:
    """The last command to each device, as a broker or a gateway keeps it, and brings it again after an outage."""

    def __init__(self, n_devices: int) -> None:
        self._command: Whole = np.full((leases.N_COMMAND, n_devices), -1, np.int64)
        self._value_w: Floats = np.zeros(n_devices)

    def keep(self, command: Whole, value_w: Floats) -> None:
        """Remember commands that were sent; later ones win."""
        rows = command[leases.C_ROW]
        self._command[:, rows] = command
        self._value_w[rows] = value_w

    def of_rows(self, rows: Whole) -> tuple[Whole, Floats]:
        """Return what is kept for ``rows`` (fewer where nothing is)."""
        known = rows[self._command[leases.C_ROW, rows] >= 0]
        return self._command[:, known].copy(), self._value_w[known]
