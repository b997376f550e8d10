"""Layers of GPTQ and AWQ that were repacked for other kernels, and BitBLAS's; see `layers.py`."""

from __future__ import annotations

import numpy as np

from benchmarks.layers import GROUP, _bytes, _packed, _small
from benchmarks.models import Entry, Layer


def bitblas(rows: int, columns: int) -> Layer:
    """Four bits with zero points, mixed."""
    codes, groups = _bytes(rows, columns // 2), columns // GROUP
    scales = _small(rows, groups).astype("<f2")
    return Layer(
        [
            Entry("qweight", "I8", codes.shape, codes),
            Entry("scales", "F16", scales.shape, scales),
            Entry("qzeros", "I8", (groups, rows // 2), _bytes(groups, rows // 2)),
        ],
        config={"quantization_config": {"quant_method": "gptq", "format": "bitblas", "bits": 4}},
    )


def gptq_planar(rows: int, columns: int) -> Layer:
    """GPTQModel's planes of 6 bits."""
    groups, bits = -(-columns // GROUP), 6
    scales = _small(groups, rows).astype(np.float16)
    return Layer(
        [
            _packed("qweight", columns * bits // 32, rows),
            _packed("qzeros", groups, rows * bits // 32),
            Entry("scales", "F16", scales.shape, scales),
        ],
        config={"quantization_config": {"quant_method": "gptq", "bits": 6, "format": "gptq_p"}},
    )


def gptq_zeros(rows: int, columns: int) -> Layer:
    """GPTQ-for-LLaMa's first layout."""
    scale = _small(rows, 1)
    return Layer(
        [
            _packed("qweight", columns // 8, rows),
            Entry("scales", "F32", (rows, 1), scale),
            Entry("zeros", "F32", (rows, 1), scale),
        ],
        config={"quantization_config": {"bits": 4}},
    )


def marlin(rows: int, columns: int) -> Layer:
    """Whole tiles of 64 outputs."""
    rows = -(-rows // 64) * 64
    scale = np.full((columns // GROUP, rows), 1.5, "<f2")
    return Layer(
        [
            Entry("B", "I32", (columns // 16, 2 * rows), _bytes(columns // 16, 8 * rows)),
            Entry("s", "F16", scale.shape, scale),
        ]
    )


def marlin_24(rows: int, columns: int) -> Layer:
    """Of every four inputs the first and the last are kept."""
    rows = -(-rows // 64) * 64
    scale = np.full((columns // GROUP, rows), 1.5, "<f2")
    meta = np.full((columns // 32, 2 * rows), 0xCCCC, "<u2")
    return Layer(
        [
            _packed("weight_packed", columns // 32, 2 * rows),
            Entry("meta", "I16", meta.shape, meta),
            Entry("scale_packed", "F16", scale.shape, scale),
        ]
    )


def qqq(rows: int, columns: int) -> Layer:
    """Whole tiles of 64 outputs."""
    rows = -(-rows // 64) * 64
    group = np.full((columns // GROUP, rows), 1.5, "<f2")
    return Layer(
        [
            _packed("B", columns // 16, 2 * rows),
            Entry("s_channel", "F32", (1, rows), _small(1, rows)),
            Entry("s_group", "F16", group.shape, group),
        ]
    )
