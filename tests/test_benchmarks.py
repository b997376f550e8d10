"""The table of benchmark cases covers the table of encodings, and what is published holds."""

from __future__ import annotations

import json
import pickle
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from anamnesis.kernels import ENCODINGS, Window
from benchmarks import (
    check,
    commands,
    encoding,
    end_to_end,
    measure,
    page,
    peers,
    shares,
    startup,
    tables,
)
from benchmarks.cases import CASES, by_family
from benchmarks.decoders import Problem
from benchmarks.floor import operations
from benchmarks.models import write_model
from benchmarks.opened import encoding_plan_of, opened, plan_of

ROOT = Path(__file__).resolve().parents[1]


ROWS, COLUMNS = 128, 512


def test_every_encoding_has_a_case() -> None:
    assert {case.encoding for case in CASES.values()} == set(ENCODINGS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_windows_and_the_whole_give_the_same_numbers(case: object, tmp_path: Path) -> None:
    with opened(case, tmp_path, ROWS, COLUMNS) as found:
        tensor = found.step.tensor
        assert tensor.elems == ROWS * COLUMNS
        pickle.dumps(found.params)  # `make bench-check` hands them to another process
        whole = np.zeros(tensor.elems, found.kind)
        everything = Window(0, tensor.units)
        found.decode(found.views(everything), found.params, everything, whole)
        units = -(-tensor.units // 3 // tensor.unit_multiple) * tensor.unit_multiple
        parts = np.zeros_like(whole)
        for start in range(0, tensor.units, units):
            window = Window(start, min(start + units, tensor.units))
            out = parts[start * tensor.unit_elems : window.stop * tensor.unit_elems]
            found.decode(found.views(window), found.params, window, out)
    bits = np.uint16 if found.kind == np.uint16 else np.uint32
    assert np.array_equal(whole.view(bits), parts.view(bits))
    numbers = whole if found.kind == np.float32 else (whole.astype(np.uint32) << 16).view("<f4")
    assert np.isfinite(numbers).all()
    few = {"bitnet": 3, "i2-s": 2}
    assert len(np.unique(numbers)) > few.get(case.encoding, 8)


def test_the_page_is_made_from_the_published_figures() -> None:
    """`python -m benchmarks report` mends it."""
    for path in page.PAGES:
        assert path.read_text() == page.rewritten(path)


def test_every_number_of_the_page_is_generated() -> None:
    text = re.sub(r"<!-- ([\w-]+) -->.*?<!-- /\1 -->", "", page.PAGE.read_text(), flags=re.DOTALL)
    # The shape of a matrix, settings, names of dtypes and limits of the guard.
    known = {"1", "45", "11008", "4096", "0.1", "1.8", "2", "16", "32", "8", "30", "302"}
    assert set(re.findall(r"\d+(?:\.\d+)?", text)) <= known


def test_published_kernels_are_the_cases() -> None:
    cases = page.figures()["kernels"]["results"]["cases"]
    assert {case["name"] for case in cases} <= set(CASES)
    assert sum(len(members) for _, members in by_family(cases)) == len(cases)


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    names = {path.name for path in plots.write(tmp_path)}
    shown = set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.PAGE.read_text()))
    assert names == shown
    assert all((page.DOCS / name).exists() for name in names)
    assert b"</svg>" in next(tmp_path.iterdir()).read_bytes()


# One of each way that peers take a layer; each is compared with ours inside.
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("fp8-e4m3 block", {"numpy + ml_dtypes"}),
        ("fp8-e4m3 tensor", {"numpy + ml_dtypes"}),
        ("gguf-q4-k", {"gguf-py", "libggml"}),
        ("gguf-q1-0", {"libggml"}),
    ],
)
def test_peers_decode_the_same_numbers(name: str, least: set[str], tmp_path: Path) -> None:
    rows, columns = 128, 512
    case = CASES[name]
    problem = Problem(case.encoding, case.make(rows, columns), (rows, columns))
    with opened(case, tmp_path, rows, columns) as found:
        everything = Window(0, found.step.tensor.units)
        ours = np.zeros(rows * columns, np.float32)
        found.decode(found.views(everything), found.params, everything, ours)
    assert least <= {peer.name for peer, _ in peers.calls(problem, ours)}
    with pytest.raises(ArithmeticError, match="other numbers"):
        list(peers.calls(problem, ours + 1))


