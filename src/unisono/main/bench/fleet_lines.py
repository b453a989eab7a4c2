"""A fleet to enrol, as lines of NDJSON from a seed: homes with PV, batteries, cars, thermostats, and planted mistakes.

Every fourth home has a gateway of its own for all that is in it; the devices of the others are reached through the
clouds of their vendors. One line in a thousand breaks a rule, of several kinds in turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import zipcodes

from unisono.api.limits import BULK_BYTES_MAX

SEED: Final = 20_261_121
# Lines between two planted mistakes.
MISTAKE_EVERY: Final = 1000
HOMES_PER_GATEWAY: Final = 4
VENDORS: Final = ("acme", "brightwell", "coulomb", "dynamo", "elektra")
CARRIERS: Final = ("cellco", "fibre-1", "mesh")
ZIPS: Final = 400
# Left free in a body, for one line more.
_ROOM: Final = 10_000
CLOUDS_PER_VENDOR: Final = 80
# What a home has, how often, and how strong that is: (chance, kW out, kW in, kWh, period in s).
_CHANCE_OF_ASSET: Final = {"pv": 0.55, "bess": 0.4, "ev": 0.6, "thermostat": 0.95}


class Told(NamedTuple):
    """One line: what it says, its bytes, and the field that its mistake is in ("" for a good one)."""

    said: dict[str, Any]
    line: bytes
    mistake: str


def lines(n_lines: int, seed: int = SEED) -> Iterator[Told]:
    """Yield ``n_lines`` lines, the same for the same seed."""
    chance = np.random.default_rng(seed)
    zips = _zips(chance)
    home, made = 0, 0
    before: dict[str, Any] = {}
    while True:
        for said in _home(home, zips, chance):
            at_mistake, turn = made % MISTAKE_EVERY == MISTAKE_EVERY - 1, made // MISTAKE_EVERY
            told = _mistaken(said, before, turn) if at_mistake else Told(said, _bytes(said), "")
            yield told
            before = said
            made += 1
            if made == n_lines:
                return
        home += 1


def bodies(told: Iterator[Told], bytes_max: int = BULK_BYTES_MAX) -> Iterator[tuple[bytes, list[Told]]]:
    """Yield bodies of at most ``bytes_max`` with what is in them."""
    part: list[Told] = []
    n_bytes = 0
    for one in told:
        # A line that contradicts the one before belongs into the same job.
        if part and n_bytes + len(one.line) + 1 > bytes_max - _ROOM and one.mistake != "node_path":
            yield b"\n".join(line for _, line, _ in part), part
            part, n_bytes = [], 0
        part.append(one)
        n_bytes += len(one.line) + 1
    yield b"\n".join(line for _, line, _ in part), part


def _zips(chance: np.random.Generator) -> list[str]:
    rows: list[dict[str, Any]] = zipcodes.list_all()  # type: ignore[no-untyped-call]
    known = [row["zip_code"] for row in rows if row["timezone"] and row["lat"] and row["long"]]
    return [str(code) for code in chance.choice(known, ZIPS, replace=False)]


def _home(home: int, zips: list[str], chance: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield what stands in one home; each has at least one device."""
    draws = chance.random(8).tolist()
    code = zips[home % len(zips)]
    for at, (asset_type, often) in enumerate(_CHANCE_OF_ASSET.items()):
        if draws[at] >= often and not (at == 0 and min(draws[:4]) >= 0.95):
            continue
        vendor = VENDORS[(home + at) % len(VENDORS)]
        cloud = f"{vendor}-{home % CLOUDS_PER_VENDOR}"
        is_direct = home % HOMES_PER_GATEWAY == 0
        yield {
            "partner_reference": f"home-{home}/{asset_type}",
            "asset_type": asset_type,
            "zip": code,
            "site_reference": f"home-{home}",
            "gateway_reference": f"gw-{home}" if is_direct else cloud,
            "vendor": vendor if not is_direct else VENDORS[home % len(VENDORS)],
            "carrier": CARRIERS[home % len(CARRIERS)],
            "node_path": f"z{home % 40}/sub-{home % 400}/feeder-{home % 4000}/t-{home // 10}",
            "lifecycle": "active",
            "link": "mqtt" if is_direct else "http",
            **_nameplate(asset_type, draws[4 + at % 4]),
        }


def _nameplate(asset_type: str, size_frac: float) -> dict[str, Any]:
    if asset_type == "pv":
        return {"max_discharge_kw": round(3.0 + 9.0 * size_frac, 1), "telemetry_period_s": 60}
    if asset_type == "bess":
        units = 1 + int(3 * size_frac)
        power = {"max_discharge_kw": 5.0 * units, "max_charge_kw": 5.0 * units, "capacity_kwh": 13.5 * units}
        return power | {"telemetry_period_s": 10, "soc_reserve_frac": round(0.1 + 0.2 * size_frac, 2)}
    if asset_type == "ev":
        return {"max_charge_kw": 7.2 if size_frac < 0.7 else 11.0, "capacity_kwh": 60.0, "telemetry_period_s": 300}
    shed = {"max_charge_kw": round(2.0 + 3.0 * size_frac, 1), "is_on_off": True, "min_off_s": 300}
    return shed | {"control_kinds": ["temperature_offset"], "comfort_low_degc": 19.0, "telemetry_period_s": 300}


def _mistaken(said: dict[str, Any], before: dict[str, Any], turn: int) -> Told:
    """Return the line with one mistake, and the field that has to be named."""
    reference = said["partner_reference"]
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("zip", said | {"zip": "00000"}),
        ("max_charge_kw", said | {"max_charge_kw": -1.0}),
        ("asset_type", said | {"asset_type": "windmill"}),
        ("colour", said | {"colour": "red"}),
        ("partner_reference", {name: value for name, value in said.items() if name != "partner_reference"}),
        ("capacity_kwh", said | {"asset_type": "bess", "capacity_kwh": 0, "max_discharge_kw": 5.0}),
        ("soc_reserve_frac", said | {"soc_reserve_frac": 0.9, "soc_max_frac": 0.5}),
        ("telemetry_period_s", said | {"telemetry_period_s": "sixty"}),
        ("command_ttl_s", said | {"command_latency_s": 45, "command_ttl_s": 60}),
        # The device of the line before, told of in another way.
        ("node_path", before | {"node_path": "elsewhere"}),
    ]
    at = turn % (len(kinds) + 1)
    if at == len(kinds):
        return Told(said, _bytes(said)[:-1], "line")
    field, wrong = kinds[at]
    assert wrong.get("partner_reference", reference), "a device has a reference unless that is the mistake"
    return Told(wrong, _bytes(wrong), field)


def _bytes(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode()
