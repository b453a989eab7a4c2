"""The demonstration, phase by phase; every phase uses only what an operator or a device could use."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from unisono.base.errors import InvalidInput, UnisonoError
from unisono.main.client import ApiClient
from unisono.main.demo.children import PlantProcess, RegionProcess, wait_until
from unisono.main.demo.gather import estimate_by_technology, fill_record
from unisono.main.demo.record import DemoRecord
from unisono.main.demo.report import html_report, terminal_report
from unisono.main.demo.view import LiveView
from unisono.sim.spec import WorldSpec

RAMP_S: Final = 30.0
EVENT_S: Final = 180.0
# From the call to its start: a cycle and a half, so that the ramp begins with everybody informed.
LEAD_S: Final = 6.0
# The call: this share of what the region knows to be deliverable.
CALL_FRAC: Final = 0.60
# When devices are looked at one by one: late in the hold, with every fault at work.
LOOK_AT_S: Final = 130.0
# A true picture: this share of devices fresh (a vendor cloud answers once a minute; some are slow at any time).
PICTURE_FRAC: Final = 0.95
PICTURE_TIMEOUT_S: Final = 90.0
# References are means of what was seen: give them this long at the least.
PICTURE_MIN_S: Final = 16.0
# Says that a folder is a demonstration's own, and may be emptied by the next one.
MARKER: Final = "demonstration"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asked for; ``world`` is default or data."""

    n_devices: int
    seed: int
    world: str
    keep: bool
    folder: Path
    report_path: Path


def run(options: DemoOptions, console: Console) -> int:
    """Run it; return 0 only if every check of the verdict is met."""
    if options.world == "data":
        # Before anything of the last demonstration goes.
        trace_folder()
    make_fresh(options.folder)
    plant = PlantProcess(options.folder)
    region: RegionProcess | None = None
    try:
        with LiveView(console) as view:
            region, record = _play(options, plant, view)
        record.phase_s = view.phase_s
        options.report_path.parent.mkdir(parents=True, exist_ok=True)
        options.report_path.write_text(html_report(record), encoding="utf-8")
        console.print(terminal_report(record))
        console.print(f"The report with charts: {options.report_path}")
        if options.keep:
            _keep(plant, console)
        return 0 if record.is_success else 1
    except UnisonoError as wrong:
        console.print(f"[red]The demonstration could not be finished:[/] {wrong}")
        console.print(f"Logs: {options.folder}")
        return 1
    finally:
        if region is not None:
            region.stop()
        plant.stop()


def make_fresh(folder: Path) -> None:
    """Empty what an earlier demonstration left; a folder that is not a demonstration's is refused."""
    marker = folder / MARKER
    if folder.exists() and any(folder.iterdir()):
        if not marker.is_file():
            raise InvalidInput("--folder", str(folder), f"is not empty and not a demonstration's (no file {MARKER})")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _play(options: DemoOptions, plant: PlantProcess, view: LiveView) -> tuple[RegionProcess, DemoRecord]:
    view.phase("starting the engines and the plant")
    facts = wait_until(plant.run_facts, 60, "the platform")
    client = ApiClient(facts["api_url"], plant.admin_key())
    wait_until(client.is_ready, 60, "the platform")

    view.phase("enrolling the region and connecting its gateways")
    region = RegionProcess(_region_config(options, facts, plant.admin_key()), options.folder)
    try:
        _await_region(region, view)
        record = DemoRecord(
            world=options.world,
            seed=options.seed,
            n_devices=options.n_devices,
            n_sites=WorldSpec(n_devices=options.n_devices).site_count(),
            n_gateways=int(region.status.get("n_gateways", 0)),
            started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        )
        view.phase("forming three portfolios that overlap")
        portfolios = _form_portfolios(client)
        view.phase("waiting for a true picture")
        _await_picture(client, portfolios[0]["portfolio_id"], region, view)
        view.phase("calling for power")
        dispatch = _call(client, portfolios[0]["portfolio_id"], region, record)
        dispatch["estimated_w_of_technology"] = _follow(client, dispatch, region, record, view)
        view.phase("settling the books")
        fill_record(record, client, dispatch, portfolios, region, is_kept=options.keep)
    except BaseException:
        region.stop()
        raise
    return region, record


def _region_config(options: DemoOptions, facts: dict[str, Any], key: str) -> dict[str, Any]:
    return {
        "seed": options.seed,
        "n_devices": options.n_devices,
        "api_url": facts["api_url"],
        "api_key": key,
        "mqtt_host": facts["mqtt_host"],
        "mqtt_port": facts["mqtt_port"],
        "telemetry_url": facts["telemetry_url"],
        "trace_path": str(trace_folder()) if options.world == "data" else "",
        "deliverable_hold_s": EVENT_S,
        "dump_path": str(options.folder / "ledger.json"),
    }


def trace_folder() -> Path:
    """Return the folder of recorded traces that UNISONO_DATA names (default ../shared/data); raises InvalidInput."""
    folder = Path(os.environ.get("UNISONO_DATA", "../shared/data"))
    if not folder.is_dir():
        raise InvalidInput("UNISONO_DATA", str(folder), "must be a folder of recorded traces (unset: ../shared/data)")
    return folder.absolute()


def _await_region(region: RegionProcess, view: LiveView) -> None:
    def is_running() -> bool:
        region.check()
        status = region.status
        view.show(
            phase=status.get("phase", "building"),
            connected=status.get("n_connected", 0),
            enrolled=status.get("n_enrolled", 0),
        )
        return status.get("phase") == "running"

    wait_until(is_running, 120, "the simulated region")


