"""The picture of a comparison, drawn by matplotlib: SQNR by layer and module type.

Layers run from left to right and module types from top to bottom, with both margins added up.
Beside them stand the tensors outside of layers, above them the colour scale with the spread of
all tensors, below them the tensors that are farthest off. One pair of axes covers the figure, its
units are pixels and its y runs downwards: where a cell stands depends on how long names are.

viridis is even to the eye, rises in lightness and reads with any kind of colour vision.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anamnesis.analytics.diff.grid import Cell, Grid, Scale, gather, scale
from anamnesis.analytics.diff.record import Findings, Row, decibels
from anamnesis.kernels.diff import metrics
from anamnesis.pipeline.progress import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100  # pixels an inch
_EDGE, _ROW, _GAP, _TOTAL = 28.0, 26.0, 10.0, 46.0
_GRID_WIDTH, _LEAST_WIDTH = 1050.0, 760.0
_OUTSIDE_SHOWN, _WORST_SHOWN, _BINS = 14, 8, 64
_INK, _FAINT, _RULE, _PAPER = "#1f2328", "#656d76", "#c8ccd1", "#ffffff"
_SAME, _BROKEN = "#e7e9ec", "#c4314b"
_LETTER = 0.63  # widths of a letter of DejaVu Sans in its size, rather more than the mean


@dataclass(slots=True)
class Picture:
    """A comparison on one pair of axes; `abouts` has the tooltips of a page by an artist's gid."""

    found: Findings
    axes: Axes
    grid: Grid
    scale: Scale
    abouts: dict[str, str] = field(default_factory=dict)
    right: float = _EDGE

    def text(
        self, x: float, y: float, text: str, size: float = 12, side: str = "left", about: str = ""
    ) -> None:
        """One line on the baseline `y`; grey where it is set to another side than the left."""
        colour = _INK if side == "left" or about else _FAINT
        self._note(self._write(x, y, text, size, side, colour), about)

    def _write(self, x: float, y: float, text: str, size: float, side: str, colour: str) -> str:
        gid = f"t{len(self.axes.texts)}"
        self.axes.text(
            x,
            y,
            printable(text),
            fontsize=size * 72 / DPI,
            ha=side,
            va="baseline",
            color=colour,
            parse_math=False,
            gid=gid,
        )
        return gid

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, about: str = ""
    ) -> None:
        """A filled rectangle whose upper left corner is given."""
        from matplotlib.patches import Rectangle

        gid = f"b{len(self.axes.patches)}"
        self.axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, lw=0, gid=gid))
        self._note(gid, about)

    def _note(self, gid: str, about: str) -> None:
        if about:
            self.abouts[gid] = "\n".join(printable(line) for line in about.split("\n"))

    def cell(self, found: Cell, x: float, y: float, width: float, where: str) -> None:
        """The SQNR of some tensors as a colour, and as a number where it has room."""
        fill, sign = self._look(found, width)
        inset = 1.0 if width > 12 else 0.5
        self.box(x, y, width - inset, _ROW - inset, fill, found.about(where))
        if sign:
            size = 11.0 if width >= 22 else 8.5
            ink = _FAINT if fill == _SAME else _ink_on(fill)
            self._write(x + width / 2, y + _ROW / 2 + 0.36 * size, sign, size, "center", ink)

    def colour(self, sqnr_db: float) -> str:
        """The colour of a number; beyond the scale, that of its end."""
        return _viridis(self.scale.share(sqnr_db))

    def _look(self, found: Cell, width: float) -> tuple[str, str]:
        """The colour of a cell, and what is written in it."""
        value = found.sqnr_db
        if found.broken:
            return _BROKEN, "×" if width >= 14 else ""
        if found.identical:
            return _SAME, "=" if width >= 14 else ""
        if math.isnan(value):
            return _PAPER, ""
        if math.isinf(value):
            return _viridis(float(value > 0)), "∞" if value > 0 else "−∞"
        digits = 1 if width >= 34 else 0
        return self.colour(value), _minus(f"{value:.{digits}f}") if width >= 20 else ""


