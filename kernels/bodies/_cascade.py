"""The sum of a float32 vector in torch's order, a stretch at a time.

torch 2.13 on an x86 CPU (`aten/src/ATen/native/cpu/SumKernel.cpp`, one thread; AVX-512 is not used
there) sees the vector as rows of 32: four accumulators of eight lanes. Each lane adds up 2**p rows,
p a quarter of the bits of the number of rows and at least 4, hands its sum on to a second level,
2**p of which go to a third, and so on, up to a fourth. At the end the levels are added, then whole
vectors that are left, the accumulators, the numbers that are left, and the lanes. Fewer than eight
numbers go to four accumulators in turn.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._cascade import LEVELS, ROW
from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.types import Floats


@jit
def add_rows(values: Floats, first: int, power: int, steps: int, sums: Floats) -> None:
    """Add rows to the levels `sums`, [4, 32], to which `first` rows were added before.

    A level takes 2**`power` sums of the one below; only the first `steps` rows are handed on.
    """
    for row in range(values.shape[0] // ROW):
        for lane in range(ROW):
            sums[0, lane] += values[row * ROW + lane]
        done = first + row + 1
        # A full level is added to the next one and cleared; what that fills is handed on as well.
        if done % (1 << power) == 0 and done <= steps:
            for level in range(1, LEVELS):
                for lane in range(ROW):
                    sums[level, lane] += sums[level - 1, lane]
                    sums[level - 1, lane] = np.float32(0)
                if done & (((1 << power) - 1) << (level * power)):
                    break