@pytest.mark.parametrize(
    ("name", "peer"), [("fp8-block", ""), ("gguf-q8-0", "libggml"), ("nvfp4", ""), ("gptq", "")]
)
def test_encoders_and_their_peers_give_the_same_codes(
    name: str, peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "SECONDS", 0)
    for constant in ("ROWS", "PEER_ROWS", "WINDOW_ROWS"):
        monkeypatch.setattr(encoding, constant, 128)
    found = encoding.measure(name)
    assert peer in {"", *found["peers"]}
    assert found["window"]["elems"] == 128 * encoding.COLUMNS
    assert name in tables.encoders([found])


def test_the_floor_of_encoding_writes_what_is_stored(tmp_path: Path) -> None:
    path, out = write_model(tmp_path, CASES["bf16 to f32"].make(256, 512)), tmp_path / "out.gguf"
    found, size = end_to_end.alternating(path, out, 1, 1, "gguf-q8-0")
    assert size > 256 * 512 * 34 // 32
    assert set(found) == {"floor", "loop", "command", "floor, own process"}
    plan = encoding_plan_of(path, out, "gguf-q8-0", 1)
    written = sum(o.nbytes for task in plan.tasks for o in operations(task) if len(o) == 2)
    assert written == 256 * 512 * 34 // 32


def test_what_lies_on_a_disk_is_out_of_memory_before_each_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "model", list[str]()
    path.write_bytes(b"weights")

    def forget(found: Path) -> None:
        measure.forget(found)
        done.append(found.name)

    monkeypatch.setattr(end_to_end, "forget", forget)

    def work(name: str) -> dict[str, float]:
        done.append(name)
        return {}

    works = {name: partial(work, name) for name in ("floor", "loop")}
    end_to_end.repeated(works, tmp_path / "out", 1, path)
    assert done == ["model", "floor", "model", "loop"] * 2
    assert path.read_bytes() == b"weights"
    end_to_end.repeated(works, tmp_path / "out", 1)
    assert done[8:] == ["floor", "loop"] * 2


def test_the_guard_goes_red() -> None:
    usual = {"instructions": 10.0, "to_copy": 0.8}
    assert check.judge(usual, usual, True) == ""
    assert "instructions" in check.judge({**usual, "instructions": 13.1}, usual, True)
    assert "speed" in check.judge({**usual, "to_copy": 0.39}, usual, True)
    assert check.judge({**usual, "to_copy": 0.39}, usual, False) == ""
    assert check.judge({**usual, "instructions": None}, usual, True) == ""
    assert check.judge(usual, {}, True) == ""


def test_the_guard_knows_the_cases() -> None:
    recorded = json.loads(check.EXPECTED.read_text())
    assert set(recorded["cases"]) <= set(CASES)


def test_floor_and_command_begin_alike(tmp_path: Path) -> None:
    path = write_model(tmp_path, CASES["fp8-e4m3 tensor"].make(256, 512))
    out = tmp_path / "out.safetensors"
    command = commands.remember(path, out, 1)
    size = out.stat().st_size
    out.unlink()
    floor = commands.floor(path, out, 1, command["startup"] + 0.2)
    assert out.stat().st_size == size
    assert floor["startup"] >= command["startup"] + 0.2
    for found in (command, floor):
        assert found["wall"] == pytest.approx(found["startup"] + found["work"])
        assert 0 < found["work"] < found["wall"]


def test_shares_are_of_the_whole(tmp_path: Path) -> None:
    path = write_model(tmp_path, CASES["gguf-q8-0"].make(512, 4096))
    plan = shares.bound(plan_of(path, tmp_path / "out.safetensors"), tmp_path / "part")
    found = shares.once(plan, 2)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert min(found["shares"].values()) > 0


def test_start_up_is_until_the_first_values(tmp_path: Path) -> None:
    warm = [
        "-c",
        startup.FIRST_BYTE + commands.COMMAND,
        *startup._remember(tmp_path, "fp8-e4m3 block"),
    ]
    found = startup._alternating({"warm": warm}, 1)
    assert list(found) == ["warm: first values", "warm"]
    assert 0 < found["warm: first values"][0].median < found["warm"][0].median
