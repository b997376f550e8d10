"""Windows and batches of layouts that are stored in columns."""

from __future__ import annotations

import pytest

from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.plan import step_for
from anamnesis.readers.base import Component, FileId, Stored, Tensor
from anamnesis.readers.placement import Strided

MiB = 1 << 20
FILE = FileId("model.safetensors", 1 << 40, 0, 0, 0)


def awq(inputs: int, outputs: int) -> Tensor:
    words = Stored("m.qweight", "I32", (inputs, outputs // 8), FILE, 0, inputs * outputs // 2)
    payload = Component("qweight", words, Strided(4, outputs // 2))
    return Tensor("m.weight", (outputs, inputs), "awq", "awq-gemm", (payload,), inputs, 8)


def gptq(inputs: int, outputs: int, bits: int) -> Tensor:
    lines = inputs * bits // 32
    words = Stored("m.qweight", "I32", (lines, outputs), FILE, 0, 4 * lines * outputs)
    payload = Component("qweight", words, Strided(32, 4 * outputs))
    multiple = 32 if bits == 3 else 32 // bits
    return Tensor("m.weight", (outputs, inputs), "gptq", "gptq", (payload,), inputs, multiple)


@pytest.mark.parametrize(
    ("tensor", "window"),
    [
        (awq(4096, 11008), 256),
        (awq(5120, 13824), 256),
        (awq(11008, 4096), 128),  # 95 rows would be 2 MiB
        (awq(28672, 8192), 64),
        (awq(8192, 28672), 128),
        (awq(2048, 520), 512),
        (awq(128, 24), 24),
        (awq(1 << 20, 1024), 8),  # 64 rows would be 128 MiB
        (gptq(4096, 11008, 4), 256),
        (gptq(11008, 4096, 4), 96),
        (gptq(11008, 4096, 8), 96),
        (gptq(11008, 4096, 3), 64),
        (gptq(40960, 4096, 4), 32),
    ],
)
def test_windows_take_whole_cache_lines(tensor: Tensor, window: int) -> None:
    assert step_for(tensor).window_units == window


def test_a_matrix_that_fits_is_one_read_ahead() -> None:
    step = step_for(awq(4096, 11008))
    assert step.batch_units == 11008
    assert 23 * MiB < step.memory_bytes < 25 * MiB


@pytest.mark.parametrize(("inputs", "outputs"), [(4096, 14336), (14336, 4096), (8192, 28672)])
def test_larger_ones_are_cut_evenly(inputs: int, outputs: int) -> None:
    step = step_for(awq(inputs, outputs))
    batches = -(-inputs * outputs // 2 // planning.READ_AHEAD_BYTES)
    assert -(-outputs // step.batch_units) == batches
    assert step.batch_units % step.window_units == 0
    assert step.batch_units - outputs / batches < step.window_units
    assert step.batch_units * inputs // 2 <= planning.READ_AHEAD_BYTES


def test_one_window_is_the_least() -> None:
    step = step_for(awq(1 << 23, 4096))
    assert step.batch_units == step.window_units == 8


def test_a_tensor_of_nothing() -> None:
    assert step_for(awq(64, 0)).window_units == 0


def experts(count: int, inputs: int, outputs: int) -> Tensor:
    shape = (count, outputs, inputs // 32, 16)
    stored = Stored("m_blocks", "U8", shape, FILE, 0, count * outputs * inputs // 2)
    payload = Component("payload", stored, Strided(128, inputs // 2, lines=outputs))
    return Tensor("m", (count, inputs, outputs), "mxfp4", "e", (payload,), 32 * outputs)


@pytest.mark.parametrize(
    ("tensor", "batch", "tasks"),
    [
        (experts(128, 2880, 5760), 90, 64),  # a batch is an expert, a task two of 33 MB
        (experts(7, 64, 96), 2, 1),
        (experts(3, 16384, 8192), 172, 9),  # 67 MB of codes an expert: three batches, each a task
    ],
)
def test_read_aheads_of_a_stack_end_with_its_matrices(
    tensor: Tensor, batch: int, tasks: int
) -> None:
    step = step_for(tensor)
    assert step.batch_units == batch
    assert step.batch_units % step.window_units == 0 or step.batch_units == tensor.matrix_units
    assert step.memory_bytes < planning.READ_AHEAD_BYTES + 4 * planning.WINDOW_BYTES
    ranges = planning._ranges(step, planning.TASK_BYTES)
    assert len(ranges) == tasks
    assert [start for start, _ in ranges[1:]] == [stop for _, stop in ranges[:-1]]
    assert (ranges[0][0], ranges[-1][1]) == (0, tensor.units)
    for start, stop in ranges:
        of, at = divmod(start, tensor.matrix_units)
        assert at % batch == 0
        assert stop <= (of + 1) * tensor.matrix_units or at == stop % tensor.matrix_units == 0
