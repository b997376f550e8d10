"""The picture of a comparison: SQNR by layer and module type, laid out as a scene.

Layers run from left to right and module types from top to bottom, with both margins added up.
Beside them stand the tensors outside of layers, above them the colour scale with the spread
of all tensors, below them the tensors that are farthest off.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from anamnesis.analytics.diff.grid import Cell, Grid, gather, scale
from anamnesis.analytics.diff.record import Findings, Row, decibels
from anamnesis.analytics.diff.scene import (
    FAINT,
    INK,
    PAPER,
    RULE,
    Box,
    Label,
    Scene,
    colour_at,
    fit_text,
    ink_on,
    text_width,
    ticks,
)
from anamnesis.kernels.diff import metrics

EDGE = 28.0
_ROW, _GAP, _TOTAL = 26.0, 10.0, 46.0
_GRID_WIDTH = 1050.0
_OUTSIDE_SHOWN, _WORST_SHOWN, _BINS = 14, 8, 64
_SAME, _BROKEN = "#e7e9ec", "#c4314b"


class Picture:
    """Draws one comparison; `scene` is the result."""

    def __init__(self, found: Findings) -> None:
        self.found = found
        self.grid: Grid = gather(found)
        self.scale = scale(self.grid)
        names = [fit_text(name, 420, 18) for name in _short_names(found.a, found.b)]
        self.scene = Scene(f"{names[1]} against {names[0]}")
        self._right = EDGE
        top = self._legend(self._heading(names))
        bottom = top
        if self.grid.lines:
            bottom = self._heatmap(top)
        if self.grid.outside:
            aside = self._right + 2 * EDGE if self.grid.lines else EDGE
            bottom = max(bottom, self._outside(aside, top))
        bottom = self._worst(bottom + EDGE)
        self.scene.width = max(self._right, EDGE + 760) + EDGE
        self.scene.height = bottom + EDGE

    def _heading(self, names: list[str]) -> float:
        add, found = self.scene.add, self.found
        about = f"A: {found.a}\nB: {found.b}"
        add(Label(EDGE, 44, self.scene.title, 18, bold=True, about=about))
        y = 66.0
        add(Label(EDGE, y, found.summary(), 12.5, colour=FAINT))
        schemes = [", ".join(_schemes(found, side)) for side in ("a", "b")]
        for letter, name, told in zip("AB", names, schemes, strict=True):
            y += 17
            add(Label(EDGE, y, letter, 12, bold=True))
            add(Label(EDGE + 16, y, fit_text(f"{name}: {told}", 720), 12, colour=FAINT))
        return y + 26

    def _legend(self, y: float) -> float:
        """The colour scale under a histogram of the tensors, and the colours off the scale."""
        add, width, high = self.scene.add, 320.0, 26.0
        counts = self._histogram()
        if not any(counts):
            self._states(EDGE, y - 14)
            return y + 22
        most = max([1, *counts])
        step = width / _BINS
        for at, count in enumerate(counts):
            if count:
                tall = max(1.5, high * count / most)
                x, top = EDGE + at * step, y + high - tall
                add(Box(x, top, step - 0.5, tall, "#9aa2ad", about=f"{count} tensors"))
        y += high + 2
        for at in range(_BINS):
            add(Box(EDGE + at * step, y, step + 0.6, 10, colour_at((at + 0.5) / _BINS)))
        marks: dict[float, str] = {
            tick: str(tick) for tick in ticks(self.scale.low, self.scale.high)
        }
        if self.scale.clipped_low:
            marks[self.scale.low] = f"≤ {self.scale.low:g}"
        if self.scale.clipped_high:
            marks[self.scale.high] = f"≥ {self.scale.high:g}"
        near = 0.07 * (self.scale.high - self.scale.low)  # to a mark that says more
        ends = [tick for tick, mark in marks.items() if len(mark.split()) > 1]
        for tick, mark in marks.items():
            if tick not in ends and any(abs(tick - end) < near for end in ends):
                continue
            x = EDGE + width * self.scale.share(tick)
            add(Box(x - 0.5, y + 10, 1, 4, FAINT))
            add(Label(x, y + 25, mark.replace("-", "−"), 10.5, "middle", FAINT))
        text = "SQNR in dB: higher is closer, 6 dB more are half the error"
        add(Label(EDGE + width + 20, y + 9, text, 11.5))
        self._states(EDGE + width + 20, y + 16)
        return y + 50

    def _states(self, x: float, y: float) -> None:
        """What the colours off the scale mean, of those that occur."""
        add = self.scene.add
        states = [("=", _SAME, "all BF16 bits equal", any(r.identical for r in self._rows()))]
        broken = any(row.broken for row in self._rows())
        states.append(("×", _BROKEN, "NaN or infinity on one side", broken))
        for sign, fill, text, there in states:
            if there:
                add(Box(x, y, 14, 14, fill))
                add(Label(x + 7, y + 11, sign, 11, "middle", ink_on(fill), bold=True))
                add(Label(x + 20, y + 11, text, 11.5))
                x += 40 + text_width(text, 11.5)

    def _histogram(self) -> list[int]:
        counts = [0] * _BINS
        for row in self._rows():
            if not row.identical and math.isfinite(row.sqnr_db):
                at = int(self.scale.share(row.sqnr_db) * _BINS)
                counts[min(_BINS - 1, max(0, at))] += 1
        return counts

    def _rows(self) -> tuple[Row, ...]:
        return self.found.compared

    def _heatmap(self, y: float) -> float:
        add, grid = self.scene.add, self.grid
        columns = len(grid.columns)
        wide = max(5.0, min(58.0, math.floor(_GRID_WIDTH / max(1, columns))))
        labels = [fit_text(line.label, 190) for line in grid.lines]
        left = EDGE + max([text_width("whole layer"), *map(text_width, labels)]) + 10
        end = left + columns * wide
        sums = columns > 1
        total = end + _GAP
        self._right = total + _TOTAL if sums else end
        self._layer_axis(left, y, wide)
        if sums:
            add(Label(total + _TOTAL / 2, y + 14, "all", 11, "middle", FAINT))
        y += 20
        group = None
        for line, label in zip(grid.lines, labels, strict=True):
            if line.group != group:
                group = line.group
                y += 16
                add(Label(left - 10, y - 4, fit_text(group, 300, 10.5), 10.5, "end", FAINT))
            add(Label(left - 10, y + _ROW / 2 + 4, label, 12, "end", about=line.label))
            for at, found in line.cells.items():
                where = f"{self._layer(at)}, {line.label}"
                self._cell(found, left + at * wide, y, wide, _ROW, where)
            if sums:
                self._cell(line.total, total, y, _TOTAL, _ROW, f"all layers, {line.label}")
            y += _ROW
        if grid.bottom:
            y += _GAP
            add(Label(left - 10, y + _ROW / 2 + 4, "whole layer", 12, "end"))
            for at, found in grid.bottom.items():
                where = f"{self._layer(at)}, all modules"
                self._cell(found, left + at * wide, y, wide, _ROW, where)
            y += _ROW
        if grid.left_out:
            text = f"and {grid.left_out} more module types, closer than these"
            add(Label(left, y + 16, text, 11, colour=FAINT))
            y += 20
        return y

    def _layer_axis(self, left: float, y: float, wide: float) -> None:
        columns = self.grid.columns
        self.scene.add(Label(left - 10, y + 14, "layer", 11, "end", FAINT))
        widest = text_width(str(columns[-1][1]), 10.5) + 8
        every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000) if n * wide >= widest)
        for at, (first, _) in enumerate(columns):
            if at % every == 0:
                x = left + (at + 0.5) * wide
                self.scene.add(Label(x, y + 14, str(first), 10.5, "middle", FAINT))

    def _layer(self, at: int) -> str:
        first, last = self.grid.columns[at]
        return f"layer {first}" if first == last else f"layers {first} to {last}"

    def _cell(
        self, found: Cell, x: float, y: float, width: float, height: float, where: str
    ) -> None:
        fill, sign = self._look(found, width)
        inset = 1.0 if width > 12 else 0.5
        self.scene.add(
            Box(
                x + inset / 2,
                y + inset / 2,
                width - inset,
                height - inset,
                fill,
                about=found.about(where),
            )
        )
        if sign:
            size = 11.0 if width >= 22 else 8.5
            ink = FAINT if fill == _SAME else ink_on(fill)
            middle = y + height / 2 + 0.36 * size
            self.scene.add(Label(x + width / 2, middle, sign, size, "middle", ink))

    def _look(self, found: Cell, width: float) -> tuple[str, str]:
        """The colour of a cell, and what is written in it."""
        if found.broken:
            return _BROKEN, "×" if width >= 14 else ""
        if found.identical:
            return _SAME, "=" if width >= 14 else ""
        value = found.sqnr_db
        if math.isnan(value):
            return PAPER, ""
        if math.isinf(value):
            return colour_at(1 if value > 0 else 0), ("∞" if value > 0 else "−∞")
        fill = colour_at(self.scale.share(value))
        for digits, least in ((1, 34), (0, 20)):
            if width >= least:
                return fill, f"{value:.{digits}f}".replace("-", "−")
        return fill, ""

    def _outside(self, x: float, y: float) -> float:
        """Tensors outside of layers, as a list; the worst of them where there are many."""
        found = sorted(self.grid.outside, key=lambda item: item[1].rank)
        lists = 1 if self.grid.lines else 3
        shown = found[: lists * _OUTSIDE_SHOWN]
        heading = "outside of layers" if self.grid.lines else "tensors"
        bottom = y
        for at in range(0, len(shown), _OUTSIDE_SHOWN):
            part = shown[at : at + _OUTSIDE_SHOWN]
            below = self._list(part, x, y, heading if at == 0 else "")
            bottom = max(bottom, below)
            x = self._right + EDGE
        if len(found) > len(shown):
            text = f"and {len(found) - len(shown)} closer ones"
            self.scene.add(Label(self._right, bottom + 16, text, 11, "end", FAINT))
            bottom += 20
        return bottom

    def _list(self, found: Sequence[tuple[str, Cell]], x: float, y: float, heading: str) -> float:
        add = self.scene.add
        names = [fit_text(name, 230) for name, _ in found]
        end = x + max([120.0, *map(text_width, names)]) + 10
        add(Label(end + _TOTAL, y + 14, heading, 11, "end", FAINT))
        y += 36 if self.grid.lines else 22
        for (name, one), label in zip(found, names, strict=True):
            add(Label(end - 10, y + _ROW / 2 + 4, label, 12, "end", about=name))
            self._cell(one, end, y, _TOTAL, _ROW, name)
            y += _ROW
        self._right = max(self._right, end + _TOTAL)
        return y

    def _worst(self, y: float) -> float:
        """The tensors with the largest relative error, as bars."""
        add = self.scene.add
        rows = [row for row in self._rows() if not row.identical][:_WORST_SHOWN]
        if not rows:
            return y - EDGE
        add(Box(EDGE, y - 8, max(self._right, EDGE + 760) - EDGE, 1, RULE))
        add(Label(EDGE, y + 14, "Farthest off", 13, bold=True))
        text = "relative error: |A − B| / |A| over a tensor"
        add(Label(EDGE + 110, y + 14, text, 11.5, colour=FAINT))
        y += 26
        names = [fit_text(row.tensor, 380) for row in rows]
        left = EDGE + max(map(text_width, names)) + 12
        errors = [metrics(row.sums)["relative_error"] if row.sums else math.nan for row in rows]
        most = max([e for e in errors if math.isfinite(e)], default=1.0) or 1.0
        for row, name, error in zip(rows, names, errors, strict=True):
            add(Label(EDGE, y + 14, name, 12, about=row.tensor))
            long, fill = 260.0, _BROKEN
            if not row.broken:
                long = 260 * min(1.0, error / most) if math.isfinite(error) else 260.0
                fill = self._look(Cell((row,), row.sqnr_db), 0)[0]
            add(Box(left, y + 3, max(1.5, long), 14, fill))
            add(Label(left + max(1.5, long) + 8, y + 14, self._told(row, error), 11.5, colour=INK))
            y += 21
        return y

    @staticmethod
    def _told(row: Row, error: float) -> str:
        if row.broken:
            return f"{row.broken:,} numbers are NaN or infinite on one side only"
        if not math.isfinite(error):
            return decibels(row.sqnr_db)
        most = metrics(row.sums)["max_abs_error"] if row.sums else math.nan
        percent = f"{100 * error:.3g} %" if error < 10 else f"× {error:.3g}"
        told = f"{percent} · {decibels(row.sqnr_db)} · max error {most:.3g}"
        return told.replace("-", "−")


def draw(found: Findings) -> Scene:
    """The scene of a comparison."""
    return Picture(found).scene


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
    return names[0], names[1]