def _form_portfolios(client: ApiClient) -> list[dict[str, Any]]:
    asked = [
        {"name": "Region", "members": [{"lifecycle": "active"}]},
        {"name": "Storage", "members": [{"asset_type": "bess"}, {"asset_type": "ev"}], "purpose": "programme"},
        {"name": "Every third device", "members": [{"lifecycle": "active", "every_nth": 3}], "purpose": "view"},
    ]
    return [client.post("/v1/vpp/portfolios", body) for body in asked]


def _await_picture(client: ApiClient, portfolio_id: str, region: RegionProcess, view: LiveView) -> None:
    """Wait until most are fresh and the promise has stopped growing; a picture that stays partial is used as it is."""
    began_s = time.monotonic()
    promises_kw: list[float] = []

    def is_true() -> bool:
        region.check()
        status = client.get(f"/v1/vpp/portfolios/{portfolio_id}/status")
        fresh_frac = status["completeness_frac"] or 0.0
        promises_kw.append(status["dispatchable_capacity_kw"] or 0.0)
        view.show(bar=(fresh_frac, 1.0), fresh=f"{fresh_frac:.1%}", dispatchable_mw=f"{promises_kw[-1] / 1e3:.2f}")
        is_settled = len(promises_kw) > 3 and promises_kw[-1] <= 1.01 * statistics.mean(promises_kw[-4:-1])
        seen_s = time.monotonic() - began_s
        is_whole = fresh_frac >= PICTURE_FRAC and is_settled and promises_kw[-1] > 0 and seen_s >= PICTURE_MIN_S
        return is_whole or seen_s > PICTURE_TIMEOUT_S

    wait_until(is_true, PICTURE_TIMEOUT_S + 30, "a true picture", every_s=1.0)


def _call(client: ApiClient, portfolio_id: str, region: RegionProcess, record: DemoRecord) -> dict[str, Any]:
    status = client.get(f"/v1/vpp/portfolios/{portfolio_id}/status")
    record.true_deliverable_w = float(
        wait_until(lambda: region.status.get("true_deliverable_up_w"), 15, "the region's truth")
    )
    record.dispatchable_w = float(status["dispatchable_capacity_kw"] or 0.0) * 1e3
    record.target_w = round(CALL_FRAC * record.true_deliverable_w, -3)
    record.ramp_s, record.hold_start_s, record.hold_end_s = RAMP_S, RAMP_S, EVENT_S - RAMP_S
    start = datetime.now(UTC) + timedelta(seconds=LEAD_S)
    body = {
        "kind": "change_kw",
        "target_kw": record.target_w / 1e3,
        "start": _rfc3339(start),
        "end": _rfc3339(start + timedelta(seconds=EVENT_S)),
        "ramp_s": RAMP_S,
        "policy": "merit_order",
        "reason": "demonstration",
    }
    accepted: dict[str, Any] = client.post(f"/v1/vpp/portfolios/{portfolio_id}/dispatches", body)
    return accepted | {"start_s": time.monotonic() + LEAD_S, "start_at": start}


def _follow(
    client: ApiClient, dispatch: dict[str, Any], region: RegionProcess, record: DemoRecord, view: LiveView
) -> dict[str, float]:
    """Show the dispatch until it has ended; let the world misbehave from the hold's beginning.

    Return the platform's estimate by technology, as seen late in the hold.
    """
    has_misbehaved = False
    estimates_w: dict[str, float] = {}
    while True:
        region.check()
        at_s = time.monotonic() - dispatch["start_s"]
        if at_s >= RAMP_S and not has_misbehaved:
            region.tell(do="misbehave")
            has_misbehaved = True
        if at_s >= LOOK_AT_S and not estimates_w:
            record.looked_at_s = at_s
            estimates_w = estimate_by_technology(client)
        _show_progress(client.get(f"/v1/vpp/dispatches/{dispatch['dispatch_id']}"), region, view, at_s)
        if at_s > EVENT_S + 1.5:
            return estimates_w
        time.sleep(1.0)


def _show_progress(found: dict[str, Any], region: RegionProcess, view: LiveView, at_s: float) -> None:
    shown = found["progress"][0] if found["progress"] else {}
    funnel = shown.get("funnel", {})
    steps = ("targeted", "sent", "acknowledged", "moving", "delivered")
    view.show(
        bar=(at_s, EVENT_S),
        stage=_stage(at_s),
        target_mw=f"{shown.get('target_kw', 0) / 1e3:.2f}",
        estimate_mw=f"{shown.get('delivered_kw', 0) / 1e3:.2f} +- {shown.get('delivered_sd_kw', 0) / 1e3:.2f}",
        region_meters_mw=f"{region.status.get('true_delivered_w', 0) / 1e6:.2f}",
        funnel=" > ".join(f"{funnel.get(step, 0)} {step}" for step in steps),
    )


def _stage(at_s: float) -> str:
    if at_s < 0:
        return "about to start"
    if at_s < RAMP_S:
        return "ramp"
    return "hold" if at_s < EVENT_S - RAMP_S else "release"


def _keep(plant: PlantProcess, console: Console) -> None:
    facts = plant.run_facts() or {}
    console.print(
        f"The plant stays up: API {facts.get('api_url')}, key in {plant.data_dir / 'admin.key'}. Ctrl-C ends it."
    )
    try:
        plant.process.wait()
    except KeyboardInterrupt:
        console.print("Stopping.")


def _rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
