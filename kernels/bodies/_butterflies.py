"""Products with Sylvester's matrix H, `H[i, k] = (-1) ** popcount(i & k)`, by sums and differences.

In place, of a size that is a power of two: after the step s, numbers that differ in bit s of their
place are their sum and their difference. A product takes `size * log2(size)` of them, and no other
order of the sums gives the same roundings: callers see to it that nothing is rounded, or want this.
"""

from __future__ import annotations

from anamnesis.kernels.bodies._jit import forced
from anamnesis.kernels.types import Doubles


@forced
def along_line(line: Doubles, size: int) -> None:
    """`line @ H`, of the first `size` numbers."""
    half = 1
    while half < size:
        for first in range(0, size, 2 * half):
            for i in range(first, first + half):
                a, b = line[i], line[i + half]
                line[i], line[i + half] = a + b, a - b
        half *= 2


@forced
def across_lines(lines: Doubles, size: int, count: int) -> None:
    """`H @ lines`, of the first `size` lines and `count` columns: neighbours go side by side."""
    half = 1
    while half < size:
        for first in range(0, size, 2 * half):
            for k in range(first, first + half):
                for j in range(count):
                    a, b = lines[k, j], lines[k + half, j]
                    lines[k, j], lines[k + half, j] = a + b, a - b
        half *= 2
