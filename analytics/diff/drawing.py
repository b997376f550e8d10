"""A comparison as a picture that a notebook shows."""

from __future__ import annotations

from dataclasses import dataclass

from anamnesis.analytics.diff.plot import render
from anamnesis.analytics.diff.record import Findings


@dataclass(frozen=True, slots=True, repr=False)
class Drawing:
    """SQNR by layer and module type, drawn when it is shown or asked for; needs matplotlib."""

    found: Findings

    @property
    def svg(self) -> str:
        """The picture as an SVG document, with tooltips."""
        return render(self.found, ".svg").decode()

    @property
    def png(self) -> bytes:
        """The picture as PNG, with twice the pixels that it takes."""
        return render(self.found, ".png")

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Drawing of {self.found.a!r} : {self.found.b!r}>"


__all__ = ["Drawing"]
