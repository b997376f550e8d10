"""The block scales of micro-scaled formats, MXFP4, MXFP6 and NVFP4: a byte for each block."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any

import numpy as np

from anamnesis.analytics.scan.rows import Columns, Parts, Runs, Scaled

_BLOCKS = {"fp4-mx": (32, 4), "fp4-nv": (16, 4), "fp6-mx": (32, 6)}  # elements, bits of one


class Micro(Scaled):
    """Blocks of a row. `scale` is what the byte says; NVFP4's `scales` hold the global one too."""

    def __init__(self, parts: Parts) -> None:
        tensor = parts.tensor
        size, bits = _BLOCKS[tensor.coding]
        self._two_scales, self._params = tensor.coding == "fp4-nv", tensor.params
        size = tensor.params.get("block_elems", size)
        super().__init__(parts, tensor.unit_elems, tensor.unit_elems * bits // 8, size)

    def numbers(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        scale = self._scale(self.parts.read("scale", start, stop))
        found = {"scale": scale}
        if self._two_scales and "scales" in wanted:
            unit, _ = self.split(start, stop)
            matrix = unit // self._params.get("rows", self.rows) % len(self._factors)
            factor = self._factors[matrix]
            divides = self._params.get("global") == "divide"
            found["scales"] = (scale / factor if divides else scale * factor)[:, None]
        return found

    def _scale(self, raw: Any) -> Any:
        from anamnesis.kernels.bits import to_float32
        from anamnesis.kernels.fp4 import scale_codes

        return scale_codes(self._params)[raw] if self._two_scales else to_float32("F8_E8M0", raw)

    @cached_property
    def _factors(self) -> Any:
        if "global" not in self.parts.by_role:
            return np.ones(1, np.float32)
        factors = self.parts.numbers("global").reshape(-1)
        return factors / np.float32(self._params.get("global_unit", 1))


class Transposed(Micro):
    """Blocks in the order they are stored in: parts of columns of the output, of no one row."""

    def __init__(self, parts: Parts) -> None:
        self._two_scales = False
        Runs.__init__(self, parts, 32, 16, 32)

    def place(self, start: int, stop: int) -> Columns:
        return {"elems": np.full(stop - start, 32, np.int64)}
