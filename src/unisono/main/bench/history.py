"""A day of telemetry into history and out again: from batches on the stream to merged files, to a device's day.

Readings go the historian's own way: decoded, sorted, summed by quarter-hour, written, committed, and merged whenever
the historian would. Then one device's day and the means of all devices by quarter-hour are asked as the web asks them.
References: a plain uncompressed Parquet file of the same rows, and DuckDB (where it is installed; else pyarrow) on the
same files. Checked with neither: what went in against what is in the files, a device's day against its trace, means
against numpy on the traces; and that what comes late counts at once.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unisono.base.clock import MovableClock
from unisono.base.instants import NS_PER_S
from unisono.engines.postgres import PostgresEngine
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure
from unisono.main.bench.traces import BATCH_ROWS, MINUTES, NS_PER_MINUTE, Columns, Traces
from unisono.model.batches import CommandFrames, ReadingBatch
from unisono.services import historian
from unisono.store.database import Database, open_database
from unisono.store.history import intake, manifest
from unisono.store.history.kinds import KINDS, NS_PER_DAY, READINGS, ROLLUP_15MIN, ROLLUP_DAY
from unisono.store.history.objects import ObjectStore, open_store
from unisono.store.history.reader import HistoryReader
from unisono.store.history.writer import Segment, commit_segment, write_segment
from unisono.store.migrate import migrate

# A hundred million readings of a day.
N_DEVICES: Final = 69_445
DAY_NS: Final = 20_777 * NS_PER_DAY
QUARTER_MINUTES: Final = 15
N_QUARTERS: Final = MINUTES // QUARTER_MINUTES
# The historian's own bound.
FLUSH_ROWS: Final = historian.HistorianSettings().flush_rows
WRITE_TARGET_PER_S: Final = 2_000_000.0
BYTES_TARGET: Final = 10.0
DEVICE_TARGET_MS: Final = 50.0
MEANS_TARGET_MS: Final = 100.0
# Devices whose day is asked, and those of them that are held against their trace.
N_ASKED, N_TRACED = 25, 5
COMMAND_ROWS: Final = 1_000_000
COMMAND_CYCLES: Final = 3
# A plain file is written of every so manieth segment.
REFERENCE_EVERY: Final = 12
SEED: Final = 5
KEPT: Final = (READINGS, ROLLUP_15MIN, ROLLUP_DAY)
SUMMED: Final = ("measured_ns", "known_ns", "quality", "status", "power_w", "soc_frac", "voltage_v")


def bench(options: BenchOptions) -> BenchResult:
    """Write a day, merge it, ask it, and check it."""
    traces = Traces(options.n_devices or N_DEVICES, DAY_NS)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name, _records(Path(name)) as database:
        folder = Path(name)
        store = open_store(str(folder / "history"))
        clock = MovableClock(DAY_NS)
        day = _Day(traces, database, store, clock)
        day.write(folder / "plain.parquet")
        day.finish()
        asked = _Asked(traces, HistoryReader(database, store), folder / "history", day.live)
        figures = (*day.figures(), *asked.figures())
        checks = {**day.checks(asked.paths), **asked.checks(day.mean_w)}
        checks["what comes late counts at once"] = _late(traces, day, asked)
        n_commands = min(COMMAND_ROWS, 20 * traces.n_devices)
        details = {
            "traces": traces.origin,
            **day.details(),
            **asked.details(),
            **_commands(database, store, clock, n_commands),
        }
    sizes = {"devices": traces.n_devices, "readings": day.n_rows, "batch_rows": BATCH_ROWS}
    return BenchResult(name="history", figures=figures, checks=checks, sizes=sizes, details=details)


@contextmanager
def _records(folder: Path) -> Iterator[Database]:
    engine = PostgresEngine(folder / "postgres")
    try:
        url = engine.start()
        migrate(url)
        with open_database(url, pool_size=2) as database:
            yield database
    finally:
        engine.stop()


def _live(database: Database) -> dict[str, list[manifest.ManifestFile]]:
    with database.begin() as connection:
        return {name: manifest.live(connection, kind) for name, kind in KINDS.items()}


class _Day:
    """The way in: a quarter of an hour of all devices is taken, flushed at the historian's bound, then the next."""

    def __init__(self, traces: Traces, database: Database, store: ObjectStore, clock: MovableClock) -> None:
        self._traces, self._database, self._store, self._clock = traces, database, store, clock
        self._seq = 0
        self.n_rows = 0
        # Processor time of decoding and writing, by segment: (rows, seconds); of the reference likewise.
        self._segments: list[tuple[int, float]] = []
        self._plain: list[tuple[int, float, int]] = []
        self._bytes: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._merge_s = 0.0
        self._counters = historian.HistorianCounters()
        self._sums: dict[str, float] = dict.fromkeys(SUMMED, 0.0)
        self.mean_w = np.zeros(N_QUARTERS)
        # The files of the day once it is over.
        self.live: dict[str, list[manifest.ManifestFile]] = {}

    def write(self, plain: Path) -> None:
        """Take the whole day in."""
        device_nos = np.arange(1, self._traces.n_devices + 1, dtype=np.int32)
        held: list[bytes] = []
        n_held = 0
        for minute in range(MINUTES):
            columns = self._traces.rows(minute, device_nos)
            self._count(minute, columns)
            held += self._traces.batches(columns)
            n_held += device_nos.size
            if n_held + device_nos.size > FLUSH_ROWS or minute == MINUTES - 1:
                if len(self._segments) % REFERENCE_EVERY == 1 or not self._plain:
                    self._plain.append(_write_plain(held, plain))
                self.keep(held)
                held, n_held = [], 0
                self._clock.advance((DAY_NS + (minute + 1) * NS_PER_MINUTE - self._clock.wall_ns()) / NS_PER_S)
                self._keep_house()

    def keep(self, payloads: list[bytes]) -> None:
        """Take some messages in, as ``StreamKeeper`` does."""
        began_s = time.process_time()
        batches = tuple((0, historian.READINGS.decode(payload)) for payload in payloads)
        segment = Segment("bench", "bench", self._seq + 1, self._seq + len(payloads), batches)
        files = write_segment(self._store, segment)
        with self._database.begin() as connection:
            commit_segment(connection, segment, files, self._clock.wall_ns())
        spent_s = time.process_time() - began_s
        self._seq = segment.seq_last
        n_rows = sum(len(batch) for _, batch in batches)
        self._segments.append((n_rows, spent_s))
        for file in files:
            self._bytes[file.kind] += file.n_bytes

    def finish(self) -> None:
        """Let the day be over: the last merging, and the disk given back."""
        self._clock.advance(86_400)
        self._keep_house()
        self._clock.advance(2 * 3600)
        self._keep_house()
        self.live = _live(self._database)

    def _keep_house(self) -> None:
        began_s = time.process_time()
        settings = historian.HistorianSettings()
        historian.keep_house(self._database, self._store, self._clock, settings, self._counters)
        self._merge_s += time.process_time() - began_s

    def _count(self, minute: int, columns: Columns) -> None:
        """Add up what goes in, apart from anything that history does."""
        self.n_rows += columns["device_no"].size
        for name in SUMMED:
            self._sums[name] += _sum_of(columns[name], name)
        self.mean_w[minute // QUARTER_MINUTES] += columns["power_w"].sum(dtype=np.float64) / QUARTER_MINUTES

    def figures(self) -> tuple[Figure, ...]:
        rates = [n_rows / spent_s for n_rows, spent_s in self._segments]
        n_bytes = sum(file.n_bytes for kind in KEPT for file in self.live[kind.name])
        return (
            Figure(
                name="write",
                value=statistics.median(rates),
                unit="readings/s of one core",
                better="higher",
                target=WRITE_TARGET_PER_S,
                reference=statistics.median(n_rows / spent_s for n_rows, spent_s, _ in self._plain),
                reference_name="pyarrow write_table, uncompressed, unsorted, without sums",
            ),
            Figure(
                name="on disk, merged, sums included",
                value=n_bytes / self.n_rows,
                unit="B a reading",
                target=BYTES_TARGET,
                reference=statistics.median(n_bytes / n_rows for n_rows, _, n_bytes in self._plain),
                reference_name="the uncompressed file",
            ),
        )

    def checks(self, paths: dict[str, list[str]]) -> dict[str, bool]:
        """Hold counts and sums of the files, read by pyarrow alone, against what went in."""
        found: dict[str, float] = dict.fromkeys(SUMMED, 0.0)
        n_rows = 0
        for batch in ds.dataset(paths["readings"], format="parquet").to_batches(columns=[*SUMMED], batch_size=1 << 20):
            n_rows += batch.num_rows
            for name in SUMMED:
                found[name] += _sum_of(batch.column(name).to_numpy(zero_copy_only=False), name)
        are_equal = [abs(found[name] - self._sums[name]) <= 1e-9 * max(abs(self._sums[name]), 1.0) for name in SUMMED]
        return {"every reading is there once": n_rows == self.n_rows, "sums of what was written": all(are_equal)}

    def details(self) -> dict[str, float | int | str]:
        n_rows = self.n_rows
        sizes = {f"bytes_{kind.name}": sum(file.n_bytes for file in self.live[kind.name]) / n_rows for kind in KEPT}
        return {
            "bytes_before_merging": sum(self._bytes.values()) / n_rows,
            "write_all_readings_per_cpu_s": n_rows / sum(spent_s for _, spent_s in self._segments),
            "merge_ns_per_reading": 1e9 * self._merge_s / n_rows,
            "segments": len(self._segments),
            "files_merged": self._counters.n_merged,
            "files_of_the_day": len(self.live[READINGS.name]),
            **sizes,
        }


class _Asked:
    """The way out: a device's day and all devices' means, as the web's reader answers and as the reference does."""

    def __init__(
        self, traces: Traces, reader: HistoryReader, folder: Path, live: dict[str, list[manifest.ManifestFile]]
    ) -> None:
        self._traces, self.reader = traces, reader
        self.paths = {name: [str(folder / file.path) for file in files] for name, files in live.items()}
        rng = np.random.default_rng(SEED)
        self._device_nos = rng.choice(traces.n_devices, min(N_ASKED, traces.n_devices), replace=False) + 1
        self.members = list(range(1, traces.n_devices + 1))
        self._details: dict[str, float | int | str] = {}

    def device_day(self, device_no: int) -> list[dict[str, Any]]:
        return self.reader.device_readings(device_no, DAY_NS, DAY_NS + NS_PER_DAY, 10_000)

    def means(self) -> list[dict[str, Any]]:
        return self.reader.portfolio_rollup(self.members, DAY_NS, DAY_NS + NS_PER_DAY)

    def figures(self) -> tuple[Figure, ...]:
        plain_name, plain_device, plain_means = _peer(self.paths)
        devices = [int(number) for number in self._device_nos]
        ours_s = [_seconds(partial(self.device_day, number)) for number in devices]
        peer_s = [_seconds(partial(plain_device, number)) for number in devices]
        means_s, means_cpu_s = zip(*(_both_seconds(self.means) for _ in range(7)), strict=True)
        self._details = {"device_day_worst_ms": 1e3 * max(ours_s), "means_cpu_ms": 1e3 * min(means_cpu_s)}
        few = self.members[:: max(1, len(self.members) // 1000)]
        span = (DAY_NS, DAY_NS + NS_PER_DAY)
        self._details["means_of_1000_spread_ms"] = 1e3 * min(
            _seconds(lambda: self.reader.portfolio_rollup(few, *span)) for _ in range(5)
        )
        return (
            Figure(
                name="one device's day",
                value=1e3 * statistics.median(ours_s),
                unit="ms",
                target=DEVICE_TARGET_MS,
                reference=1e3 * statistics.median(peer_s),
                reference_name=plain_name,
            ),
            Figure(
                name="means of all devices by quarter-hour",
                value=1e3 * min(means_s),
                unit="ms",
                target=MEANS_TARGET_MS,
                reference=1e3 * min(_seconds(plain_means) for _ in range(3)),
                reference_name=f"{plain_name}, from the sums",
            ),
        )

    def checks(self, mean_w: NDArray[np.float64]) -> dict[str, bool]:
        traced = [int(number) for number in self._device_nos[:N_TRACED]]
        return {
            "a device's day is its trace": all(
                _is_trace(self.device_day(number), self._traces.device_day(number)) for number in traced
            ),
            "means are numpy's": self.are_means(mean_w),
        }

    def are_means(self, mean_w: NDArray[np.float64]) -> bool:
        found = self.means()
        starts = [row["interval_start_ns"] for row in found]
        n_devices = {row["n_devices"] for row in found}
        power_w = np.array([row["power_mean_w"] for row in found])
        return (
            starts == [DAY_NS + at * QUARTER_MINUTES * NS_PER_MINUTE for at in range(N_QUARTERS)]
            and n_devices == {self._traces.n_devices}
            and bool(np.allclose(power_w, mean_w, rtol=1e-6, atol=1e-2))
        )

    def details(self) -> dict[str, float | int | str]:
        return self._details


def _late(traces: Traces, day: _Day, asked: _Asked) -> bool:
    """Add a reading to each of a few devices' minutes that the merged files do not have, and ask again."""
    numbers = np.arange(1, min(4, traces.n_devices) + 1, dtype=np.int32)
    minute = 600
    extra = traces.rows(minute, numbers)
    known_ns = DAY_NS + NS_PER_DAY + NS_PER_MINUTE
    late = {name: extra[name] for name in extra if name != "known_ns"} | {"measured_ns": extra["measured_ns"] + 7}
    late["power_w"] = late["power_w"] + np.float32(160.0)
    day.keep([ReadingBatch.of_columns({"gateway_no": 0, "batch_seq": -1, "known_ns": known_ns}, late).encode()])
    mean_w = day.mean_w.copy()
    for at, number in enumerate(numbers):
        quarter = minute // QUARTER_MINUTES
        own = traces.device_day(int(number))["power_w"].reshape(-1, QUARTER_MINUTES)[quarter].astype(np.float64)
        mean_w[quarter] += (own.sum() + float(late["power_w"][at])) / (QUARTER_MINUTES + 1) - own.mean()
    rows = asked.device_day(int(numbers[0]))
    is_there = [row["power_w"] for row in rows if row["known_ns"] == known_ns] == [float(late["power_w"][0])]
    return is_there and len(rows) == MINUTES + 1 and asked.are_means(mean_w)


def _commands(database: Database, store: ObjectStore, clock: MovableClock, n_rows: int) -> dict[str, float | int | str]:
    """Return what a million commands a cycle cost the historian, from the stream's bytes to their commit."""
    spent: list[float] = []
    n_bytes = 0
    for cycle in range(1, COMMAND_CYCLES + 1):
        payload = _frames(cycle, n_rows).encode()
        began_s = time.process_time()
        segment = Segment("bench-commands", "bench", cycle, cycle, ((0, historian.COMMANDS.decode(payload)),))
        files = write_segment(store, segment)
        with database.begin() as connection:
            commit_segment(connection, segment, files, clock.wall_ns())
        spent.append(time.process_time() - began_s)
        n_bytes += sum(file.n_bytes for file in files)
    return {
        "commands_a_cycle": n_rows,
        "commands_cpu_s_per_million": min(spent) * 1e6 / n_rows,
        "commands_bytes_a_row": n_bytes / (COMMAND_CYCLES * n_rows),
    }


def _frames(cycle: int, n_rows: int) -> CommandFrames:
    rng = np.random.default_rng(cycle)
    issued_ns = DAY_NS + NS_PER_DAY + cycle * 4 * NS_PER_S
    columns = {
        "device_no": rng.permutation(n_rows) + 1,
        "gateway_no": np.repeat(np.arange((n_rows + 999) // 1000), 1000)[:n_rows],
        "dispatch_no": np.full(n_rows, 7),
        "seq": np.full(n_rows, cycle),
        "kind": np.zeros(n_rows),
        "fallback": np.zeros(n_rows),
        "value": np.round(rng.normal(0.0, 3000.0, n_rows)),
        "start_ns": np.full(n_rows, issued_ns),
        "expires_ns": np.full(n_rows, issued_ns + 60 * NS_PER_S),
        "ttl_s": np.full(n_rows, 60.0),
    }
    return CommandFrames.of_columns({"shard": 0, "epoch": 1, "cycle": cycle, "issued_ns": issued_ns}, columns)


def _write_plain(payloads: list[bytes], path: Path) -> tuple[int, float, int]:
    """Return (rows, processor seconds, bytes) of the same rows as a plain file, made from decoded columns."""
    table = intake.readings_table([ReadingBatch.decode(payload) for payload in payloads])
    began_s = time.process_time()
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    spent_s = time.process_time() - began_s
    n_bytes = path.stat().st_size
    path.unlink()
    return table.num_rows, spent_s, n_bytes


def _sum_of(values: NDArray[Any], name: str) -> float:
    # Instants as seconds of the day: float64 holds their sums to the bit.
    of_day = (values - DAY_NS) / 1e9 if name.endswith("_ns") else values
    return float(of_day.sum(dtype=np.float64))


def _is_trace(rows: list[dict[str, Any]], trace: Columns) -> bool:
    order = np.argsort(trace["measured_ns"], kind="stable")
    return len(rows) == order.size and all(
        np.array_equal(np.array([row[name] for row in rows]), column[order]) for name, column in trace.items()
    )


def _peer(paths: dict[str, list[str]]) -> tuple[str, Callable[[int], object], Callable[[], object]]:
    """Return the reference's name, and how it answers: one device's day, and the means of all devices."""
    # No dependency of ours: a reference where somebody has it.
    if importlib.util.find_spec("duckdb") is None:
        return "pyarrow dataset, same files", *_pyarrow_peer(paths)
    duckdb: Any = importlib.import_module("duckdb")
    database = duckdb.connect()
    readings, sums = (database.read_parquet(paths[name]) for name in ("readings", "rollup_15min"))
    within = f"measured_ns >= {DAY_NS} AND measured_ns < {DAY_NS + NS_PER_DAY}"

    def device(device_no: int) -> object:
        return readings.filter(f"device_no = {device_no} AND {within}").order("measured_ns").fetchall()

    def means() -> object:
        at = "interval_start_ns"
        of_device = sums.aggregate(f"device_no, {at}, sum(power_sum_w) / sum(n) AS mean_w", f"device_no, {at}")
        return of_device.aggregate(f"{at}, sum(mean_w)", at).order(at).fetchall()

    return f"DuckDB {duckdb.__version__}, same files", device, means


def _pyarrow_peer(paths: dict[str, list[str]]) -> tuple[Callable[[int], object], Callable[[], object]]:
    readings, sums = (ds.dataset(paths[name], format="parquet") for name in ("readings", "rollup_15min"))

    def device(device_no: int) -> object:
        return readings.to_table(filter=ds.field("device_no") == device_no).sort_by("measured_ns").to_pylist()

    def means() -> object:
        rows = sums.to_table(columns=["device_no", "interval_start_ns", "power_sum_w", "n"])
        keys = ["device_no", "interval_start_ns"]
        by_device = rows.group_by(keys).aggregate([("power_sum_w", "sum"), ("n", "sum")])
        mean_w = pa.array(by_device.column("power_sum_w_sum").to_numpy() / by_device.column("n_sum").to_numpy())
        return by_device.append_column("mean_w", mean_w).group_by("interval_start_ns").aggregate([("mean_w", "sum")])

    return device, means


def _seconds(run: Callable[[], object]) -> float:
    return _both_seconds(run)[0]


def _both_seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return (wall, processor) seconds of one run."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - began_s, time.process_time() - began_cpu_s