def draw(found: Findings) -> tuple[Figure, dict[str, str]]:
    """The figure of a comparison, and the tooltips of its artists by their `gid`."""
    from matplotlib.figure import Figure

    figure = Figure(dpi=DPI, facecolor=_PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    grid = gather(found)
    picture = Picture(found, axes, grid, scale(grid))
    top = bottom = _legend(picture, _heading(picture))
    if grid.lines:
        bottom = _heatmap(picture, top)
    if grid.outside:
        aside = picture.right + 2 * _EDGE if grid.lines else _EDGE
        bottom = max(bottom, _outside(picture, aside, top))
    bottom = _worst(picture, bottom + _EDGE)
    width, height = max(picture.right, _EDGE + _LEAST_WIDTH) + _EDGE, bottom + _EDGE
    axes.set(xlim=(0, width), ylim=(height, 0))
    figure.set_size_inches(width / DPI, height / DPI)
    return figure, picture.abouts


def title(found: Findings) -> str:
    """What the picture is of: the shortest names that tell the two sides apart."""
    a, b = _short_names(found.a, found.b)
    return f"{b} against {a}"


def _heading(to: Picture) -> float:
    found, y = to.found, 66.0
    to.text(_EDGE, 44, title(found), 18, about=f"A: {found.a}\nB: {found.b}")
    to.text(_EDGE, y, found.summary(), 12.5)
    for letter, name in zip("ab", _short_names(found.a, found.b), strict=True):
        y += 17
        schemes = ", ".join(_schemes(found, letter))
        to.text(_EDGE, y, _fit(f"{letter.upper()}  {name}: {schemes}", 740))
    return y + 26


def _legend(to: Picture, y: float) -> float:
    """The colour scale under a histogram of the tensors, and the colours off the scale."""
    shares = [
        min(0.999, max(0.0, to.scale.share(row.sqnr_db)))
        for row in to.found.compared
        if not row.identical and math.isfinite(row.sqnr_db)
    ]
    if not shares:
        _states(to, _EDGE, y - 14)
        return y + 22
    width, high, step = 320.0, 26.0, 320.0 / _BINS
    counts = [0] * _BINS
    for share in shares:
        counts[int(share * _BINS)] += 1
    for at, count in enumerate(counts):
        x, tall = _EDGE + at * step, max(1.5, high * count / max(counts))
        if count:
            to.box(x, y + high - tall, step - 0.5, tall, "#9aa2ad", f"{count} tensors")
        to.box(x, y + high + 2, step + 0.6, 10, _viridis((at + 0.5) / _BINS))
    y += high + 2
    for tick, mark in _marks(to.scale).items():
        x = _EDGE + width * to.scale.share(tick)
        to.box(x - 0.5, y + 10, 1, 4, _FAINT)
        to.text(x, y + 25, _minus(mark), 10.5, "center")
    to.text(
        _EDGE + width + 20,
        y + 9,
        "SQNR in dB: higher is closer, 6 dB more are half the error",
        11.5,
    )
    _states(to, _EDGE + width + 20, y + 16)
    return y + 50


def _marks(scale: Scale) -> dict[float, str]:
    """Ticks of the colour scale; its ends say so where tensors lie beyond them."""
    from matplotlib.ticker import MaxNLocator

    marks = {
        float(tick): f"{tick:g}"
        for tick in MaxNLocator(6, integer=True).tick_values(scale.low, scale.high)
        if scale.low <= tick <= scale.high
    }
    near = 0.07 * (scale.high - scale.low)
    ends = ((scale.low, "≤", scale.clipped_low), (scale.high, "≥", scale.clipped_high))
    for end, sign, clipped in ends:
        if clipped:
            marks = {tick: mark for tick, mark in marks.items() if abs(tick - end) >= near}
            marks[end] = f"{sign} {end:g}"
    return marks


def _states(to: Picture, x: float, y: float) -> None:
    """What the colours off the scale mean, of those that occur."""
    rows = to.found.compared
    for sign, fill, text, there in (
        ("=", _SAME, "all BF16 bits equal", any(row.identical for row in rows)),
        ("×", _BROKEN, "NaN or infinity on one side", any(row.broken for row in rows)),
    ):
        if there:
            to.box(x, y, 14, 14, fill)
            to._write(x + 7, y + 11, sign, 11, "center", _ink_on(fill))
            to.text(x + 20, y + 11, text, 11.5)
            x += 40 + _width(text, 11.5)


def _heatmap(to: Picture, y: float) -> float:
    grid = to.grid
    columns = len(grid.columns)
    wide = max(5.0, min(58.0, math.floor(_GRID_WIDTH / max(1, columns))))
    labels = [_fit(line.label, 190) for line in grid.lines]
    left = _EDGE + max(_width("whole layer"), *map(_width, labels)) + 10
    total = left + columns * wide + _GAP
    to.right = total + _TOTAL if columns > 1 else total - _GAP
    _layer_axis(to, left, y, wide)
    if columns > 1:
        to.text(total + _TOTAL / 2, y + 14, "all", 11, "center")
    y += 20
    group = None
    for line, label in zip(grid.lines, labels, strict=True):
        if line.group != group:
            group = line.group
            y += 16
            to.text(left - 10, y - 4, _fit(group, 300, 10.5), 10.5, "right")
        to.text(left - 10, y + _ROW / 2 + 4, label, 12, "right", about=line.label)
        _line(to, line.cells, left, y, wide, line.label)
        if columns > 1:
            to.cell(line.total, total, y, _TOTAL, f"all layers, {line.label}")
        y += _ROW
    if grid.bottom:
        y += _GAP
        to.text(left - 10, y + _ROW / 2 + 4, "whole layer", 12, "right")
        _line(to, grid.bottom, left, y, wide, "all modules")
        y += _ROW
    if grid.left_out:
        to.text(left, y + 16, f"and {grid.left_out} more module types, closer than these", 11)
        y += 20
    return y


def _line(
    to: Picture, cells: dict[int, Cell], left: float, y: float, wide: float, what: str
) -> None:
    for at, found in cells.items():
        first, last = to.grid.columns[at]
        layer = f"layer {first}" if first == last else f"layers {first} to {last}"
        to.cell(found, left + at * wide, y, wide, f"{layer}, {what}")


def _layer_axis(to: Picture, left: float, y: float, wide: float) -> None:
    to.text(left - 10, y + 14, "layer", 11, "right")
    widest = _width(str(to.grid.columns[-1][1]), 10.5) + 8
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000) if n * wide >= widest)
    for at in range(0, len(to.grid.columns), every):
        to.text(left + (at + 0.5) * wide, y + 14, str(to.grid.columns[at][0]), 10.5, "center")


