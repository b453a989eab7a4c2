from __future__ import annotations

import math
import time

import msgspec
import pytest
from sqlalchemy import text
from tests.store.fleets import BATTERY, LIMITS, NOW_NS, batteries, enrol_batteries

from unisono.base.errors import Conflict, InvalidInput, NotFound
from unisono.model.dispatch import OptOutChange, decode_request
from unisono.model.ratings import Ratings
from unisono.model.registry import DeviceRecord, GatewayRecord, PortfolioRecord, RegistryRecord, decode_registry
from unisono.model.technology import Lifecycle, Technology
from unisono.store import device_records, devices, gateways, organisations, outbox, portfolios
from unisono.store.database import Database
from unisono.store.enrolment import NewDevice, enrol
from unisono.store.new_places import NewSite


def announced(database: Database) -> list[RegistryRecord]:
    with database.begin() as connection:
        rows = [row for row in outbox.waiting(connection, 1000) if row.subject.startswith("registry.")]
    return [record for row in rows for record in decode_registry(row.payload).everything()]


def test_five_thousand_devices_are_enrolled_and_announced(database: Database, organisation_id: str) -> None:
    begun = time.perf_counter()
    with database.begin() as connection:
        made = enrol_batteries(connection, organisation_id, 5000)
    print(f"5,000 devices enrolled in {time.perf_counter() - begun:.2f} s")  # noqa: T201 - a figure, not a verdict
    assert [one.device_no for one in made] == list(range(1, 5001))
    assert len({one.site_id for one in made}) == 2500
    assert len({one.gateway_id for one in made}) == 100
    records = announced(database)
    told = {record.device_no: record for record in records if isinstance(record, DeviceRecord)}
    assert told.keys() == set(range(1, 5001))
    assert len([record for record in records if isinstance(record, GatewayRecord)]) == 100
    first = told[1]
    assert (first.ratings, first.lifecycle, first.export_limit_w) == (BATTERY, Lifecycle.ACTIVE, 10_000.0)
    assert first.import_limit_w == -math.inf
    assert (first.vendor, first.node_path, first.revision) == ("acme", "pdx/sub-1", 1)
    assert (first.device_id, first.site_id) == (made[0].device_id, made[0].site_id)
    assert first.gateway_id == made[0].gateway_id


def test_an_enrolment_does_not_plan_the_check_of_each_foreign_key_anew(
    database: Database, organisation_id: str
) -> None:
    with database.begin() as connection:
        enrol_batteries(connection, organisation_id, 3)
        assert connection.execute(text("SHOW plan_cache_mode")).scalar_one() == "auto"
        # And none of those plans reads a table whole.
        assert connection.execute(text("SHOW enable_seqscan")).scalar_one() == "off"


