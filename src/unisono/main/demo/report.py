"""The report of a demonstration: tables for the terminal, and one self-contained HTML file with charts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table

from unisono.main.demo.charts import Line, Span, funnel_chart, line_chart
from unisono.main.demo.record import DemoRecord, Share
from unisono.main.demo.verdict import hold_energy_error_frac

_NUMBER = re.compile(r"[-+]?[\d.,]+( ?%)?")
FUNNEL_STEPS = ("targeted", "sent", "acknowledged", "moving", "delivered")
SHARE_HEADS = ["", "devices", "called", "delivered kWh"]
SHARE_NOTE = (
    "Energy by the region's meters, from the beginning of the ramp to the end of the release and a little after. "
    "The two powers are of one instant; the estimate is each called device's own, without the doubt about silent ones."
)
FUNNEL_NOTE = (
    "At the end of the hold. Moving and delivered go by readings: a device that acts and never answers moves though it "
    "has acknowledged nothing."
)
ASIDE_NOTE = "As far as it is found out by then: who was never called can't have refused, opted out or lied."
READINGS_NOTE = (
    "promised to be kept (acknowledged); the rest came at MQTT's QoS 0. Late, out of range and future-dated ones are "
    "of devices whose clocks and signs are wrong on purpose."
)
WRONG_NOTE = "From the beginning of the hold on."
FUNNEL_ASIDE = ("opted_out", "refused", "silent", "suspect")


def terminal_report(record: DemoRecord) -> RenderableType:
    """Return what the terminal shows at the end."""
    power = _table("Power (means over the hold)", ["", "MW"])
    for name, power_w in _powers(record):
        power.add_row(name, _mw(power_w))
    funnel = _table("Devices", ["", "count"])
    for step in (*FUNNEL_STEPS, *FUNNEL_ASIDE):
        funnel.add_row(step.replace("_", " "), f"{record.funnel.get(step, 0):,}")
    technologies = _table("By technology (energy by the region's meters, whole call)", SHARE_HEADS)
    domains = _table("By failure domain: vendor", SHARE_HEADS)
    for table, shares in ((technologies, record.by_technology), (domains, record.by_domain)):
        for share in shares:
            table.add_row(*_share(share))
    ingest = _table("Readings", ["", "count"])
    for name, n in record.ingest.items():
        ingest.add_row(name.replace("_", " "), f"{n:,}")
    checks = _table("Verdict", ["check", "seen", "asked", ""])
    for check in record.checks:
        checks.add_row(check.name, check.seen, check.asked, "[green]met[/]" if check.is_met else "[red]NOT MET[/]")
    head = f"event log head {record.log_head or 'unknown'}\nshortfall: {_refill(record)}"
    return Group(
        power,
        funnel,
        technologies,
        domains,
        ingest,
        checks,
        Panel(head, title="the plant delivered" if record.is_success else "the plant FELL SHORT"),
    )


def html_report(record: DemoRecord) -> str:
    """Return one HTML page: no script, no link, nothing to fetch."""
    hold = Span("the hold, which is judged", "hold", record.hold_start_s, record.hold_end_s)
    dark = Span("a vendor's cloud is dark", "dark", record.dark_from_s, record.dark_to_s)
    power = line_chart(
        [
            Line("target", "target", record.target),
            Line("delivered, the platform's estimate (band: one standard deviation)", "estimated", record.estimated),
            Line("delivered, the region's own meters (4 s)", "true", record.true, is_stepped=True),
        ],
        band=(record.estimated, record.estimated_sd) if record.estimated_sd.at_s else None,
        spans=[hold, dark],
    )
    shortfall = line_chart([Line("shortfall seen by the platform", "shortfall", record.shortfall)], spans=[hold, dark])
    steps = [(step, record.funnel.get(step, 0)) for step in FUNNEL_STEPS]
    aside = [(step.replace("_", " "), record.funnel.get(step, 0)) for step in FUNNEL_ASIDE]
    checks = [[c.name, c.seen, c.asked, "met" if c.is_met else "NOT MET"] for c in record.checks]
    sections = [
        _section(("Verdict", _rows(["check", "seen", "asked", ""], checks))),
        _section(("Power", power + _rows(["", "MW"], [[name, _mw(w)] for name, w in _powers(record)]))),
        _section(
            ("From targeted to delivered", funnel_chart(steps) + _note(FUNNEL_NOTE)),
            ("Set aside", funnel_chart(aside) + _note(ASIDE_NOTE)),
        ),
        _section(("Shortfall and refill", f"<p>{escape(_refill(record))}</p>{shortfall}")),
        _section(*_shares(record)),
        _section(
            ("Readings", _counts(record.ingest) + _note(f"{record.n_acknowledged:,} of them were {READINGS_NOTE}")),
            ("Devices that went wrong on purpose", _counts(record.misbehaviour) + _note(WRONG_NOTE)),
        ),
        _section(("Portfolios, after the call", _portfolios(record)), ("Phases, in seconds", _counts(record.phase_s))),
    ]
    head = escape(record.log_head)
    footer = f"<footer>Event log: {record.log_entries:,} entries, head <code>{head}</code></footer>"
    page = files("unisono.main.demo").joinpath("report.html").read_text(encoding="utf-8")
    body = _header(record) + "".join(sections) + footer
    return page.replace("{{title}}", _verdict(record)).replace("{{body}}", body)


def _header(record: DemoRecord) -> str:
    fleet = f"{record.n_devices:,} devices at {record.n_sites:,} sites behind {record.n_gateways:,} gateways"
    return (
        f'<header class="{"met" if record.is_success else "unmet"}">'
        f"<p>Unisono demonstration, {escape(record.started)}</p><h1>{_verdict(record)}</h1>"
        f"<p>{fleet}, world &quot;{escape(record.world)}&quot;, seed {record.seed}</p></header>"
    )


def _verdict(record: DemoRecord) -> str:
    return "The plant delivered" if record.is_success else "The plant fell short"


def _section(*parts: tuple[str, str]) -> str:
    inner = "".join(f"<div><h2>{title}</h2>{content}</div>" for title, content in parts)
    return f'<section class="{"two" if len(parts) == 2 else "one"}">{inner}</section>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _counts(values: Mapping[str, object]) -> str:
    return _rows(["", ""], [[name.replace("_", " "), _number(value)] for name, value in values.items()])


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _powers(record: DemoRecord) -> list[tuple[str, float]]:
    true_w = record.target_w * (1.0 + hold_energy_error_frac(record))
    in_hold = [
        w
        for s, w in zip(record.estimated.at_s, record.estimated.power_w, strict=True)
        if record.hold_start_s <= s < record.hold_end_s
    ]
    estimated_w = sum(in_hold) / len(in_hold) if in_hold else float("nan")
    return [
        ("truly deliverable beforehand (the region)", record.true_deliverable_w),
        ("dispatchable, promised beforehand (the platform)", record.dispatchable_w),
        ("target", record.target_w),
        ("delivered, the platform's estimate", estimated_w),
        ("delivered, the region's own meters", true_w),
    ]


def _refill(record: DemoRecord) -> str:
    called = f"{record.n_refilled:,} further devices were called to fill gaps"
    if record.refill_s is None:
        return f"{called}; a shortfall above 5 % of target lasted to the end"
    if record.refill_s == 0:
        return f"{called}; the estimate was never more than 5 % of target short during the hold"
    return f"{called}; the longest shortfall above 5 % of target was refilled within {record.refill_s:.0f} s"


def _portfolios(record: DemoRecord) -> str:
    rows = [
        [str(p["name"]), f"{p['n_devices']:,}", str(p["enrolled_mw"]), str(p["dispatchable_mw"])]
        for p in record.portfolios
    ]
    return _rows(["name", "devices", "most MW into the grid, by nameplate", "dispatchable MW"], rows)


def _shares(record: DemoRecord) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the two breakdowns, each with its title."""
    technologies = [[*_share(s), _mw(s.estimated_w), _mw(s.true_w)] for s in record.by_technology]
    at = f"at {record.looked_at_s:.0f} s"
    heads = [*SHARE_HEADS, f"estimate MW {at}", f"true MW {at}"]
    domains = [_share(s) for s in record.by_domain]
    return (
        ("By technology", _rows(heads, technologies) + _note(SHARE_NOTE)),
        ("By failure domain (vendor)", _rows(SHARE_HEADS, domains)),
    )


def _share(share: Share) -> list[str]:
    return [share.name, f"{share.n_devices:,}", f"{share.n_called:,}", f"{share.true_wh / 1e3:,.1f}"]


def _rows(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    css = {"met": "met", "NOT MET": "unmet"}.get(text) or ("n" if _NUMBER.fullmatch(text) else "")
    return f'<td class="{css}">{escape(text)}</td>'


def _table(title: str, heads: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i == 0 or head in ("asked", "seen") else "right")
    return table


def _mw(power_w: float | None) -> str:
    return "" if power_w is None else f"{power_w / 1e6:.3f}"