def _outside(to: Picture, x: float, y: float) -> float:
    """Tensors outside of layers, as lists; the worst of them where there are many."""
    found = sorted(to.grid.outside, key=lambda item: item[1].rank)
    shown = found[: _OUTSIDE_SHOWN * (1 if to.grid.lines else 3)]
    bottom, heading = y, "outside of layers" if to.grid.lines else "tensors"
    for at in range(0, len(shown), _OUTSIDE_SHOWN):
        part = shown[at : at + _OUTSIDE_SHOWN]
        bottom = max(bottom, _list(to, part, x, y, heading if at == 0 else ""))
        x = to.right + _EDGE
    if len(found) > len(shown):
        bottom += 20
        to.text(to.right, bottom - 4, f"and {len(found) - len(shown)} closer ones", 11, "right")
    return bottom


def _list(
    to: Picture, found: Sequence[tuple[str, Cell]], x: float, y: float, heading: str
) -> float:
    names = [_fit(name, 230) for name, _ in found]
    end = x + max(120.0, *map(_width, names)) + 10
    to.text(end + _TOTAL, y + 14, heading, 11, "right")
    y += 36 if to.grid.lines else 22
    for (name, one), label in zip(found, names, strict=True):
        to.text(end - 10, y + _ROW / 2 + 4, label, 12, "right", about=name)
        to.cell(one, end, y, _TOTAL, name)
        y += _ROW
    to.right = max(to.right, end + _TOTAL)
    return y


