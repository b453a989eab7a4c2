"""The lines by which nats-server tells of a forbidden publish, found in its log over rotations."""

from __future__ import annotations

from pathlib import Path

from tests.links.edge import gateway_id

from unisono.links.mqtt_broker.forbidden import ForbiddenPublishes

HEAD = "[7] 2026/11/21 01:00:40.292910 [ERR] 127.0.0.1:35192"


def line(who: str, kind: str = "mid:46") -> str:
    return f'{HEAD} - {kind} - {who} - Publish Violation - Subject "u.gwy_x.dev_y.t"\n'


def test_publishers_are_named_by_client_id_or_user_and_by_nothing_that_they_can_make_up(tmp_path: Path) -> None:
    path = tmp_path / "nats.log"
    path.write_text(line(f'"{gateway_id(9)}"'))
    with_old_lines = ForbiddenPublishes(path)
    forged = f'"x\\" - \\"{gateway_id(2)}\\" - Publish Violation - Subject \\"u"'
    with path.open("a") as log:
        log.write(line(f'"{gateway_id(1)}"') + line(f'"{gateway_id(1)}-a"'))
        log.write(f"{HEAD} - cid:5 - {forged} - Client connection closed\n")
        log.write(line(f'{forged} - "PLANT/user:{gateway_id(3)}"', "cid:5"))
        log.write(line('"a client id of its own"'))
        log.write(line(f'"{gateway_id(4)}"')[:60])
    assert with_old_lines.read() == [gateway_id(1), gateway_id(1), gateway_id(3), ""]
    with path.open("a") as log:
        log.write(line(f'"{gateway_id(4)}"')[60:])
    assert with_old_lines.read() == [gateway_id(4)]
    assert with_old_lines.read() == []
    with_old_lines.close()


def test_a_log_that_is_rotated_or_comes_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "nats.log"
    publishes = ForbiddenPublishes(path)
    assert publishes.read() == []
    path.write_text(line(f'"{gateway_id(1)}"'))
    assert [*publishes.read(), *publishes.read()] == [gateway_id(1)]
    with path.open("a") as log:
        log.write(line(f'"{gateway_id(2)}"'))
    path.rename(tmp_path / "nats.log.1")
    path.write_text(line(f'"{gateway_id(3)}"'))
    told = [gateway for _ in range(4) for gateway in publishes.read()]
    assert told == [gateway_id(2), gateway_id(3)]
    publishes.close()