def test_what_is_enrolled_again_stays_what_it_was(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        first = enrol_batteries(connection, organisation_id, 3)
    n_announced = len(announced(database))
    with database.begin() as connection:
        again = enrol(connection, organisation_id, [*batteries(4), batteries(4)[3]], NOW_NS + 1)
    assert [one.is_new for one in again] == [False, False, False, True, False]
    assert [one.device_no for one in again[:3]] == [one.device_no for one in first]
    # The fourth shares its site and gateway with the third; both are known.
    assert (again[3].site_id, again[3].gateway_id) == (first[2].site_id, first[2].gateway_id)
    assert again[4].device_no == again[3].device_no
    assert len(announced(database)) == n_announced + 1


def test_a_site_without_reference_is_shared_by_giving_the_same_object(database: Database, organisation_id: str) -> None:
    shared, alone = NewSite(zip="97214"), NewSite(zip="97214")
    new = [NewDevice(site=site, technology=Technology.PV, ratings=BATTERY) for site in (shared, shared, alone)]
    with database.begin() as connection:
        made = enrol(connection, organisation_id, new, NOW_NS)
        more = enrol(connection, organisation_id, [msgspec.structs.replace(new[0], site=made[0].site_id)], NOW_NS)
    assert made[0].site_id == made[1].site_id != made[2].site_id
    assert more[0].site_id == made[0].site_id
    assert made[0].gateway_id == ""


def test_a_bad_device_leaves_nothing_of_its_batch(database: Database, organisation_id: str) -> None:
    upside_down = Ratings(power_max_w=-1.0, power_min_w=1.0)
    bad = [*batteries(3), NewDevice(site=NewSite(), technology=Technology.BESS, ratings=upside_down)]
    with pytest.raises(InvalidInput, match="device_rating_power_check"), database.begin() as connection:
        enrol(connection, organisation_id, bad, NOW_NS)
    not_a_number = Ratings(power_max_w=math.nan, power_min_w=0.0)
    with pytest.raises(InvalidInput, match="power"), database.begin() as connection:
        strange = NewDevice(site=NewSite(), technology=Technology.BESS, ratings=not_a_number)
        enrol(connection, organisation_id, [strange], NOW_NS)
    assert announced(database) == []
    with database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM site")).scalar_one() == 0


def test_nobody_enrols_at_the_site_or_gateway_of_somebody_else(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        theirs = enrol_batteries(connection, organisation_id, 1)[0]
        us = organisations.add(connection, "Other", NOW_NS).organisation_id
    for site, gateway in ((theirs.site_id, None), (NewSite(), theirs.gateway_id)):
        new = NewDevice(site=site, gateway=gateway, technology=Technology.BESS, ratings=BATTERY)
        with pytest.raises(NotFound), database.begin() as connection:
            enrol(connection, us, [new], NOW_NS)
    with database.begin() as connection:
        ours = enrol_batteries(connection, us, 1)[0]
        assert ours.device_no != theirs.device_no, "references are each organisation's own"
        with pytest.raises(NotFound, match="device"):
            devices.set_lifecycle(connection, us, [theirs.device_id], Lifecycle.SUSPENDED, NOW_NS)
        with pytest.raises(NotFound, match="device"):
            portfolios.create(connection, us, "stolen", NOW_NS, device_nos=[theirs.device_no])


def test_a_life_goes_forward_and_is_announced_with_a_higher_revision(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        one, two = enrol_batteries(connection, organisation_id, 2)
        suspended = devices.set_lifecycle(
            connection, organisation_id, [one.device_id, two.device_id], Lifecycle.SUSPENDED, NOW_NS + 1
        )
    assert [(record.lifecycle, record.revision) for record in suspended] == [(Lifecycle.SUSPENDED, 2)] * 2
    assert announced(database)[-2:] == suspended
    with database.begin() as connection:
        assert devices.set_lifecycle(connection, organisation_id, [one.device_id], Lifecycle.SUSPENDED, NOW_NS) == []
        devices.set_lifecycle(connection, organisation_id, [one.device_id], Lifecycle.RETIRED, NOW_NS + 2)
        with pytest.raises(Conflict, match="is retired and can't become active"):
            ids = [two.device_id, one.device_id]
            devices.set_lifecycle(connection, organisation_id, ids, Lifecycle.ACTIVE, NOW_NS + 3)


def test_ratings_are_known_as_they_were(database: Database, organisation_id: str) -> None:
    derated = msgspec.structs.replace(BATTERY, power_max_w=4000.0)
    with database.begin() as connection:
        one = enrol_batteries(connection, organisation_id, 1)[0]
        before = devices.locked(connection, organisation_id, one.device_id, NOW_NS + 100)
        record = devices.change(connection, before, NOW_NS + 100, ratings=derated)
        assert (record.ratings, record.limits, record.revision) == (derated, LIMITS, 2)

        def power_at(at_ns: int, known_ns: int) -> float:
            return devices.ratings_at(connection, one.device_no, at_ns, known_ns)[0].power_max_w

        assert power_at(NOW_NS + 99, NOW_NS + 500) == 7600.0
        assert power_at(NOW_NS + 100, NOW_NS + 500) == 4000.0
        assert power_at(NOW_NS + 100, NOW_NS + 50) == 7600.0, "it was not known then"
        with pytest.raises(NotFound):
            power_at(NOW_NS - 1, NOW_NS)


def test_a_device_moves_in_the_grid_changes_its_gateway_and_is_replaced(
    database: Database, organisation_id: str
) -> None:
    with database.begin() as connection:
        one, two = enrol_batteries(connection, organisation_id, 2)
        before = devices.locked(connection, organisation_id, one.device_id, NOW_NS + 5)
        moved = devices.change(connection, before, NOW_NS + 5, node_path="pdx/sub-2")
        host = gateways.add(connection, organisation_id, NOW_NS, link="http", vendor="cloud")
        with pytest.raises(Conflict, match="suspend it first"):
            devices.change(connection, moved, NOW_NS + 6, gateway_no=host.gateway_no)
        (held,) = devices.set_lifecycle(connection, organisation_id, [one.device_id], Lifecycle.SUSPENDED, NOW_NS + 6)
        rewired = devices.change(connection, held, NOW_NS + 6, gateway_no=host.gateway_no)
        gone = devices.replace(connection, organisation_id, one.device_id, two.device_id, NOW_NS + 7)
        places = connection.execute(
            text("SELECT node_path, valid_to_ns FROM device_topology WHERE device_no = :no ORDER BY placement_no"),
            {"no": one.device_no},
        ).all()
        with pytest.raises(Conflict, match="another device of the same site"):
            devices.replace(connection, organisation_id, two.device_id, two.device_id, NOW_NS + 8)
    assert moved.node_path == "pdx/sub-2"
    assert (rewired.gateway_id, rewired.gateway_no) == (host.gateway_id, host.gateway_no)
    assert gone[0].lifecycle == Lifecycle.RETIRED
    assert [tuple(place) for place in places] == [("pdx/sub-1", NOW_NS + 5), ("pdx/sub-2", None)]


def test_an_opt_out_reaches_the_shard_and_can_be_taken_back(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        one = enrol_batteries(connection, organisation_id, 1)[0]
        window = (NOW_NS + 1000, NOW_NS + 2000)
        devices.opt_out(connection, organisation_id, one.device_id, window, NOW_NS, request_id="r1", reason="guests")
    with pytest.raises(Conflict, match="exists already"), database.begin() as connection:
        devices.opt_out(connection, organisation_id, one.device_id, window, NOW_NS, request_id="r1")
    with pytest.raises(InvalidInput, match="after start"), database.begin() as connection:
        devices.opt_out(connection, organisation_id, one.device_id, (2, 2), NOW_NS, request_id="r2")
    with database.begin() as connection:
        record = device_records.of_devices(connection, [one.device_no], NOW_NS)[0]
        assert [(word.start_ns, word.reason) for word in record.opt_outs] == [(NOW_NS + 1000, "guests")]
        taken_back = devices.withdraw_opt_out(connection, organisation_id, "r1", NOW_NS + 1500)
        assert devices.withdraw_opt_out(connection, organisation_id, "r1", NOW_NS + 1700) == taken_back
        assert device_records.of_devices(connection, [one.device_no], NOW_NS)[0].opt_outs == ()
        words = [decode_request(row.payload) for row in outbox.waiting(connection) if row.subject == "requests.0"]
    assert [word.end_ns for word in words if isinstance(word, OptOutChange)] == [NOW_NS + 2000, NOW_NS + 1500]


def test_portfolios_overlap_and_remember_who_was_in(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        enrol_batteries(connection, organisation_id, 6)
        one = portfolios.create(connection, organisation_id, "one", NOW_NS, device_nos=[1, 2, 3, 3])
        two = portfolios.create(connection, organisation_id, "two", NOW_NS, purpose="view", device_nos=[3, 4])
        assert (one.n_devices, two.n_devices, one.revision) == (3, 2, 1)
        changed = portfolios.change(
            connection, organisation_id, one.portfolio_id, NOW_NS + 10, name="uno", add=[3, 5], remove=[1, 6]
        )
        assert (changed.name, changed.n_devices, changed.revision) == ("uno", 3, 2)
        assert portfolios.members(connection, one.portfolio_no) == [2, 3, 5]
        assert portfolios.members(connection, one.portfolio_no, NOW_NS + 9) == [1, 2, 3]
        assert portfolios.members(connection, one.portfolio_no, NOW_NS + 10) == [2, 3, 5]
        back = portfolios.change(connection, organisation_id, one.portfolio_id, NOW_NS + 20, add=[1])
        assert back.n_devices == 4
        gone = portfolios.retire(connection, organisation_id, one.portfolio_id, NOW_NS + 30)
        assert (gone.n_devices, gone.retired_ns) == (0, NOW_NS + 30)
        with pytest.raises(NotFound):
            portfolios.change(connection, organisation_id, one.portfolio_id, NOW_NS + 31, add=[1])
        portfolios.create(connection, organisation_id, "uno", NOW_NS + 32)
    told = [record for record in announced(database) if isinstance(record, PortfolioRecord)]
    of_one = [record for record in told if record.portfolio_no == one.portfolio_no]
    assert [(record.revision, record.device_nos) for record in of_one] == [
        (1, (1, 2, 3)),
        (2, (2, 3, 5)),
        (3, (1, 2, 3, 5)),
        (4, ()),
    ]
    assert of_one[-1].is_retired
    with pytest.raises(Conflict, match="exists already"), database.begin() as connection:
        portfolios.create(connection, organisation_id, "two", NOW_NS)


def test_a_gateway_gets_a_secret_and_loses_its_right(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        new = gateways.add(connection, organisation_id, NOW_NS, partner_reference="gw")
        armed = gateways.set_secret(connection, organisation_id, new.gateway_id, "ab" * 32, NOW_NS)
        revoked = gateways.revoke(connection, organisation_id, new.gateway_id, NOW_NS)
        with pytest.raises(NotFound):
            gateways.revoke(connection, "org_other", new.gateway_id, NOW_NS)
    assert (new.secret_sha256, armed.secret_sha256, armed.is_revoked) == ("", "ab" * 32, False)
    assert (revoked.is_revoked, revoked.revision) == (True, 3)
    assert announced(database) == [new, armed, revoked]
