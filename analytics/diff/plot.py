"""A comparison's picture as SVG, as an HTML page that needs no network, or as PNG.

Texts come from files: matplotlib gets them printable and as plain text, and escapes them in SVG;
the page forbids scripts and requests. Tooltips are put into the SVG, which matplotlib has none of.
"""

from __future__ import annotations

import io
import re
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from anamnesis.analytics.diff.record import Findings
from anamnesis.analytics.table_files import check_target
from anamnesis.errors import UsageError
from anamnesis.words import extra
from anamnesis.writers.part import write_small

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".html", ".png", ".svg")
# Texts stay texts, and the same comparison gives the same bytes.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "anamnesis", "font.family": "DejaVu Sans"}
_SILENT = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ margin: 0; background: #fff }} svg {{ max-width: 100%; height: auto }}
g:hover > path {{ stroke: #1f2328; stroke-width: 1.5 }}</style>
</head>
<body>
{svg}
</body>
</html>
"""


def check_plot(path: Path, overwrite: bool) -> None:
    """UsageError when a picture cannot be drawn or cannot be written to `path`."""
    check_target(path, overwrite, SUFFIXES)
    check_matplotlib(str(path))


def check_matplotlib(what: str) -> None:
    """UsageError with the way out where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise UsageError(f"{what}: pictures need matplotlib: {extra('plot')}")


def write_plot(found: Findings, path: Path, *, overwrite: bool) -> None:
    """Draw it into a file that is there whole or not at all."""
    check_plot(path, overwrite)
    write_small(path, render(found, path.suffix))


def render(found: Findings, suffix: str) -> bytes:
    """The picture as the bytes of a file of that suffix; needs matplotlib (extra `plot`)."""
    import matplotlib as mpl

    from anamnesis.analytics.diff.picture import draw, title

    with mpl.rc_context(_STYLE):
        figure, abouts = draw(found)
        if suffix == ".png":
            sink = io.BytesIO()
            figure.savefig(sink, format="png", dpi=2 * figure.dpi)
            return sink.getvalue()
        svg = _svg(figure, {"figure_1": title(found), **abouts})
    if suffix == ".html":
        return _PAGE.format(title=escape(title(found)), svg=svg).encode()
    return svg.encode()


def _svg(figure: Figure, abouts: dict[str, str]) -> str:
    """An SVG 1.1 document; what an artist is about becomes its `<title>`, a tooltip."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata=_SILENT)

    def with_title(group: re.Match[str]) -> str:
        about = abouts.get(group[1])
        return group[0] if about is None else f"{group[0]}<title>{escape(about)}</title>"

    text = re.sub(r'<g id="(\w+)">', with_title, sink.getvalue())
    return text[text.index("<svg") :]
