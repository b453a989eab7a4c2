"""Small charts as inline SVG, so that a report is one file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from unisono.main.demo.record import Series

WIDTH_PX, HEIGHT_PX = 920, 300
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 62, 16, 14, 34


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart; ``css`` names its class (colours live in the page's style)."""

    label: str
    css: str
    series: Series
    is_stepped: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time to shade."""

    label: str
    css: str
    from_s: float
    to_s: float


def line_chart(lines: list[Line], *, band: tuple[Series, Series] | None = None, spans: Sequence[Span] = ()) -> str:
    """Return an SVG of power in MW over seconds; ``band`` is (middle, half width)."""
    drawn = [line for line in lines if line.series.at_s]
    if not drawn:
        return "<p>No data.</p>"
    left_s = min(min(line.series.at_s) for line in drawn)
    right_s = max(max(line.series.at_s) for line in drawn)
    highest_mw = max(max(line.series.power_w) for line in drawn) / 1e6
    lowest_mw = min(0.0, min(min(line.series.power_w) for line in drawn) / 1e6)
    frame = _Frame(left_s, max(right_s, left_s + 1), lowest_mw, max(highest_mw * 1.08, lowest_mw + 1e-3))
    parts = [f'<svg viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" role="img">', *frame.grid()]
    parts += [frame.shade(span) for span in spans]
    if band:
        parts.append(frame.band(*band))
    parts += [frame.path(line) for line in drawn]
    keys: list[Line | Span] = [*drawn, *spans]
    legend = "".join(f'<span class="key {key.css}">{escape(key.label)}</span>' for key in keys)
    return "".join(parts) + f'</svg><div class="legend">{legend}</div>'


def funnel_chart(steps: list[tuple[str, int]]) -> str:
    """Return horizontal bars, the first the longest, with their counts."""
    most = max((n for _, n in steps), default=0) or 1
    rows = "".join(
        f'<tr><th>{escape(name)}</th><td class="n">{n:,}</td>'
        f'<td class="barcell"><div class="bar" style="width:{100 * n / most:.1f}%"></div></td></tr>'
        for name, n in steps
    )
    return f'<table class="funnel">{rows}</table>'


@dataclass(frozen=True, slots=True)
class _Frame:
    """The axes: seconds across, megawatts up."""

    left_s: float
    right_s: float
    low_mw: float
    high_mw: float

    @property
    def height(self) -> int:
        return HEIGHT_PX - TOP_PX - BOTTOM_PX

    def x(self, at_s: float) -> float:
        span = (at_s - self.left_s) / (self.right_s - self.left_s)
        return LEFT_PX + span * (WIDTH_PX - LEFT_PX - RIGHT_PX)

    def y(self, power_w: float) -> float:
        span = (power_w / 1e6 - self.low_mw) / (self.high_mw - self.low_mw)
        return TOP_PX + (1 - span) * self.height

    def grid(self) -> list[str]:
        parts = []
        for mw in _ticks(self.low_mw, self.high_mw, 5):
            y = self.y(mw * 1e6)
            parts.append(f'<line class="grid" x1="{LEFT_PX}" x2="{WIDTH_PX - RIGHT_PX}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT_PX - 8}" y="{y + 4:.1f}" text-anchor="end">{mw:g}</text>')
        parts += [
            f'<text x="{self.x(at_s):.1f}" y="{HEIGHT_PX - 12}" text-anchor="middle">{at_s:g}</text>'
            for at_s in _ticks(self.left_s, self.right_s, 9)
        ]
        parts.append(f'<text x="{WIDTH_PX - RIGHT_PX}" y="{HEIGHT_PX - 1}" text-anchor="end">seconds from start</text>')
        parts.append(f'<text x="4" y="{TOP_PX + 4}">MW</text>')
        return parts

    def path(self, line: Line) -> str:
        points: list[str] = []
        before_y = 0.0
        for i, (at_s, power_w) in enumerate(zip(line.series.at_s, line.series.power_w, strict=True)):
            x, y = self.x(at_s), self.y(power_w)
            if i and line.is_stepped:
                points.append(f"L{x:.1f} {before_y:.1f}")
            points.append(f"{'L' if i else 'M'}{x:.1f} {y:.1f}")
            before_y = y
        return f'<path class="line {line.css}" d="{"".join(points)}"/>'

    def shade(self, span: Span) -> str:
        x1, x2 = self.x(span.from_s), self.x(span.to_s)
        return f'<rect class="{span.css}" x="{x1:.1f}" y="{TOP_PX}" width="{x2 - x1:.1f}" height="{self.height}"/>'

    def band(self, middle: Series, half_width: Series) -> str:
        upper = [(s, w + h) for s, w, h in zip(middle.at_s, middle.power_w, half_width.power_w, strict=True)]
        lower = [(s, w - h) for s, w, h in zip(middle.at_s, middle.power_w, half_width.power_w, strict=True)]
        corners = " ".join(f"{self.x(s):.1f},{self.y(w):.1f}" for s, w in upper + lower[::-1])
        return f'<polygon class="band" points="{corners}"/>'


def _ticks(low: float, high: float, n_about: int) -> list[float]:
    """Return round numbers in [low, high]: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / n_about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step)
    return [round(k * step, 10) for k in range(first, math.floor(high / step) + 1)]
