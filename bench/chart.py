"""
The plot of the benchmarks: each measure as a multiple of what one of the compared reached, bars on a logarithmic axis,
as SVG text.

    get   | ############ fastkv 1,500,000   2.1x
          | ######       lmdb     700,000   1.0x

That one is lmdb for the stores, etcd for the servers; where it was not measured, the first that was is the unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from xml.sax.saxutils import escape

COLOURS = {
    "fastkv": "#d1495b",
    "python": "#edae49",
    "lmdb": "#30638e",
    "rocksdict": "#00798c",
    "sqlite3": "#8d96a3",
    "dict": "#c9c9c9",
    "etcd": "#30638e",
    "native": "#d1495b",
    "grpcio": "#00798c",
}
BAR, GAP, LEFT, RIGHT, TOP, PLOT = 14, 14, 330, 190, 62, 520


def draw(
    title: str,
    found: dict[str, dict[str, float]],
    stores: list[str],
    measures: dict[str, str],
    unit: str = "lmdb",
    label: Callable[[str, float], str] = lambda name, value: f"{value:,.0f}/s",
) -> str:
    """`found`: store -> measure -> value, larger is better. `measures`: measure -> its text, in order."""
    groups = []
    for name, text in measures.items():
        values = [(store, found[store][name]) for store in stores if found.get(store, {}).get(name)]
        if values:
            one = dict(values).get(unit, values[0][1])
            groups.append((text, [(store, label(name, value), value / one) for store, value in values]))
    ratios = [ratio for _, bars in groups for _, _, ratio in bars] or [1.0]
    low = 10 ** math.floor(math.log10(min(*ratios, 0.5)))
    high = 10 ** math.ceil(math.log10(max(*ratios, 2.0)))

    def x(ratio: float) -> float:
        return LEFT + PLOT * (math.log10(ratio) - math.log10(low)) / (math.log10(high) - math.log10(low))

    body = []
    y = TOP
    for text, bars in groups:
        body.append(f'<text x="{LEFT - 10}" y="{y + len(bars) * BAR / 2 + 4}" text-anchor="end">{escape(text)}</text>')
        for store, value, ratio in bars:
            width = max(1.0, x(ratio) - LEFT)
            body.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{COLOURS[store]}"/>')
            words = escape(f"{store} {value}  {ratio:.2f}x")
            body.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + BAR - 4}" class="small">{words}</text>')
            y += BAR
        y += GAP
    ticks = []
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = x(10.0**power)
        ticks.append(f'<line x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{y}" stroke="#ddd"/>')
        ticks.append(f'<text x="{at:.1f}" y="{TOP - 14}" text-anchor="middle" class="small">{10.0**power:g}x</text>')
    width, height = LEFT + PLOT + RIGHT, y + 10
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
            "<style>text { font: 12px sans-serif; fill: #222 } .small { font-size: 10.5px }</style>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            f'<text x="14" y="22" style="font-weight: bold">{escape(title)}; multiples of {unit}, logarithmic</text>',
            *ticks,
            *body,
            "</svg>\n",
        ]
    )
