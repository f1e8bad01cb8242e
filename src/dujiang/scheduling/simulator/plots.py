"""What reports of the queue are made of: tables, lines, and when jobs ran, as HTML and SVG without anything else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

_COLOURS: Final = ("#0b62a4", "#c9512c", "#3c8d40", "#7d4bb0", "#8a6d1f", "#b03a6b")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 920, 260, 64, 30
_STYLE: Final = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;color:#1c2733}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .8rem .2rem 0;text-align:right;border-bottom:1px solid #d8dee4}
td:first-child,th:first-child{text-align:left}
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#44525f}.key span{margin-right:1.2rem}
@media(prefers-color-scheme:dark){body{background:#11171d;color:#dfe7ee}svg text{fill:#a9b7c4}}"""


def page(title: str, parts: Sequence[str]) -> str:
    """Return a page of parts that are HTML already."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def lines(series: Sequence[Sequence[tuple[float, float]]], span: tuple[float, float], unit: str, across: str) -> str:
    """Return curves over 0 to 1, between two values."""
    low, high = span
    inner_w, inner_h = _WIDTH - _LEFT - 10, _HEIGHT - _BOTTOM - 10

    def at(x: float, y: float) -> str:
        return f"{_LEFT + x * inner_w:.1f},{10 + inner_h * (1 - (min(high, max(low, y)) - low) / (high - low)):.1f}"

    grid = "".join(
        f'<path d="M{_LEFT} {10 + inner_h * part / 4:.1f}h{inner_w}" stroke="#8895a0" stroke-opacity=".3"/>'
        f'<text x="{_LEFT - 8}" y="{14 + inner_h * part / 4:.1f}" text-anchor="end">'
        f"{high - (high - low) * part / 4:g}</text>"
        for part in range(5)
    )
    drawn = "".join(
        f'<polyline fill="none" stroke="{_COLOURS[place % len(_COLOURS)]}" stroke-width="1.6" '
        f'points="{" ".join(at(x, y) for x, y in points)}"/>'
        for place, points in enumerate(series)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(unit)}">{grid}{drawn}'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{escape(unit)}; across: {escape(across)}</text></svg>'
    )


def gantt(
    rows: Sequence[tuple[str, float, float, Sequence[tuple[float, float]]]], begin: float, end: float, told: str
) -> str:
    """Return when jobs waited and ran.

    Args:
        rows: name, submission, end, and the stretches in which it ran.
        begin: of the whole time.
        end: of the whole time.
        told: what a row is.
    """
    inner, height = _WIDTH - 160, 16 * len(rows) + 24

    def x(at: float) -> float:
        return 150 + inner * (at - begin) / max(1e-9, end - begin)

    bars = "".join(
        f'<text x="0" y="{16 * line + 12}">{escape(name)}</text>'
        f'<rect x="{x(submit):.1f}" y="{16 * line + 6}" height="4" fill="#c9512c" fill-opacity=".35" '
        f'width="{max(0.5, x(over) - x(submit)):.1f}"/>'
        for line, (name, submit, over, _) in enumerate(rows)
    )
    ran = "".join(
        f'<rect x="{x(start):.1f}" y="{16 * line + 2}" height="12" fill="#0b62a4" '
        f'width="{max(0.5, x(stop) - x(start)):.1f}"/>'
        for line, (*_, spans) in enumerate(rows)
        for start, stop in spans
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="When jobs ran">{bars}{ran}'
        f'<text x="150" y="{height - 6}">{escape(told)}; thin: from submission to end, thick: running</text></svg>'
    )


def key(names: Sequence[str]) -> str:
    """Return which colour is which."""
    spans = (
        f'<span style="color:{_COLOURS[place % len(_COLOURS)]}">&#9632; {escape(name)}</span>'
        for place, name in enumerate(names)
    )
    return f'<p class="key">{"".join(spans)}</p>'


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
