"""Text ids become integers once, and a gateway speaks only for its own devices."""

from __future__ import annotations

import numpy as np
from tests.links.edge import device_id, device_record, fleet, gateway_id, gateway_record, secret

from unisono.links.identity import Identity
from unisono.model.registry import RegistryBatch


def known() -> Identity:
    identity = Identity()
    assert identity.fold(fleet()) == []
    return identity


def test_ids_are_found_only_behind_their_own_gateway() -> None:
    identity = known()
    ids = [device_id(no) for no in (11, 12, 21, 99)]
    assert identity.device_nos_of_ids(1, ids).tolist() == [11, 12, -1, -1]
    assert identity.device_nos_of_ids(2, ids).tolist() == [-1, -1, 21, -1]
    assert identity.device_nos_of_ids(-1, ids).tolist() == [-1, -1, -1, -1]
    asked = np.array([11, -1, 10**9, 21], np.int32)
    assert identity.own_device_nos(1, asked).tolist() == [11, -1, -1, -1]


def test_the_highest_revision_holds_in_whatever_order_they_come() -> None:
    identity = known()
    identity.fold(RegistryBatch((device_record(11, 2, revision=5),)))
    identity.fold(RegistryBatch((device_record(11, 1, revision=3),)))
    assert identity.own_device_nos(2, np.array([11], np.int32)).tolist() == [11]
    identity.fold(RegistryBatch((device_record(11, 2, revision=6, lifecycle=4),)))
    assert identity.own_device_nos(2, np.array([11], np.int32)).tolist() == [-1]


def test_secrets_open_only_their_own_door() -> None:
    identity = known()
    assert identity.authenticate(gateway_id(1), secret(1)) == identity.gateway(gateway_id(1))
    assert identity.authenticate(gateway_id(1), secret(2)) is None
    assert identity.authenticate(gateway_id(1), "") is None
    assert identity.authenticate("", "") is None
    assert identity.authenticate(gateway_id(1), "\udcff") is None


def test_a_revoked_gateway_is_told_of_once_and_is_nobody_then() -> None:
    identity = known()
    revoked = RegistryBatch((gateway_record(1, revision=2, is_revoked=True),))
    assert identity.fold(revoked) == [gateway_id(1)]
    assert identity.fold(revoked) == []
    assert identity.authenticate(gateway_id(1), secret(1)) is None
    assert identity.gateway_no(gateway_id(1)) == -1
    assert identity.gateways.find([gateway_id(1), gateway_id(2)]).tolist() == [-1, 2]
    identity.fold(RegistryBatch((gateway_record(1, revision=3),)))
    assert identity.gateway_no(gateway_id(1)) == 1


def test_large_numbers_make_room() -> None:
    identity = known()
    identity.fold(RegistryBatch((device_record(70_000, 1),)))
    assert identity.device_nos_of_ids(1, [device_id(70_000), device_id(11)]).tolist() == [70_000, 11]
