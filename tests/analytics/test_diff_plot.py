"""Pictures of comparisons: what they show, that hostile names stay text, and the three formats."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from anamnesis.analytics.diff import grid as diff_grid
from anamnesis.analytics.diff.grid import gather, scale
from anamnesis.analytics.diff.names import place
from anamnesis.analytics.diff.picture import draw
from anamnesis.analytics.diff.plot import to_png, to_svg
from anamnesis.analytics.diff.record import Row
from anamnesis.analytics.diff.report import Diff
from anamnesis.analytics.diff.scene import (
    Box,
    Label,
    Scene,
    colour_at,
    fit_text,
    ink_on,
    text_width,
    ticks,
)
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


def texts(scene: Scene) -> list[str]:
    return [part.text for part in scene.parts if isinstance(part, Label)]


def inside(scene: Scene) -> None:
    """Nothing lies outside of the picture, and texts do not leave its right edge."""
    for part in scene.parts:
        assert 0 <= part.x <= scene.width
        assert 0 <= part.y <= scene.height
        if isinstance(part, Box):
            assert part.x + part.width <= scene.width
            assert part.y + part.height <= scene.height
        elif part.anchor == "start":
            assert part.x + 0.9 * text_width(part.text, part.size) <= scene.width
        elif part.anchor == "end":
            assert part.x - 0.9 * text_width(part.text, part.size) >= 0


@pytest.mark.parametrize(
    ("layers", "experts"), [(0, 0), (1, 0), (2, 0), (30, 0), (126, 0), (4, 128), (700, 0)]
)
def test_every_shape_of_model_fits(layers: int, experts: int) -> None:
    scene = draw(diff(llama(layers, experts)))
    inside(scene)
    assert scene.width < 1700
    ElementTree.fromstring(to_svg(scene))
    shown = "\n".join(texts(scene))
    assert "two.gguf against one" in shown
    assert "SQNR in dB" in shown
    assert ("layer" in texts(scene)) == bool(layers)


def test_cells_say_their_numbers_where_there_is_room() -> None:
    scene = draw(diff([row("model.layers.0.mlp.up_proj.weight", 31.25), *llama(1)[:1]]))
    assert "31.2" in texts(scene)
    narrow = draw(diff(llama(126)))
    assert texts(narrow).count("=") < 30


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
    inside(draw(diff(rows)))


def test_few_outliers_do_not_take_the_scale() -> None:
    rows = llama(30)
    rows[5] = row(rows[5].tensor, -60)
    found = scale(gather(diff(rows)))
    assert (found.low > 10, found.high < 40) == (True, True)
    assert (found.clipped_low, found.clipped_high) == (True, True)
    shown = texts(draw(diff(rows)))
    assert [text[0] for text in shown if text[0] in "≤≥"] == ["≤", "≥"]


def test_small_differences_are_not_shown_as_large() -> None:
    rows = [row(f"model.layers.{n}.mlp.up_proj.weight", 20 + 0.01 * n) for n in range(30)]
    found = scale(gather(diff(rows)))
    assert found.high - found.low >= 6


def test_equal_models_have_no_scale_and_no_worst() -> None:
    shown = texts(draw(diff([row(r.tensor, None, r.shape) for r in llama(3)])))
    assert "all BF16 bits equal" in shown
    assert "Farthest off" not in shown
    assert not [text for text in shown if "SQNR" in text]


def test_numbers_that_are_not_finite_stand_out() -> None:
    rows = [*llama(3), row("model.layers.1.mlp.new.weight", 30, nan=3), row("x", math.inf, nan=1)]
    shown = texts(draw(diff(rows)))
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
    inside(draw(diff(rows)))
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
    assert {element.tag for element in root.iter()} <= {
        f"{SVG}{n}" for n in ("svg", "rect", "text", "title")
    }
    titles = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert any("<script>alert('x')</script>" in title for title in titles)


def test_a_page_asks_for_nothing(tmp_path: Path) -> None:
    diff(llama(2)).plot(tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert re.findall(r"https?://[^\"']*", page) == ["http://www.w3.org/2000/svg"]
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href|url|onload|onclick)\s*[=(]", page)


def test_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    scene = draw(
        diff([row(HOSTILE, 12), row("model.layers.0.$\\frac{1}{2}$.weight", 9), *llama(2)])
    )
    data = to_png(scene)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    size = tuple(int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert size == pytest.approx((2 * scene.width, 2 * scene.height), abs=2)


def test_png_without_matplotlib_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"anamnesis-arrow\[plot\]"):
        diff(llama(1)).plot(tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


def test_colours() -> None:
    assert (colour_at(-1), colour_at(0)) == ("#440154", "#440154")
    assert (colour_at(1), colour_at(9)) == ("#fde725", "#fde725")
    light = [
        sum(int(colour_at(n / 50)[at : at + 2], 16) * w for at, w in ((1, 2), (3, 7), (5, 1)))
        for n in range(51)
    ]
    assert light == sorted(light)
    assert ink_on(colour_at(0)) == "#ffffff"
    assert ink_on(colour_at(1)) != "#ffffff"


def test_texts_are_cut_in_the_middle() -> None:
    assert fit_text("short", 100) == "short"
    cut = fit_text("model.layers.17.mlp.experts.gate_proj.weight", 120)
    assert "…" in cut
    assert cut.startswith("model")
    assert cut.endswith("weight")
    assert text_width(cut) <= 120
    assert len(fit_text("x" * 70_000, 100)) < 30


def test_ticks_are_round() -> None:
    found: Any = {(0.0, 60.0): 7, (14.0, 34.0): 4, (20.0, 26.0): 7, (-20.0, 120.0): 8}
    for (low, high), most in found.items():
        marks = ticks(low, high)
        assert len(marks) <= most
        assert all(low <= mark <= high for mark in marks)
