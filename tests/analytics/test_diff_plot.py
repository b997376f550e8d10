"""Pictures of comparisons: what they show, that hostile names stay text, and the three formats."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from anamnesis.analytics.diff import grid as diff_grid
from anamnesis.analytics.diff.grid import gather, scale
from anamnesis.analytics.diff.names import place
from anamnesis.analytics.diff.picture import draw
from anamnesis.analytics.diff.plot import render
from anamnesis.analytics.diff.record import Row
from anamnesis.analytics.diff.report import Diff
from anamnesis.errors import UsageError
from anamnesis.kernels.diff import Sums

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "model.layers.1.</title><script>alert('x')</script>&\x1b[31m\u202e\ud800\x00.weight"


def row(name: str, sqnr_db: float | None, shape: Sequence[int] = (64, 64), nan: int = 0) -> Row:
    """A tensor of that SQNR; None for one whose bits are equal."""
    elems = math.prod(shape)
    noise = 0.0 if sqnr_db is None else elems / 10 ** (sqnr_db / 10)
    equal = elems if sqnr_db is None else 0
    worst = 4 * math.sqrt(noise / elems)
    sums = Sums(elems, elems - nan, equal, nan, 0, 0, 0, worst, noise, noise, elems, elems, elems)
    where = place(name)
    return Row(
        name, name, where.layer, where.kind, tuple(shape), "passthrough", "gguf-q4-k", sums=sums
    )


def diff(rows: Iterable[Row]) -> Diff:
    ordered = sorted(rows, key=lambda r: (r.broken == 0, r.rank, r.tensor))
    return Diff("/models/one", "/models/two.gguf", tuple(ordered))


def llama(layers: int, experts: int = 0) -> list[Row]:
    rows = []
    for layer in range(layers):
        base, head = 20 + layer % 7, f"model.layers.{layer}."
        rows += [row(f"{head}self_attn.{m}_proj.weight", base) for m in "qkvo"]
        mlp = [f"experts.{n}." for n in range(experts)] or [""]
        for expert in mlp:
            names = [f"{head}mlp.{expert}{m}_proj.weight" for m in ("gate", "up", "down")]
            rows += [row(name, base - 1) for name in names]
        rows.append(row(f"{head}input_layernorm.weight", None, (64,)))
    return [*rows, row("model.embed_tokens.weight", 45), row("lm_head.weight", None)]


def texts(found: Diff) -> list[str]:
    return [text.get_text() for text in draw(found)[0].axes[0].texts]


def inside(found: Diff) -> float:
    """Nothing lies outside of the picture, as matplotlib sets it; how wide that is in pixels."""
    figure = draw(found)[0]
    figure.draw_without_rendering()
    page = figure.bbox
    for artist in (*figure.axes[0].texts, *figure.axes[0].patches):
        box = artist.get_window_extent()
        assert box.x0 >= -1, artist
        assert box.y0 >= -1, artist
        assert box.x1 <= page.x1 + 1, artist
        assert box.y1 <= page.y1 + 1, artist
    return float(page.width)


@pytest.mark.parametrize(
    ("layers", "experts"), [(0, 0), (1, 0), (2, 0), (30, 0), (126, 0), (4, 128), (700, 0)]
)
def test_every_shape_of_model_fits(layers: int, experts: int) -> None:
    found = diff(llama(layers, experts))
    assert inside(found) < 1700
    ElementTree.fromstring(render(found, ".svg"))
    shown = texts(found)
    assert "two.gguf against one" in shown
    assert any(text.startswith("SQNR in dB") for text in shown)
    assert ("layer" in shown) == bool(layers)


def test_cells_say_their_numbers_where_there_is_room() -> None:
    assert "31.2" in texts(diff([row("model.layers.0.mlp.up_proj.weight", 31.25), *llama(1)[:1]]))
    assert texts(diff(llama(126))).count("=") < 30


def test_experts_are_one_row_and_add_up() -> None:
    rows = [row(f"model.layers.0.mlp.experts.{n}.up_proj.weight", 10.0 + n) for n in range(3)]
    grid = gather(diff(rows))
    assert [(line.group, line.label) for line in grid.lines] == [("experts, 3 a layer", "up_proj")]
    cell = grid.lines[0].cells[0]
    noise = sum(10 ** -((10 + n) / 10) for n in range(3)) / 3
    assert cell.sqnr_db == pytest.approx(-10 * math.log10(noise))
    about = cell.about("layer 0, up_proj")
    assert "3 tensors, 10.0 dB to 12.0 dB" in about
    assert "worst: model.layers.0.mlp.experts.0.up_proj.weight" in about


def test_rows_stand_in_the_order_of_a_block() -> None:
    grid = gather(diff(llama(2)))
    assert [line.label for line in grid.lines] == [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
        "input_layernorm",
    ]
    assert [name for name, _ in grid.outside] == ["model.embed_tokens", "lm_head"]


def test_very_many_layers_share_columns() -> None:
    grid = gather(diff(llama(700)))
    assert len(grid.columns) <= diff_grid.MAX_COLUMNS
    assert grid.columns[0] == (0, 3)
    assert sum(len(c.rows) for c in grid.lines[0].cells.values()) == 700


def test_very_many_modules_show_the_worst() -> None:
    rows = [row(f"model.layers.0.m{n}.weight", 5.0 + n) for n in range(80)]
    grid = gather(diff(rows))
    assert (len(grid.lines), grid.left_out) == (diff_grid.MAX_ROWS, 80 - diff_grid.MAX_ROWS)
    assert "m0" in [line.label for line in grid.lines]
    inside(diff(rows))


def test_few_outliers_do_not_take_the_scale() -> None:
    rows = llama(30)
    rows[5] = row(rows[5].tensor, -60)
    found = scale(gather(diff(rows)))
    assert (found.low > 10, found.high < 40) == (True, True)
    assert (found.clipped_low, found.clipped_high) == (True, True)
    shown = texts(diff(rows))
    assert [text[0] for text in shown if text[0] in "≤≥"] == ["≤", "≥"]


def test_small_differences_are_not_shown_as_large() -> None:
    rows = [row(f"model.layers.{n}.mlp.up_proj.weight", 20 + 0.01 * n) for n in range(30)]
    found = scale(gather(diff(rows)))
    assert found.high - found.low >= 6


def test_equal_models_have_no_scale_and_no_worst() -> None:
    shown = texts(diff([row(r.tensor, None, r.shape) for r in llama(3)]))
    assert "all BF16 bits equal" in shown
    assert "Farthest off" not in shown
    assert not [text for text in shown if "SQNR" in text]


def test_numbers_that_are_not_finite_stand_out() -> None:
    rows = [*llama(3), row("model.layers.1.mlp.new.weight", 30, nan=3), row("x", math.inf, nan=1)]
    shown = texts(diff(rows))
    assert "NaN or infinity on one side" in shown
    assert "3 numbers are NaN or infinite on one side only" in shown
    assert "×" in shown


@pytest.mark.parametrize("sqnr", [-math.inf, math.inf, -300.0, 0.0])
def test_odd_figures_can_be_drawn(sqnr: float) -> None:
    rows = [*llama(1), row("model.layers.0.odd.weight", 20)]
    sums = {-math.inf: (0.0, 4.0), math.inf: (4.0, 0.0), -300.0: (1e-30, 1.0), 0.0: (1.0, 1.0)}[
        sqnr
    ]
    odd = Sums(64, 64, 3, 0, 0, 0, 0, 1.0, 1.0, sums[1], sums[0], 1.0, 0.0)
    rows.append(Row("model.layers.0.x", "x", 0, "x", (64,), "a", "b", sums=odd))
    assert rows[-1].sqnr_db == pytest.approx(sqnr)
    inside(diff(rows))
    nothing = Sums(4, 0, 4, 0, 0, 4)
    draw(diff([Row("n", "n", None, "n", (4,), "a", "b", sums=nothing)]))
    draw(diff([]))


@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_hostile_names_stay_text(tmp_path: Path, suffix: str) -> None:
    found = Diff(f"/x/{HOSTILE}", "/y/<b>&amp;", diff([row(HOSTILE, 12), *llama(2)]).rows)
    found.plot(tmp_path / f"p.{suffix}")
    text = (tmp_path / f"p.{suffix}").read_text("utf-8")
    assert "<script" not in text
    assert "<b>" not in text
    assert not set(text) & {"\x1b", "\u202e", "\x00"}
    start = text.index("<svg")
    root = ElementTree.fromstring(text[start : text.index("</svg>") + 6])
    drawn = ("svg", "g", "path", "text", "title", "defs", "style", "clipPath", "rect")
    assert {element.tag for element in root.iter()} <= {f"{SVG}{n}" for n in drawn}
    titles = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert any("<script>alert('x')</script>" in title for title in titles)


def test_a_page_asks_for_nothing(tmp_path: Path) -> None:
    diff(llama(2)).plot(tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # of namespaces
    assert set(re.findall(r"https?://[^\"']*", page)) == names
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href|onload|onclick)\s*[=(]", page)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}


@pytest.mark.parametrize("suffix", [".svg", ".html", ".png"])
def test_the_same_comparison_is_the_same_file(suffix: str) -> None:
    assert render(diff(llama(2)), suffix) == render(diff(llama(2)), suffix)


def test_png() -> None:
    found = diff([row(HOSTILE, 12), row("model.layers.0.$\\frac{1}{2}$.weight", 9), *llama(2)])
    data = render(found, ".png")
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    size = [int.from_bytes(data[at : at + 4], "big") for at in (16, 20)]
    assert size[0] == pytest.approx(2 * inside(found), abs=2)
    assert any("$\\frac{1}{2}$" in text for text in texts(found))


@pytest.mark.parametrize("suffix", ["svg", "html", "png"])
def test_no_matplotlib_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"anamnesis-arrow\[plot\]"):
        diff(llama(1)).plot(tmp_path / f"p.{suffix}")
    assert not list(tmp_path.iterdir())


def test_long_names_are_cut_in_the_middle() -> None:
    name = "model.layers.17." + "x" * 70_000 + ".tail"
    found = diff([row(name, 12), *llama(1)])
    inside(found)
    cut = [text for text in texts(found) if "…" in text]
    assert cut
    assert all(len(text) < 70 for text in cut)


def test_ticks_stay_on_the_scale() -> None:
    for low, high in ((0.0, 60.0), (14.0, 34.0), (20.0, 26.0), (-20.0, 120.0)):
        found = diff([row("model.layers.0.a.weight", low), row("model.layers.1.a.weight", high)])
        marks = [float(t.replace("−", "-")) for t in texts(found) if re.fullmatch(r"−?\d+", t)]
        assert len([m for m in marks if m > 1]) <= 9
