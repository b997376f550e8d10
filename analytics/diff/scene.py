"""What a picture is made of: rectangles, lines and texts in pixels, and the colours of numbers.

A scene knows nothing of files; `diff_plot` writes one as SVG, HTML or PNG. Texts are what files
say, so whoever writes them escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from anamnesis.pipeline.progress import printable

# Ten steps of viridis (S. van der Walt and N. Smith, 2015; CC0): even to the eye, rising in
# lightness, and told apart with any kind of colour vision. Dark is the low end.
_VIRIDIS = (
    (0x44, 0x01, 0x54),
    (0x48, 0x28, 0x78),
    (0x3E, 0x49, 0x89),
    (0x31, 0x68, 0x8E),
    (0x26, 0x82, 0x8E),
    (0x1F, 0x9E, 0x89),
    (0x35, 0xB7, 0x79),
    (0x6E, 0xCE, 0x58),
    (0xB5, 0xDE, 0x2B),
    (0xFD, 0xE7, 0x25),
)
INK, FAINT, RULE, PAPER = "#1f2328", "#656d76", "#c8ccd1", "#ffffff"
_NARROW, _WIDE = "fijlrtI.,:;'|!()[]{} ", "mwMW@%—"


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle; `about` is shown when the mouse is over it."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """A line of text on the baseline `y`."""

    x: float
    y: float
    text: str
    size: float = 12
    anchor: Literal["start", "middle", "end"] = "start"
    colour: str = INK
    bold: bool = False
    about: str = ""


@dataclass(slots=True)
class Scene:
    """A picture of `width` by `height` pixels; later parts cover earlier ones."""

    title: str
    width: float = 0
    height: float = 0
    parts: list[Box | Label] = field(default_factory=list)

    def add(self, *parts: Box | Label) -> None:
        """Draw these, and grow to hold them."""
        self.parts += parts


def colour_at(share: float) -> str:
    """The colour of a number that lies at `share` of the scale, 0 to 1; beyond, that of its end."""
    at = min(1.0, max(0.0, share)) * (len(_VIRIDIS) - 1)
    low = min(int(at), len(_VIRIDIS) - 2)
    first, second = _VIRIDIS[low], _VIRIDIS[low + 1]
    mixed = (round(x + (y - x) * (at - low)) for x, y in zip(first, second, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def ink_on(fill: str) -> str:
    """Black or white, whichever reads better on a colour (WCAG 2 relative luminance)."""
    channels = [int(fill[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return PAPER if luminance < 0.22 else INK


def text_width(text: str, size: float = 12) -> float:
    """About as wide as a sans-serif font sets it, and rather more than less."""
    wide = sum(
        0.36 if c in _NARROW else 0.95 if c in _WIDE else 1.05 if ord(c) > 0x2E80 else 0.63
        for c in text
    )
    return wide * size


def fit_text(text: str, width: float, size: float = 12) -> str:
    """The text on one line, its middle left out where it would be wider."""
    text = printable(text)[:1000]
    if text_width(text, size) <= width:
        return text
    keep = len(text) - 1
    while keep > 4 and text_width(_shortened(text, keep), size) > width:
        keep -= 1
    return _shortened(text, keep)


def _shortened(text: str, keep: int) -> str:
    head = keep // 3
    return f"{text[:head]}…{text[len(text) - (keep - head) :]}"


def ticks(low: float, high: float) -> Sequence[int]:
    """Round numbers from `low` to `high`, five or so."""
    span = max(1.0, high - low)
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if span / s <= 7)
    first = -(-int(low) // step) * step
    return [n for n in range(first, int(high) + 1, step) if n >= low]
