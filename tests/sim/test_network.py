from __future__ import annotations

import numpy as np
import pytest

from unisono.base.instants import NS_PER_S
from unisono.sim.build import build_roster
from unisono.sim.network import ColumnQueue, Network
from unisono.sim.spec import NetworkSpec, WorldSpec

START_NS = 1_795_215_600 * NS_PER_S


def network(**spec: float) -> Network:
    world = WorldSpec(seed=4, n_devices=1000, network=NetworkSpec(**spec))  # type: ignore[arg-type]
    return Network(world, build_roster(world), START_NS)


def test_a_queue_gives_back_what_is_due_in_order_of_arrival() -> None:
    queue = ColumnQueue(1)
    queue.push(np.array([[1, 2, 3]]), np.zeros(3), np.array([30, 10, 20]))
    queue.push(np.array([[4]]), np.zeros(1), np.array([10]))
    taken, _, due = queue.pop_due(20)
    assert taken[0].tolist() == [2, 4, 3]
    assert due.tolist() == [10, 10, 20]
    assert len(queue) == 1
    assert queue.pop_due(25)[0].shape == (1, 0)


def test_what_one_gateway_is_sent_at_once_shares_its_fate() -> None:
    net = network(loss_frac=0.3, duplicate_frac=0.2)
    gateway = np.repeat(np.arange(60), 5)
    at, due = net.to_gateways(gateway, START_NS)
    times = np.bincount(at, minlength=300).reshape(60, 5)
    assert (times == times[:, :1]).all()
    assert {0, 1, 2} == set(times[:, 0].tolist()), "lost, brought, doubled"
    assert (due > START_NS).all()


def test_latency_is_mostly_short_and_sometimes_long_enough_to_be_overtaken() -> None:
    latency_s = network(reorder_frac=0.05).travel_s(10_000)
    assert np.median(latency_s) == pytest.approx(0.12, rel=0.1)
    assert 300 < (latency_s > 1.0).sum() < 700
    assert latency_s.max() <= 8.0


def test_a_cloud_fetches_at_its_own_polls_and_loses_nothing() -> None:
    net = network(loss_frac=1.0)
    clouds = np.flatnonzero(net._is_cloud)
    assert clouds.size == 3
    at, due = net.to_gateways(clouds, START_NS)
    assert sorted(at.tolist()) == [0, 1, 2]
    assert (due - START_NS <= 67 * NS_PER_S).all()
    first = net.next_poll_ns(clouds, np.full(3, START_NS))
    np.testing.assert_allclose((net.next_poll_ns(clouds, first + 1) - first) / NS_PER_S, [30.0, 45.0, 60.0])


def test_gateways_go_away_now_and_then_and_all_come_back() -> None:
    net = network(gateway_outage_interval_h=1.0)
    away: set[int] = set()
    n_gone = 0
    for k in range(1, 900):
        gone, back = net.outages(START_NS + 4 * k * NS_PER_S)
        assert away >= set(back.tolist())
        away = (away - set(back.tolist())) | set(gone.tolist())
        n_gone += gone.size
    assert 40 < n_gone < 140, "about once an hour each"
    assert len(away) < 10
