"""The range of the scales that a quantised tensor stores, while its blocks stream by.

They are the numbers of the column `scale` of `scan`: the component that an encoding's row names
(`scales`), or the number `d` of a ggml block (`ggml_fields.py`). Scales are as stored: of INT8 rows
that is SCB, the absolute maximum, and of twice quantised bitsandbytes absmax what the codes stand
for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.analytics.scan.ggml_fields import FIELDS
from anamnesis.kernels import ENCODINGS, Window
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.fp4 import scale_codes
from anamnesis.kernels.fp8 import used_blocks
from anamnesis.kernels.int8_product import numbers as product_scales
from anamnesis.kernels.types import Array
from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.batch import BlockReader, Whole
from anamnesis.readers.dtypes import DTYPES

Range = tuple[float, float]


class ScaleRange:
    """Minimum and maximum of the finite scales of one tensor; None where it has no scales."""

    def __init__(self, tensor: Tensor, reader: BlockReader) -> None:
        """Reads the scales at once where they are a parameter of the whole tensor."""
        self._tensor = tensor
        self._low, self._high = math.inf, -math.inf
        self._nested: Mapping[str, Whole] = {}
        row = ENCODINGS.get(tensor.coding) if tensor.quantised else None
        role = row.scales if row else ""
        found = [c for c in tensor.components if c.role == role]
        self._component: Component | None = found[0] if found else None
        self._fields = None if found else FIELDS.get(tensor.params.get("plain", tensor.coding))
        if self._component is not None and not self._component.placement.windowed:
            whole = reader.wholes()[self._component.role]
            array = whole.array
            if tensor.coding.endswith("-tiles"):
                array = self._in_order(array, 0)
            elif "stored_grid" in tensor.params:
                array = used_blocks(tensor.params, array)
            bits = whole.dtype == "I64"  # of float32
            self._widen(product_scales(whole) if bits else to_float32(whole.dtype, array))
            self._component = None
        elif "nested_offset" in tensor.params:
            self._nested = reader.wholes()

    @property
    def found(self) -> Range | None:
        """The range so far."""
        return (self._low, self._high) if self._low <= self._high else None

    def add(self, views: Mapping[str, Any], batch: Window) -> None:
        """Look at the raw blocks of a range of units."""
        if self._component is not None:
            self._widen(self._numbers(self._component, views[self._component.role], batch))
        elif self._fields is not None:
            self._widen(self._fields.scale(self._blocks(views["payload"])))

    def _blocks(self, payload: Any) -> Any:
        """Blocks of ggml; those of repacked rows are put apart."""
        if "plain" not in self._tensor.params:
            return payload
        from anamnesis.kernels.interleaved import prepare, put_apart

        plain = ENCODINGS[self._tensor.params["plain"]]
        rows = put_apart(payload, {**self._tensor.params, **prepare(self._tensor.params, {})})
        return rows if plain.row_meta else rows.reshape(-1, plain.block_bytes)

    def _numbers(self, component: Component, view: Any, batch: Window) -> Any:
        dtype = component.stored.dtype
        if self._nested:
            return self._absmax(view.reshape(-1), batch.start)
        if self._tensor.coding.endswith("-tiles"):
            view = self._in_order(view, batch.start)
        if self._tensor.coding.startswith(("fp4-nv", "torchao-nvfp4")):
            return scale_codes(self._tensor.params)[view]
        if self._tensor.coding == "fouroversix":
            from anamnesis.kernels.fouroversix import used_scales
            from anamnesis.kernels.torchao import TILE_ROWS

            rows = min(batch.stop * TILE_ROWS, self._tensor.shape[0]) - batch.start * TILE_ROWS
            return used_scales(self._tensor.params, view, rows)
        if "halves" in self._tensor.params:  # rows of IQ1: four scales before their blocks
            return np.ascontiguousarray(view[:, :8]).view("<f2").astype(np.float32)
        if component.role == "dense_weights":
            from anamnesis.kernels.spqr import scales

            return scales(view)
        if dtype == "F8_E4M3":
            return scale_codes({})[view]
        numbers = np.ascontiguousarray(view).view(DTYPES[dtype].numpy)
        if self._tensor.coding == "awq-gemv":  # rows are filled up to whole words of zeros
            numbers = numbers[:, : self._tensor.params["groups"]]
        elif self._tensor.coding == "awq-gemv-fast":  # so are columns
            numbers = numbers[: self._tensor.params["groups"]]
        elif self._tensor.coding == "torchao-tinygemm":
            numbers = self._of_pairs(numbers, batch.start)
        return to_float32(dtype, numbers)

    def _in_order(self, tiles: Array, first: int) -> Any:
        """Scales in tiles from unit `first` on, without what fills the tiles up."""
        from anamnesis.kernels.torchao import TILE_BLOCKS, TILE_ROWS, untile

        shape, blocks = self._tensor.shape, self._tensor.params["blocks"]
        flat = tiles.reshape(-1).view(np.uint8)
        line = TILE_ROWS * TILE_BLOCKS * max(1, -(-blocks // TILE_BLOCKS))
        left = math.prod(shape[:-1]) - first * TILE_ROWS
        return untile(flat, min(left, flat.size // line * TILE_ROWS), blocks)

    def _of_pairs(self, numbers: Array, first: int) -> Any:
        """Scales `[groups, rows]` of those that stand in turn with zeros, less what fills up."""
        params, shape = self._tensor.params, self._tensor.shape
        left = math.prod(shape[:-1]) - first * params["tile_rows"]
        groups = -(-shape[-1] // params["group_size"])
        return numbers[:groups, : 2 * left : 2]

    def _absmax(self, codes: Array, first: int) -> Any:
        """As in `kernels/bnb.py`: every step rounds to float32."""
        params, nested = self._tensor.params, self._nested
        table = to_float32("F32", nested["nested_quant_map"].array).reshape(-1)
        outer = to_float32("F32", nested["nested_absmax"].array).reshape(-1)
        groups = np.arange(first, first + len(codes)) // params["nested_blocksize"]
        with np.errstate(all="ignore"):
            return table[codes] * outer[groups] + np.float32(params["nested_offset"])

    def _widen(self, scales: Any) -> None:
        if not scales.size:
            return
        low, high = float(scales.min()), float(scales.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = scales[np.isfinite(scales)]
            if not finite.size:
                return
            low, high = float(finite.min()), float(finite.max())
        self._low, self._high = min(self._low, low), max(self._high, high)


def join(first: Range | None, second: Range | None) -> Range | None:
    """The range of two."""
    if first is None or second is None:
        return first or second
    return min(first[0], second[0]), max(first[1], second[1])
