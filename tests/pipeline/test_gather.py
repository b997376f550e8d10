"""Windows of derived tensors against numpy's own strided views of the same numbers."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from strided_views import CASES, Boxes, derived, stored, whole

from anamnesis.errors import IntegrityError
from anamnesis.kernels.transposed import copy_transposed
from anamnesis.pipeline import boxes, gather, plan
from anamnesis.pipeline.plan import step_for, with_dtype
from anamnesis.pipeline.stored_blocks import stored_blocks
from anamnesis.pipeline.windows import Windows
from anamnesis.readers.base import Tensor
from anamnesis.readers.batch import aligned
from anamnesis.readers.files import Files
from anamnesis.readers.source import LocalFile, read_parts


def numpy_of(source: Any, segments: Boxes) -> Any:
    """The elements, as numpy's strided views give them."""
    flat = source.reshape(-1)
    outs = []
    for _, dims, parts in segments:
        out = np.zeros(dims, flat.dtype)
        for part in parts:
            shape = [hi - lo for lo, hi in zip(part.lo, part.hi, strict=True)]
            steps = [s * flat.itemsize for s in part.strides]
            place = tuple(slice(a, b) for a, b in zip(part.lo, part.hi, strict=True))
            out[place] = as_strided(flat[part.base :], shape, steps)
        outs.append(out.reshape(-1))
    return np.concatenate(outs)


def values_of(tensor: Tensor, windows: int, batches: int) -> Any:
    """All values, in windows and batches of so many units, where that is less."""
    step = step_for(tensor)
    batch = min(windows * batches, step.batch_units)
    step = replace(step, window_units=min(windows, batch), batch_units=batch)
    files = Files()
    found = [d.values.view(np.uint8).tobytes() for d in Windows(step, files).over()]
    files.close()
    return np.frombuffer(b"".join(found), np.uint8)


@pytest.mark.parametrize("windows", [1, 7, 1 << 20])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_elements_are_moved_as_numpy_moves_them(
    tmp_path: Path, case: str, dtype: str, windows: int
) -> None:
    shape, segments = CASES[case]
    array = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    tensor = derived(stored(tmp_path / "m.gguf", array), segments)
    found = values_of(tensor, windows, 3).view(dtype)
    np.testing.assert_array_equal(found, numpy_of(array, segments))


@pytest.mark.parametrize("case", ["rows", "every second row", "short rows", "turned experts"])
def test_quantised_ones_are_decoded_in_their_order(tmp_path: Path, case: str) -> None:
    shape, segments = CASES[case]
    kind = gguf.GGMLQuantizationType.Q8_0
    array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    source = with_dtype(stored(tmp_path / "m.gguf", array, kind), "F32")
    wanted = gguf.dequantize(gguf.quantize(array, kind), kind)
    found = values_of(derived(source, segments), 5, 2).view(np.float32)
    np.testing.assert_array_equal(found, numpy_of(wanted.reshape(shape), segments))


def test_blocks_that_are_cut_are_decoded_first(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    array = np.ones((96, 64), np.float32)
    source = with_dtype(stored(tmp_path / "m.gguf", array, kind), "F32")
    rows, columns = whole((48, 64), (128, 1)), whole((64, 96), (1, 64))
    assert stored_blocks(derived(source, rows), (source,)) is not None
    assert stored_blocks(derived(source, columns), (source,)) is None


def test_a_wide_matrix_is_held_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "TRANSPOSED_BYTES", 1 << 16)
    monkeypatch.setattr(plan, "WINDOW_BYTES", 1 << 14)
    array = np.arange(1024 * 700, dtype=np.float32).reshape(1024, 700)
    tensor = derived(stored(tmp_path / "m.gguf", array), whole((700, 1024), (1, 700)))
    step = step_for(tensor)
    assert step.window_units < step.batch_units < 700
    found = values_of(tensor, step.window_units, 1 << 20).view(np.float32)
    np.testing.assert_array_equal(found, array.T.reshape(-1))


def test_rows_that_lie_in_order_in_the_file_are_one_read(tmp_path: Path) -> None:
    shape, segments = CASES["rows"]
    tensor = stored(tmp_path / "m.gguf", np.zeros(shape, np.float16))
    found = tensor.components[0].stored
    memory = np.zeros(math.prod(shape), np.uint16)
    with LocalFile(found.file.path) as file:
        source = boxes.StoredBoxes(file, found.offset, 2, memory)
        runs = source._runs(segments[0][2][0].strides, memory.reshape(segments[0][1]), 0)
    assert runs is not None
    assert [(run.first, len(run.parts)) for run in runs] == [(0, 96)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (64, 96), (131, 33), (2, 40, 70), (0, 4)])
def test_an_array_is_copied_turned(shape: tuple[int, ...], dtype: Any) -> None:
    source = np.arange(math.prod(shape)).astype(dtype).reshape(shape)
    wide = np.zeros((*shape[:-2], shape[-1], shape[-2] + 3), dtype)
    out = wide[..., : shape[-2]]
    copy_transposed(source.swapaxes(-1, -2), out)
    np.testing.assert_array_equal(out, source.swapaxes(-1, -2))
    assert not wide[..., shape[-2] :].any()


@pytest.mark.parametrize("skip", [0, 8])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_an_array_is_turned_past_the_caches(dtype: Any, skip: int) -> None:
    source = np.arange(131 * 97).astype(dtype).reshape(131, 97)
    memory = aligned(97 * 192 + skip, dtype)[skip:]
    memory[:] = 0
    wide = memory.reshape(97, 192)  # rows begin with cache lines, without `skip`
    copy_transposed(source.T, wide[:, :131], streamed=True)
    np.testing.assert_array_equal(wide[:, :131], source.T)
    assert not wide[:, 131:].any()


def test_a_matrix_that_no_cache_holds_is_turned_strip_by_strip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "STREAMED_BYTES", 0)
    copied = []

    def copy(source: Any, out: Any, *, streamed: bool) -> None:
        copied.append((source.shape, streamed))
        copy_transposed(source, out, streamed=streamed)

    monkeypatch.setattr(gather, "copy_transposed", copy)
    array = np.random.default_rng(1).standard_normal((160, 96)).astype(np.float16)
    tensor = derived(stored(tmp_path / "m.gguf", array), whole((96, 160), (1, 96)))
    # Strips are windows, of 40 rows of the output: 66 of the source, of which 64 fill cache lines.
    found = values_of(tensor, 40, 3).view(np.float16)
    np.testing.assert_array_equal(found, array.T.reshape(-1))
    assert copied == [((96, 64), True), ((96, 64), True), ((96, 32), True)]


def test_parts_are_filled_though_the_system_reads_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(200)))
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: real(fd, [parts[0][:13]], at))
    parts = [bytearray(n) for n in (10, 0, 20, 30)]
    with LocalFile(path) as file:
        read_parts(file, 5, [memoryview(part) for part in parts])
        assert b"".join(parts) == bytes(range(5, 65))
        with pytest.raises(IntegrityError, match="ended at byte 200"):
            read_parts(file, 190, [memoryview(part) for part in parts])


def test_a_permuted_model_reads_each_byte_once(tmp_path: Path) -> None:
    shape, segments = CASES["rows"]
    tensor = derived(stored(tmp_path / "m.gguf", np.zeros(shape, np.float16)), segments)
    files = Files()
    windows = Windows(step_for(tensor), files)
    assert len(list(windows.over())) == 1
    files.close()
    assert windows.read_bytes == 2 * math.prod(shape)
