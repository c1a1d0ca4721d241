"""Small plots as SVG inside a page: they take colours and fonts from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 36


def histogram(counts: Sequence[int], edges: Sequence[float], limit: float, label: str) -> str:
    """Bars over a logarithmic axis of errors, their height the logarithm of the count.

    Args:
        counts: below the first edge, between edges, from the last one on.
        edges: ascending.
        limit: of the budget, drawn as a line; bars beyond it are marked.
        label: read aloud in place of the picture.
    """
    width, height = 300, 128
    drawing = _Drawing(width, height, label)
    step = (width - 16) / len(counts)
    most = np.log10(max([*counts, 1]) + 1)
    for i, count in enumerate(counts):
        if count:
            tall = (height - 34) * np.log10(count + 1) / most
            beyond = i > 0 and edges[i - 1] >= limit
            low = "" if i == 0 else f"{edges[i - 1]:.1g}"
            high = "" if i == len(edges) else f"{edges[i]:.1g}"
            drawing.add(
                f'<rect class="{"bad" if beyond else "bar"}" x="{8 + i * step + 1:.1f}" y="{height - 24 - tall:.1f}" '
                f'width="{step - 2:.1f}" height="{tall:.1f}"><title>{low} to {high}: {count}</title></rect>'
            )
    for i, edge in enumerate(edges):
        if i % 4 == 0:
            name = "1" if edge == 1 else f"{edge:.0e}".replace("e-0", "e-")
            drawing.text(8 + (i + 1) * step, height - 8, name, "middle")
    place = float(np.interp(np.log10(max(limit, 1e-30)), np.log10(edges), np.arange(1, len(edges) + 1)))
    drawing.add(
        f'<line class="limit" x1="{8 + place * step:.1f}" x2="{8 + place * step:.1f}" y1="4" y2="{height - 24}"/>'
    )
    drawing.add(f'<line class="axis" x1="8" x2="{width - 8}" y1="{height - 24}" y2="{height - 24}"/>')
    return drawing.svg()


def lines(
    x: Sequence[int],
    series: Sequence[tuple[str, str, Sequence[float]]],
    limit: float,
    x_name: str,
    label: str,
) -> str:
    """Values over a few whole numbers, from the least value to 1.

    Args:
        series: (style class, name, values).
        limit: of the budget, drawn as a line.
    """
    width, height = 520, 240
    drawing = _Drawing(width, height, label)
    least = min([limit, *(v for _, _, values in series for v in values)])
    floor = max(0.0, least - 0.15 * (1 - least)) if least < 1 else 0.99
    inner_w, inner_h = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def at(i: float, value: float) -> tuple[float, float]:
        return _LEFT + inner_w * (i + 0.5) / len(x), _TOP + inner_h * (1 - value) / (1 - floor)

    for value in np.linspace(floor, 1, 5):
        _, y = at(0, value)
        drawing.add(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawing.text(_LEFT - 6, y + 4, f"{value:.4f}" if floor > 0.99 else f"{value:.3f}", "end")
    for i, position in enumerate(x):
        drawing.text(at(i, floor)[0], height - 18, str(position), "middle")
    drawing.text(_LEFT + inner_w / 2, height - 3, x_name, "middle")
    _, y = at(0, limit)
    drawing.add(f'<line class="limit" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for style, name, values in series:
        points = [at(i, v) for i, v in enumerate(values)]
        drawing.add(
            f'<polyline class="{style}" points="{" ".join(f"{px:.1f},{py:.1f}" for px, py in points)}"/>'
        )
        for (px, py), v, depth in zip(points, values, x, strict=True):
            title = escape(f"{name}, {x_name} {depth}: {v:.5f}")
            drawing.add(
                f'<circle class="{style}" cx="{px:.1f}" cy="{py:.1f}" r="3.5"><title>{title}</title></circle>'
            )
    return drawing.svg()


def scatter(points: Sequence[tuple[float, float, str]], x_name: str, y_name: str, label: str) -> str:
    """B over A with the diagonal on which they are equal, both axes logarithmic.

    Args:
        points: a, b (positive), what it is.
    """
    size = 300
    drawing = _Drawing(size, size, label)
    values = np.array([v for a, b, _ in points for v in (a, b)])
    low, high = np.log10(max(values.min(), 1e-6)) - 0.05, np.log10(max(values.max(), 1e-6)) + 0.05
    inner_w, inner_h = size - _LEFT - _RIGHT, size - _TOP - _BOTTOM

    def at(a: float, b: float) -> tuple[float, float]:
        x, y = ((np.log10(max(v, 1e-6)) - low) / (high - low) for v in (a, b))
        return _LEFT + inner_w * x, _TOP + inner_h * (1 - y)

    for value in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50, 100, 200):
        if low <= np.log10(value) <= high:
            x, y = at(value, value)
            drawing.add(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{size - _BOTTOM}"/>')
            drawing.add(f'<line class="grid" x1="{_LEFT}" x2="{size - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            drawing.text(x, size - 20, f"{value:g}", "middle")
            drawing.text(_LEFT - 6, y + 4, f"{value:g}", "end")
    (x1, y1), (x2, y2) = at(10**low, 10**low), at(10**high, 10**high)
    drawing.add(f'<line class="limit" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    for a, b, what in points:
        x, y = at(a, b)
        title = escape(f"{what}: {a:.2f} and {b:.2f}")
        drawing.add(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{title}</title></circle>')
    drawing.text(_LEFT + inner_w / 2, size - 3, x_name, "middle")
    drawing.add(
        f'<text transform="translate(12 {_TOP + inner_h / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_name)}</text>"
    )
    return drawing.svg()


class _Drawing:
    """An SVG element in the making."""

    def __init__(self, width: int, height: int, label: str) -> None:
        head = f'<svg role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        self._parts = [f'{head} aria-label="{escape(label)}">']

    def add(self, element: str) -> None:
        self._parts.append(element)

    def text(self, x: float, y: float, content: str, anchor: str) -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>')

    def svg(self) -> str:
        return "".join([*self._parts, "</svg>"])
