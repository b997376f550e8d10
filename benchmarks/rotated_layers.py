"""Layers that turn their inputs by a matrix of their own, as `layers.py` has those of others."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from benchmarks.layers import _bytes
from benchmarks.models import Entry, Layer

SIZE = 32  # of FP-Quant's matrix


def fp_quant(rows: int, columns: int) -> Layer:
    """MXFP4 of a weight that is rotated in groups of 32."""
    codes = _bytes(rows, columns // 2)
    matrix = np.ones((1, 1))
    while len(matrix) < SIZE:
        matrix = np.kron(matrix, [[1, 1], [1, -1]])
    numbers = (matrix / SIZE**0.5).astype(ml_dtypes.bfloat16).view(np.uint16)
    return Layer(
        [
            Entry("qweight", "U8", codes.shape, codes),
            Entry("scales", "U8", (rows, columns // 32), codes[:, ::16] % 8 + np.uint8(116)),
            Entry("weight_global_scale", "BF16", (1,), np.array([0x3F80], np.uint16)),
            Entry("forward_hadamard_matrix", "BF16", numbers.shape, numbers),
        ],
        config={"quantization_config": {"quant_method": "fp_quant"}},
    )
