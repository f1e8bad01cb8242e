"""Writes what an experiment came to as one HTML file: a table and plots, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

_COLOURS: Final = ("#0b62a4", "#d1495b", "#2e8b57", "#8a5cb8", "#c77f12", "#4a4a4a", "#00868b", "#a0522d")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 320, 48, 28

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1c1c1c}"
    "table{border-collapse:collapse}td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}text{font-size:12px;fill:#444}"
)


def openb_report(about: Mapping[str, Any], policies: Sequence[Mapping[str, Any]]) -> str:
    """Return the page for policies side by side, each as `dujiang simulate openb --json` writes it."""
    facts = ", ".join(f"{name} {value}" for name, value in about.items())
    curves = [(str(each["policy"]), _points(each["allocation_pct"])) for each in policies]
    lost = [(str(each["policy"]), _points(each["fragments_pct"])) for each in policies]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Placement on a trace</title>'
        f"<style>{_STYLE}</style><h1>Placement on a trace</h1><p>{escape(facts)}</p>{_table(policies)}"
        f"<h2>Allocated GPUs, % of all, by % of arrival</h2>{line_plot(curves)}"
        f"<h2>Fragments, % of all GPUs, by % of arrival</h2>{line_plot(lost)}</html>\n"
    )


def line_plot(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> str:
    """Return curves as one SVG with axes and a legend; from zero on both axes."""
    right = max((x for _, points in curves for x, _ in points), default=1.0) or 1.0
    top = max((y for _, points in curves for _, y in points), default=1.0) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return (_LEFT + x / right * (_WIDTH - _LEFT - 8), (_HEIGHT - _BOTTOM) * (1 - y / top) + 8)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 8 + 18 * len(curves)}" role="img">']
    for step in range(6):
        x, y = at(right * step / 5, top * step / 5)
        parts += [
            f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * step / 5:.3g}</text>',
            f'<text x="{x:.1f}" y="{_HEIGHT}" text-anchor="middle">{right * step / 5:.3g}</text>',
        ]
    for number, (name, points) in enumerate(curves):
        colour, y = _COLOURS[number % len(_COLOURS)], _HEIGHT + 18 * (number + 1)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts += [
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>',
            f'<rect x="{_LEFT}" y="{y - 9}" width="12" height="4" fill="{colour}"/>',
            f'<text x="{_LEFT + 20}" y="{y - 3}">{escape(name)}</text>',
        ]
    return "".join([*parts, "</svg>"])


def _points(by_percent: Mapping[str, float]) -> list[tuple[float, float]]:
    return sorted((float(at), float(value)) for at, value in by_percent.items())


def _table(policies: Sequence[Mapping[str, Any]]) -> str:
    titles = ("policy", "allocated, %", "pods placed", "fragments, GPUs", "idle, GPUs", "moves", "decisions/s")
    rows = []
    for each in policies:
        last = max(each["allocation_pct"], key=int)
        cells = (
            escape(str(each["policy"])), f"{each['allocation_pct'][last]:.2f}", f"{each['pods_placed']:.0f}",
            f"{each['fragments_gpus']:.1f}", f"{each['idle_gpus']:.1f}", f"{each['moves']:.0f}",
            f"{each['decisions_per_s']:,.0f}",
        )  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "<table><tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>" + "".join(rows) + "</table>"
