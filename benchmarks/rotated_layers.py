"""Layers that turn their inputs by a matrix of their own, as `layers.py` has those of others."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from benchmarks.layers import _bytes
from benchmarks.models import WEIGHT, Entry, Layer

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


def higgs(rows: int, columns: int) -> Layer:
    """Whole chunks of a tile of 32 outputs, of 4 bits, rotated in blocks of 256."""
    rows, bits = -(-rows // 128) * 128, 4
    words = _bytes(rows * bits // 16, 2 * columns)
    scales = np.full((rows, columns // 256), 1.5, "<f2")
    grid = np.linspace(-2, 2, 2 * 4**bits, dtype="<f2")
    tuned = {f"model.layers.{n}.{WEIGHT}": {"template_id": 16} for n in range(64)}
    block = {"quant_method": "higgs", "hadamard_size": 256, "tune_metadata": tuned}
    return Layer(
        [
            Entry("weight", "I16", (rows * bits // 16, columns), words),
            Entry("scales", "F16", scales.shape, scales),
            Entry("tables2", "F16", (2**bits, 2**bits, 2), grid),
        ],
        config={"quantization_config": block},
    )
