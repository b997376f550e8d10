"""Small FP8 layers that are decoded together: each arrives as if it had gone through the loop."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anamnesis
from anamnesis.pipeline import small_copies, small_layers
from anamnesis.pipeline.work import TASK_PIECES

ROWS, COLUMNS = 6, 5
# Shape of the scale of a [6, 5] matrix, or of a stack of two [3, 5]: one, of rows, of columns.
SCALES = [(1,), (), (ROWS, 1), (1, COLUMNS)]
LAYERS = st.lists(
    st.tuples(
        st.sampled_from([(ROWS, COLUMNS), (2, 3, COLUMNS), (40, 150), (0, COLUMNS), (COLUMNS,)]),
        st.sampled_from(["F8_E4M3", "F8_E5M2"]),
        st.sampled_from(SCALES),
        st.sampled_from(["F32", "BF16"]),
        st.booleans(),  # a dense tensor behind it
    ),
    min_size=1,
    max_size=12,
)
BYTES = {"F8_E4M3": 1, "F8_E5M2": 1, "F32": 4, "BF16": 2}


def saved(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], seed: int = 0) -> None:
    """Random codes; scales and dense numbers near one."""
    numbers = np.random.default_rng(seed)
    header, data = {}, b""
    for name, (dtype, shape) in tensors.items():
        count = int(np.prod(shape, dtype=int))
        if BYTES[dtype] == 1:
            raw = numbers.integers(0, 256, count, np.uint8).tobytes()
        else:
            wide = numbers.uniform(0.1, 2, count).astype("<f4")
            raw = wide.tobytes() if dtype == "F32" else wide.view("<u2")[1::2].tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def converted(source: Path, out: Path, to: str, dtype: str) -> tuple[bytes, Any]:
    """The output, and what its manifest says of the pieces."""
    anamnesis.convert(source, out, to=to, dtype=dtype, executor="serial", overwrite=True)
    manifest = out.with_name(out.name + ".anamnesis.json")
    return out.read_bytes(), json.loads(manifest.read_bytes())["pieces"]


@settings(deadline=None, max_examples=6)
@given(
    layers=LAYERS,
    times=st.integers(1, 5),
    apart=st.booleans(),
    to=st.sampled_from(["safetensors", "arrow"]),
    dtype=st.sampled_from(["bf16", "f16", "f32"]),
)
def test_nothing_shows_that_they_were_decoded_together(
    tmp_path_factory: pytest.TempPathFactory,
    layers: list[tuple[Any, ...]],
    times: int,
    apart: bool,
    to: str,
    dtype: str,
) -> None:
    folder = tmp_path_factory.mktemp("layers")
    codes, scales, dense = {}, {}, {}
    alike = [layer for layer in layers for _ in range(times)]
    for number, (shape, kind, scale, scale_kind, norm) in enumerate(alike):
        name = f"layers.{number:03d}.proj.weight"
        fits = scale in ((1,), ()) or shape == (ROWS, COLUMNS)
        codes[name] = kind, shape
        scales[f"{name}_scale"] = scale_kind, scale if fits else (1,)
        if norm:
            dense[f"layers.{number:03d}.norm.weight"] = "BF16", (3,)
    tensors = {**codes, **scales, **dense}
    if not apart:  # each layer's one behind the other
        tensors = dict(sorted(tensors.items()))
    source = folder / "m.safetensors"
    saved(source, tensors)
    together = converted(source, folder / f"out.{to}", to, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_layers, "SMALL_BYTES", 0)
        assert converted(source, folder / f"out.{to}", to, dtype) == together


def test_each_layer_has_its_own_scale(tmp_path: Path) -> None:
    count = 300
    layers = {f"l{n}.weight": ("F8_E4M3", (4, 4)) for n in range(count)}
    source = tmp_path / "m.safetensors"
    saved(source, layers | {f"{name}_scale": ("F32", (1,)) for name in layers})
    model = anamnesis.open_model(source)
    anamnesis.remember(source, tmp_path / "out.safetensors", executor="serial")
    out = anamnesis.open_model(tmp_path / "out.safetensors")
    for name in layers:  # one by one, by the way of lazy tensors
        assert out[name].to_numpy().tobytes() == model[name].to_numpy().tobytes()


def test_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 600
    layers = {f"l{n}.weight": ("F8_E4M3", (4, 4)) for n in range(count)}
    source = tmp_path / "m.safetensors"
    saved(source, layers | {f"{name}_scale": ("F32", (1,)) for name in layers})
    made: list[int] = []
    write = small_layers.write_layers

    def counted(pieces: Any, *others: Any) -> Any:
        made.append(len(pieces))
        return write(pieces, *others)

    monkeypatch.setattr("anamnesis.pipeline.task.write_layers", counted)
    anamnesis.remember(source, tmp_path / "out.safetensors", executor="serial")
    assert sum(made) == count
    assert len(made) == count // TASK_PIECES
    assert anamnesis.verify(tmp_path / "out.safetensors")["tensors"] == count


def test_what_is_decoded_at_once_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {f"l{n}.weight": ("F8_E4M3", (32, 64)) for n in range(40)}  # 4 KiB as BF16
    source = tmp_path / "m.safetensors"
    saved(source, layers | {f"{name}_scale": ("F32", (1,)) for name in layers})
    runs: list[int] = []
    found = small_copies.runs

    def counted(pieces: Any) -> Any:
        for run in found(pieces):
            runs.append(len(run.pieces))
            yield run

    monkeypatch.setattr("anamnesis.pipeline.task.runs", counted)
    anamnesis.remember(source, tmp_path / "out.safetensors", executor="serial")
    most = small_layers.RUN_BYTES // small_layers.SMALL_BYTES
    assert runs == [most, most, 40 - 2 * most]
