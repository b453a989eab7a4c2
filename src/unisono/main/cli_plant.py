"""Commands that talk to a running platform, through its REST API."""

from __future__ import annotations

import json as json_text
import math
import time
from collections import deque
from collections.abc import Iterable
from typing import Annotated, Any, Final

import httpx
import typer
from sqlalchemy import text

from unisono.base.errors import InvalidInput, UnisonoError
from unisono.base.instants import NS_PER_S, format_rfc3339
from unisono.main import endpoints
from unisono.main.cli_enrol import enrol
from unisono.main.cli_support import load_settings, print_json, print_rows, say
from unisono.main.client import open_client
from unisono.main.config import Settings
from unisono.store.event_log import Head

FAILED: Final = 1
HEALTH_TIMEOUT_S: Final = 3.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

dispatch_app = typer.Typer(help="Ask for power: create, show, list, cancel.", no_args_is_help=True)
keys_app = typer.Typer(help="Keys of the API: create, list, revoke.", no_args_is_help=True)
log_app = typer.Typer(help="The event log: verify its chain.", no_args_is_help=True)


def plant(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.add_typer(dispatch_app, name="dispatch")
    app.add_typer(keys_app, name="keys")
    app.add_typer(log_app, name="log")
    for command in (status, devices, portfolios, alarms, events, enrol):
        app.command()(command)


def status(json: Json = False) -> None:
    """Say which processes run, whether each is well, what became of the readings; exit code 1 if one is not well."""
    settings = load_settings()
    facts = endpoints.read(settings)
    rows = []
    for name, child in facts.children.items():
        health = _health(child.metrics_url) if child.metrics_url else _alive(child.pid)
        rows.append({"process": name, "pid": child.pid, "restarts": child.n_restarts, "health": health})
    readings = _readings(settings)
    if json:
        print_json({"api_url": facts.api_url, "started": facts.started, "processes": rows, "readings": readings})
    else:
        say(f"platform {facts.pid} on {facts.data_dir}, since {facts.started}")
        say(f"API {facts.api_url}, telemetry {facts.telemetry_url}, MQTT {facts.mqtt_host}:{facts.mqtt_port}")
        print_rows(rows, ("process", "pid", "restarts", "health"))
        say(_readings_line(readings))
    if any(row["health"] != "ok" for row in rows):
        raise typer.Exit(FAILED)


def _readings(settings: Settings) -> dict[str, Any]:
    """Return what became of all readings (``totals``, ``missing``), or why that is ``unknown``."""
    try:
        with open_client(settings, HEALTH_TIMEOUT_S) as api:
            counts: dict[str, Any] = api.get("/v1/ingest/counters")
    except UnisonoError as unknown:
        return {"unknown": str(unknown)}
    return {"totals": counts["totals"], "missing": counts["missing"]}


def _readings_line(readings: dict[str, Any]) -> str:
    if "unknown" in readings:
        return f"readings: unknown, {readings['unknown']}"
    shown = [f"{n} {name}" for name, n in readings["totals"].items() if n or name in ("accepted", "kept")]
    return "readings: " + ", ".join(shown) + "".join(f"; {one}" for one in readings["missing"])


def _alive(pid: int | None) -> str:
    return "ok" if pid is not None and endpoints.is_running(pid) else "is gone"


def _health(url: str) -> str:
    try:
        answer = httpx.get(f"{url}/healthz", timeout=HEALTH_TIMEOUT_S)
        problems = answer.json()["problems"]
    except (httpx.HTTPError, ValueError, KeyError) as gone:
        return f"does not answer ({type(gone).__name__})"
    return "ok" if not problems else "; ".join(problems.values())


def devices(
    device: Annotated[str, typer.Argument(help="One device's id, for all that is known of it.")] = "",
    limit: Annotated[int, typer.Option(help="Most rows.", min=1)] = 50,
    json: Json = False,
) -> None:
    """List devices, or show one with its four-level truth."""
    with open_client(load_settings()) as api:
        if device:
            print_json(api.get(f"/v1/devices/{device}"))
            return
        rows = list(api.pages("/v1/devices", limit))
    if json:
        print_json(rows)
    else:
        print_rows(
            rows,
            (
                "device_id",
                "partner_reference",
                "asset_type",
                "lifecycle",
                "max_discharge_kw",
                "max_charge_kw",
                "gateway_id",
            ),
        )


def portfolios(
    portfolio: Annotated[str, typer.Argument(help="One portfolio's id, for its status.")] = "",
    limit: Annotated[int, typer.Option(help="Most rows.", min=1)] = 50,
    json: Json = False,
) -> None:
    """List portfolios, or show the status of one."""
    with open_client(load_settings()) as api:
        if portfolio:
            print_json(api.get(f"/v1/vpp/portfolios/{portfolio}/status"))
            return
        rows = list(api.pages("/v1/vpp/portfolios", limit))
    if json:
        print_json(rows)
    else:
        print_rows(rows, ("portfolio_id", "name", "purpose", "n_devices"))


def alarms(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    acknowledge: Annotated[str, typer.Option(help="The id of an alarm that you have seen.")] = "",
    note: Annotated[str, typer.Option(help="With --acknowledge: what is done about it; it is kept.")] = "",
    limit: Annotated[int, typer.Option(help="Most rows, the newest.", min=1)] = 50,
    json: Json = False,
) -> None:
    """List the alarms that are open, the newest first, or say that one has been seen."""
    if note and not acknowledge:
        raise InvalidInput("--note", note, "must be given with --acknowledge only")
    with open_client(load_settings()) as api:
        if acknowledge:
            print_json(api.post(f"/v1/alarms/{acknowledge}/acknowledge", {"note": note} if note else {}))
            return
        rows = list(api.pages("/v1/alarms", limit, open_only=not everything))
    if json:
        print_json(rows)
    else:
        print_rows(rows, ("alarm_id", "raised_at", "state", "severity", "kind", "subject_id", "detail"))


def events(
    portfolio: Annotated[
        str, typer.Argument(help="The portfolio whose events are shown; left out: all of the organisation's.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen, until Ctrl-C.")] = False,
    limit: Annotated[int, typer.Option(help="Most rows, the newest.", min=1)] = 50,
) -> None:
    """Show what was decided and noticed: the newest of the event log, one JSON object a line, oldest first."""
    with open_client(load_settings()) as api:
        rows: Iterable[dict[str, Any]]
        if follow:
            rows = api.stream("/v1/stream/events" + (f"?portfolio_id={portfolio}" if portfolio else ""))
        else:
            path = f"/v1/vpp/portfolios/{portfolio}/events" if portfolio else "/v1/events"
            rows = deque(api.pages(path), maxlen=limit)
        try:
            for row in rows:
                print_line(row)
        except KeyboardInterrupt:
            raise typer.Exit from None


def print_line(row: dict[str, Any]) -> None:
    """Print an event as one line."""
    say(json_text.dumps(row, ensure_ascii=False))


@dispatch_app.command("create")
def create(
    portfolio: Annotated[str, typer.Argument(help="The portfolio's id.")],
    *,
    kw: Annotated[float, typer.Option(help="The target in kW; positive is into the grid.")],
    minutes: Annotated[float, typer.Option(help="How long, from the start.")] = 30.0,
    start_in: Annotated[float, typer.Option(help="Seconds from now to the start.")] = 10.0,
    start: Annotated[str, typer.Option(help="The start as RFC 3339 instead.")] = "",
    end: Annotated[str, typer.Option(help="The end as RFC 3339 instead.")] = "",
    kind: Annotated[str, typer.Option(help="change_kw, net_kw or limit_kw.")] = "change_kw",
    ramp_s: Annotated[float, typer.Option(help="Seconds of ramp at both ends.")] = 0.0,
    policy: Annotated[str, typer.Option(help="merit_order, pro_rata or soc_fair.")] = "merit_order",
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "",
    idempotency_key: Annotated[str, typer.Option(help="Repeat with the same key: nothing happens twice.")] = "",
    test: Annotated[bool, typer.Option("--test", help="Mark it as a test.")] = False,
) -> None:
    """Call for power."""
    for name, value in (("--kw", kw), ("--minutes", minutes), ("--start-in", start_in), ("--ramp-s", ramp_s)):
        if not math.isfinite(value):
            raise InvalidInput(name, value, "must be a finite number")
    begin_ns = time.time_ns() + round(start_in * NS_PER_S)
    body = {
        "kind": kind,
        "target_kw": kw,
        "start": start or format_rfc3339(begin_ns),
        "end": end or format_rfc3339(begin_ns + round(minutes * 60 * NS_PER_S)),
        "ramp_s": ramp_s,
        "policy": policy,
        "test": test,
    }
    body |= {"reason": reason} if reason else {}
    with open_client(load_settings()) as api:
        print_json(api.post(f"/v1/vpp/portfolios/{portfolio}/dispatches", body, idempotency_key or None))


@dispatch_app.command("show")
def show(dispatch: Annotated[str, typer.Argument(help="The dispatch's id.")]) -> None:
    """Show a dispatch and what it delivers."""
    with open_client(load_settings()) as api:
        print_json(api.get(f"/v1/vpp/dispatches/{dispatch}"))


@dispatch_app.command("list")
def list_dispatches(
    portfolio: Annotated[str, typer.Argument(help="The portfolio's id.")],
    limit: Annotated[int, typer.Option(help="Most rows.", min=1)] = 50,
) -> None:
    """List the dispatches of a portfolio."""
    with open_client(load_settings()) as api:
        rows = list(api.pages(f"/v1/vpp/portfolios/{portfolio}/dispatches", limit))
    print_rows(rows, ("dispatch_id", "revision", "state", "kind", "start", "end", "reason"))


@dispatch_app.command("cancel")
def cancel(
    dispatch: Annotated[str, typer.Argument(help="The dispatch's id.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "",
    idempotency_key: Annotated[str, typer.Option(help="Repeat with the same key: nothing happens twice.")] = "",
) -> None:
    """Call a dispatch off; devices are let go with the next cycle."""
    body = {"reason": reason} if reason else {}
    with open_client(load_settings()) as api:
        print_json(api.post(f"/v1/vpp/dispatches/{dispatch}/cancel", body, idempotency_key or None))


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scopes: Annotated[str, typer.Option(help="By commas: read, enrol, dispatch, admin.")] = "read",
    expires_at: Annotated[str, typer.Option(help="RFC 3339; never without it.")] = "",
) -> None:
    """Make a key; its secret is printed once and kept nowhere."""
    body: dict[str, Any] = {"name": name, "scopes": [scope.strip() for scope in scopes.split(",")]}
    body |= {"expires_at": expires_at} if expires_at else {}
    with open_client(load_settings()) as api:
        print_json(api.post("/v1/keys", body))


@keys_app.command("list")
def list_keys(limit: Annotated[int, typer.Option(help="Most rows.", min=1)] = 100) -> None:
    """List the keys, without their secrets."""
    with open_client(load_settings()) as api:
        rows = list(api.pages("/v1/keys", limit))
    print_rows(rows, ("key_id", "name", "scopes", "created_at", "expires_at", "revoked_at"))


@keys_app.command("revoke")
def revoke_key(key: Annotated[str, typer.Argument(help="The key's id.")]) -> None:
    """Revoke a key, at once and for good."""
    with open_client(load_settings()) as api:
        print_json(api.post(f"/v1/keys/{key}/revoke"))


@log_app.command("verify")
def verify_log(
    head: Annotated[
        str, typer.Option(help="A head as a report printed it, SEQ:HASH: must still be in the chain.")
    ] = "",
) -> None:
    """Hash the whole event log and every file of frames again; exit code 1 at the first thing that does not agree.

    The platform may run or be stopped.
    """
    from unisono.store.database import open_database
    from unisono.store.history.evidence import verify_log as verify
    from unisono.store.history.objects import open_store

    settings = load_settings()
    expected = _head(head) if head else None
    if settings.database_url is None and not (settings.folder / "postgres" / "data").exists():
        # Nothing has ever run here: say so in place of making an empty database.
        endpoints.read(settings)
    with (
        endpoints.records_url(settings) as url,
        open_database(url, pool_size=1, name="unisono-log-verify") as database,
        database.begin() as connection,
    ):
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        found = verify(connection, open_store(settings.history_folder_url), expected)
    if not found.is_sound:
        say(f"DAMAGED: {found.first_damage}")
        raise typer.Exit(FAILED)
    say(f"sound: {found.head.seq:,} entries, {found.n_files:,} files with {found.n_rows:,} command rows")
    say(f"head: {found.head.seq}:{found.head.hash}")


def _head(text_form: str) -> Head:
    seq, _, digest = text_form.partition(":")
    if not seq.isdecimal() or len(digest) != 64:
        raise InvalidInput("--head", text_form, "must be SEQ:HASH, with 64 hexadecimal digits")
    return Head(int(seq), digest)
