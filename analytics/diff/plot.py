"""A scene as SVG, as an HTML page that needs no network, or as PNG through matplotlib.

Texts come from files: in SVG and HTML they are escaped, and characters that XML does not have
are shown as escapes; the page forbids scripts and requests; matplotlib gets them as plain text.
"""

from __future__ import annotations

import io
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anamnesis.analytics.diff.picture import draw
from anamnesis.analytics.diff.record import Findings
from anamnesis.analytics.diff.scene import PAPER, Box, Label, Scene
from anamnesis.analytics.table_files import check_target
from anamnesis.errors import UsageError
from anamnesis.pipeline.progress import printable
from anamnesis.writers.part import write_small

SUFFIXES = (".html", ".png", ".svg")
_FONT = "'DejaVu Sans', Verdana, 'Segoe UI', Helvetica, Arial, sans-serif"
_DPI = 144  # twice the pixels of the scene
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ margin: 0; background: #fff }} svg {{ max-width: 100%; height: auto }}
rect:hover {{ stroke: #1f2328; stroke-width: 1.5 }}</style>
</head>
<body>
{svg}
</body>
</html>
"""


def check_plot(path: Path, overwrite: bool) -> None:
    """UsageError when a picture cannot be drawn or cannot be written to `path`."""
    check_target(path, overwrite, SUFFIXES)
    if path.suffix == ".png" and find_spec("matplotlib") is None:
        raise UsageError(
            f"{path}: PNG needs matplotlib: pip install 'anamnesis-arrow[plot]'; "
            ".svg and .html need nothing"
        )


def write_plot(found: Findings, path: Path, *, overwrite: bool) -> None:
    """Draw it into a file that is there whole or not at all."""
    check_plot(path, overwrite)
    scene = draw(found)
    if path.suffix == ".png":
        write_small(path, to_png(scene))
    elif path.suffix == ".html":
        title = escape(printable(scene.title))
        write_small(path, _PAGE.format(title=title, svg=to_svg(scene)).encode())
    else:
        write_small(path, to_svg(scene).encode())


def to_svg(scene: Scene) -> str:
    """An SVG 1.1 document; what a part is about becomes its `<title>`, a tooltip."""
    size = f"{scene.width:.0f} {scene.height:.0f}"
    wide, high = size.split()
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{wide}" '
        f'height="{high}" font-family="{_FONT}" role="img">',
        f"<title>{_safe(scene.title)}</title>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
    ]
    lines += [_svg_box(part) if isinstance(part, Box) else _svg_label(part) for part in scene.parts]
    return "\n".join([*lines, "</svg>", ""])


def _svg_box(box: Box) -> str:
    stroke = f' stroke="{box.stroke}"' if box.stroke else ""
    head = (
        f'<rect x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" '
        f'height="{_n(box.height)}" fill="{box.fill}"{stroke}'
    )
    return f"{head}><title>{_safe(box.about)}</title></rect>" if box.about else f"{head}/>"


def _svg_label(label: Label) -> str:
    anchor = "" if label.anchor == "start" else f' text-anchor="{label.anchor}"'
    weight = ' font-weight="bold"' if label.bold else ""
    # A number in a cell lets the mouse through to the cell, which has more to say.
    mouse = "" if label.about else ' pointer-events="none"'
    about = f"<title>{_safe(label.about)}</title>" if label.about else ""
    return (
        f'<text x="{_n(label.x)}" y="{_n(label.y)}" font-size="{label.size:g}" '
        f'fill="{label.colour}"{anchor}{weight}{mouse}>{about}{_safe(label.text)}</text>'
    )


def _n(pixels: float) -> str:
    return f"{round(pixels, 1):g}"


def _safe(text: str) -> str:
    """Printable, line by line, and escaped."""
    return "\n".join(escape(printable(line)) for line in text.split("\n"))


def to_png(scene: Scene) -> bytes:
    """PNG of twice the scene's size in pixels. Needs matplotlib, of which only Agg is used."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import Rectangle
    from matplotlib.text import Text

    figure = Figure((scene.width / 72, scene.height / 72), dpi=_DPI, facecolor=PAPER)
    points: Any = figure.dpi_scale_trans.__class__().scale(_DPI / 72)
    for part in scene.parts:
        if isinstance(part, Box):
            corner = (part.x, scene.height - part.y - part.height)
            edge = part.stroke or "none"
            figure.add_artist(
                Rectangle(
                    corner,
                    part.width,
                    part.height,
                    facecolor=part.fill,
                    edgecolor=edge,
                    transform=points,
                )
            )
            continue
        font = FontProperties(size=part.size, weight="bold" if part.bold else "normal")
        side: Any = {"start": "left", "middle": "center", "end": "right"}[part.anchor]
        figure.add_artist(
            Text(
                part.x,
                scene.height - part.y,
                printable(part.text),
                color=part.colour,
                horizontalalignment=side,
                verticalalignment="baseline",
                fontproperties=font,
                transform=points,
                parse_math=False,
            )
        )
    sink = io.BytesIO()
    FigureCanvasAgg(figure).print_png(sink)
    return sink.getvalue()
