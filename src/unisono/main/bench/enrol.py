"""A million devices from NDJSON to PostgreSQL and to realtime's columns, mistakes among them.

Measured from the first request of the first job until realtime says that it has every device that was right. The
reference is a plain COPY of as many bare rows into one table of the same PostgreSQL. Checked by what is no part of the
enrolment: counts by SQL, refused rows against those that were planted, realtime's own number of devices, and a sample
of its columns, read from its checkpoint, against the lines.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import psycopg

from unisono.fleet.table import FleetTable
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure
from unisono.main.bench.fleet_lines import Told, bodies
from unisono.main.bench.plant import SETTLE_TIMEOUT_S, BenchPlant, fleet, fresh_folder, say
from unisono.main.demo.children import wait_until

N_DEVICES: Final = 1_000_000
TARGET_S_OF_1M: Final = 120.0
# Starting a job and hearing of realtime's next cycle take this long whatever the size.
LEAST_S: Final = 15.0
REALTIME_MB_MAX: Final = 1536.0
N_SAMPLED: Final = 1000
SEED: Final = 11
# A float32 column holds a figure to this share of it.
NEARLY: Final = 1e-6


def bench(options: BenchOptions) -> BenchResult:
    """Enrol the fleet into a platform of its own."""
    n_lines = options.n_devices or N_DEVICES
    told, good = fleet(n_lines)
    fresh_folder(options.folder)
    plant = BenchPlant(options.folder)
    try:
        plant.connect()
        return _measured(plant, told, good)
    finally:
        plant.stop()
        shutil.rmtree(options.folder)


def _measured(plant: BenchPlant, told: Sequence[Told], good: Sequence[Told]) -> BenchResult:
    began_s, before = time.perf_counter(), plant.cpu_s()
    jobs = plant.enrol(told)
    in_records_s = time.perf_counter() - began_s
    wait_until(lambda: plant.n_in_realtime() >= len(good), SETTLE_TIMEOUT_S, "realtime with every device", 0.1)
    everywhere_s = time.perf_counter() - began_s
    say(f"{everywhere_s:.1f} s: realtime has {plant.n_in_realtime():,} devices")
    cpu_s = {f"{name}_cpu_s": taken - before[name] for name, taken in plant.cpu_s().items()}
    n_in_realtime = plant.n_in_realtime()
    table = plant.saved(len(good)).fleet
    counts = {name: _count(plant, name) for name in ("device", "device_rating", "site", "gateway")}
    return BenchResult(
        name="enrol",
        figures=(
            Figure(
                name="enrolled",
                value=everywhere_s,
                unit="s",
                target=max(LEAST_S, TARGET_S_OF_1M * len(told) / N_DEVICES),
                reference=_copied_s(plant, told),
                reference_name="COPY of as many bare rows",
            ),
            Figure(name="realtime's memory", value=plant.rss_mb("realtime"), unit="MB", target=REALTIME_MB_MAX),
            Figure(name="front's memory", value=plant.rss_mb("front"), unit="MB"),
        ),
        checks={
            "PostgreSQL has one device and one open rating a right row": counts["device"] == len(good)
            and counts["device_rating"] == len(good),
            "sites as the lines named them": counts["site"] == len({one.said["site_reference"] for one in good}),
            "gateways as the lines named them": counts["gateway"]
            == len({one.said["gateway_reference"] for one in good}),
            "realtime has the right rows": n_in_realtime == len(good),
            "exactly the planted rows are refused, by their fields": _refused(plant, jobs) == _planted(told),
            "a sample has in the columns what its lines said": _sample_agrees(plant, table, good),
        },
        sizes={"rows": len(told), "planted mistakes": len(told) - len(good), "jobs": len(jobs), **counts},
        details={
            "in_postgresql_s": in_records_s,
            "rows_per_s": len(told) / everywhere_s,
            "bytes_per_row": sum(len(one.line) for one in told) / len(told),
            "realtime_peak_mb": plant.rss_mb("realtime", "VmHWM"),
            "front_peak_mb": plant.rss_mb("front", "VmHWM"),
            "web_mb": plant.rss_mb("web"),
            "web_peak_mb": plant.rss_mb("web", "VmHWM"),
            **cpu_s,
            "registry_mb": _registry_mb(plant),
        },
    )


def _count(plant: BenchPlant, table: str) -> int:
    where = " WHERE valid_to_ns IS NULL" if table == "device_rating" else ""
    return int(plant.rows(f"SELECT count(*) FROM {table}{where}")[0][0])  # noqa: S608 - names of ours


def _copied_s(plant: BenchPlant, told: Sequence[Told]) -> float:
    """Return how long PostgreSQL takes for as many rows of a number and a reference, without index or key."""
    rows = "".join(f"{at}\t{one.said.get('partner_reference', '')}\n" for at, one in enumerate(told))
    with psycopg.connect(plant.facts["database_url"]) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE bench_bare (no integer, reference text)")
        connection.commit()
        began_s = time.perf_counter()
        with cursor.copy("COPY bench_bare FROM STDIN") as copy:
            copy.write(rows)
        connection.commit()
        took_s = time.perf_counter() - began_s
        cursor.execute("DROP TABLE bench_bare")
    return took_s


def _refused(plant: BenchPlant, jobs: Sequence[dict[str, Any]]) -> list[list[tuple[int, str]]]:
    """Return row and field of what each job refused."""
    return [[(error["row"], error["field"]) for error in plant.api.pages(job["errors_url"])] for job in jobs]


def _planted(told: Sequence[Told]) -> list[list[tuple[int, str]]]:
    return [[(row, one.mistake) for row, one in enumerate(part) if one.mistake] for _, part in bodies(iter(told))]


def _sample_agrees(plant: BenchPlant, table: FleetTable, good: Sequence[Told]) -> bool:
    """Hold the columns of a random sample against the lines, with conversions of its own."""
    chance = np.random.default_rng(SEED)
    sample = [good[at].said for at in chance.choice(len(good), min(N_SAMPLED, len(good)), replace=False).tolist()]
    references = [said["partner_reference"] for said in sample]
    query = "SELECT partner_reference, device_no, device_id, site_no FROM device WHERE partner_reference = ANY(%s)"
    known = {row[0]: row[1:] for row in plant.rows(query, references)}
    plate = table.nameplate
    for said in sample:
        device_no, device_id, site_no = known[said["partner_reference"]]
        row = table.row(device_no)
        power_w, import_w = 1000.0 * said.get("max_discharge_kw", 0.0), -1000.0 * said.get("max_charge_kw", 0.0)
        pairs = [
            (plate.power_max_w[row], power_w),
            (plate.power_min_w[row], import_w),
            (plate.rating_w[row], max(power_w, -import_w)),
            (plate.energy_capacity_wh[row], 1000.0 * said.get("capacity_kwh", 0.0)),
            (plate.period_s[row], said["telemetry_period_s"]),
            (plate.is_on_off[row], said.get("is_on_off", False)),
            (plate.min_off_s[row], said.get("min_off_s", 0.0)),
            (plate.lifecycle[row], 2),
            (plate.technology[row], {"pv": 1, "bess": 2, "ev": 3, "thermostat": 6}[said["asset_type"]]),
            (plate.control_kind[row], 3 if "control_kinds" in said else 0),
            (plate.soc_reserve_frac[row], said.get("soc_reserve_frac", {"ev": 0.3}.get(said["asset_type"], 0.0))),
            (table.sites.site_no[plate.site[row]], site_no),
        ]
        if table.device_id(row) != device_id or any(abs(a - b) > NEARLY * max(abs(b), 1.0) for a, b in pairs):
            say(f"row {row} is not what was said: {said}, {pairs}")
            return False
    return True


def _registry_mb(plant: BenchPlant) -> float:
    """Return how much the announcements of all this take in the outbox."""
    return float(plant.rows("SELECT coalesce(sum(octet_length(payload)), 0) FROM outbox")[0][0]) / 1e6