def _worst(to: Picture, y: float) -> float:
    """The tensors with the largest relative error, as bars."""
    rows = [row for row in to.found.compared if not row.identical][:_WORST_SHOWN]
    if not rows:
        return y - _EDGE
    rule = y - 8
    to.text(_EDGE, y + 14, "Farthest off, by relative error: |A − B| / |A| over a tensor", 12.5)
    y += 26
    names = [_fit(row.tensor, 380) for row in rows]
    left = _EDGE + max(map(_width, names)) + 12
    errors = [metrics(row.sums)["relative_error"] if row.sums else math.nan for row in rows]
    most = max([e for e in errors if math.isfinite(e)], default=1.0) or 1.0
    for row, name, error in zip(rows, names, errors, strict=True):
        to.text(_EDGE, y + 14, name, about=row.tensor)
        long = 260 * min(1.0, error / most) if math.isfinite(error) and not row.broken else 260.0
        long = max(1.5, long)
        to.box(left, y + 3, long, 14, to._look(Cell((row,), row.sqnr_db), 0)[0])
        figures = _figures(row, error)
        to.text(left + long + 8, y + 14, figures, 11.5)
        to.right = max(to.right, left + long + 8 + _width(figures, 11.5))
        y += 21
    to.box(_EDGE, rule, max(to.right, _EDGE + _LEAST_WIDTH) - _EDGE, 1, _RULE)
    return y


def _figures(row: Row, error: float) -> str:
    if row.broken:
        return f"{row.broken:,} numbers are NaN or infinite on one side only"
    if not math.isfinite(error):
        return decibels(row.sqnr_db)
    most = metrics(row.sums)["max_abs_error"] if row.sums else math.nan
    percent = f"{100 * error:.3g} %" if error < 10 else f"× {error:.3g}"
    return _minus(f"{percent} · {decibels(row.sqnr_db)} · max error {most:.3g}")


def _viridis(share: float) -> str:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["viridis"](min(1.0, max(0.0, share))))


def _ink_on(fill: str) -> str:
    """Black or white, whichever reads better on a colour (WCAG 2 relative luminance)."""
    channels = [int(fill[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return _PAPER if luminance < 0.22 else _INK


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _width(text: str, size: float = 12) -> float:
    """Pixels that a line takes at most, but for scripts of wide letters."""
    return sum(1.05 if ord(c) > 0x2E80 else _LETTER for c in text) * size


def _fit(text: str, width: float, size: float = 12) -> str:
    """The text on one line, its middle left out where it would be wider."""
    text = printable(text[:1000])
    keep = int(width / (_LETTER * size))
    if _width(text, size) <= width or len(text) <= 5:
        return text
    while keep > 4 and _width(text[: keep // 3] + "…" + text[-(keep - keep // 3) :], size) > width:
        keep -= 1
    return f"{text[: keep // 3]}…{text[-(keep - keep // 3) :]}"


def _schemes(found: Findings, side: str) -> list[str]:
    """Schemes of one side, the most common first, as counts of tensors."""
    counts: dict[str, int] = {}
    for row in found.compared:
        scheme = row.scheme_a if side == "a" else row.scheme_b
        name = "unquantised" if scheme in (None, "passthrough") else str(scheme)
        counts[name] = counts.get(name, 0) + 1
    return [f"{counts[n]} {n}" for n in sorted(counts, key=lambda n: (-counts[n], n))]


def _short_names(a: str, b: str) -> tuple[str, str]:
    """The last parts of two paths, as many as tell them apart."""
    parts = [path.rstrip("/").split(os.sep) for path in (a, b)]
    for count in range(1, 4):
        names = ["/".join(p[-count:]) for p in parts]
        if names[0] != names[1]:
            break
    return _fit(names[0], 420, 18), _fit(names[1], 420, 18)
