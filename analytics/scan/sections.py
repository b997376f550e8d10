"""The scales and zero points beside each encoding's blocks; one row a way of storing them.

`scale` is the number as stored once a block, `scales` what the codes are multiplied by, a number
for each run of equal length in the block: mostly `[scale]`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa

from anamnesis.analytics.scan.ggml_fields import read_fields
from anamnesis.analytics.scan.rows import (
    LONGEST,
    NUMBERS,
    Columns,
    Lines,
    Parts,
    Runs,
    Scaled,
    Section,
)
from anamnesis.errors import FormatError
from anamnesis.kernels import ENCODINGS
from anamnesis.kernels.types import Array
from anamnesis.readers.dtypes import DTYPES

_INVERSE_127 = np.float32(7.874015718698502e-3)  # kernels/bnb.py


class Ggml(Runs):
    """A ggml block holds its scales, so reading one is reading all of it."""

    def __init__(self, parts: Parts) -> None:
        elems, payload = parts.tensor.unit_elems, parts.tensor.components[0]
        super().__init__(parts, elems, payload.placement.unit_bits // 8, elems)

    def row_bytes(self, wanted: Collection[str]) -> int:
        return 8 + self.run_bytes + 128 * len({"scales", "minimums"} & set(wanted))

    def read(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        if not any(name in wanted for name in ("payload", *NUMBERS)):
            return {}
        payload = self.payload(start, stop)
        found = {"payload": payload}
        if any(name in wanted for name in NUMBERS):
            blocks = np.frombuffer(payload.buffers()[2], np.uint8).reshape(stop - start, -1)
            found |= read_fields(self._tensor.coding, blocks, wanted)
            if "scale" in self.parts.by_role:  # NVFP4: one for the tensor, or for each expert
                every = self._tensor.params["blocks_per_scale"]
                index = np.arange(start, stop) // every % len(self._factors)
                found["scale"] = self._factors[index]
                if "scales" in found:
                    found["scales"] = found["scales"] * found["scale"][:, None]
        return found

    @cached_property
    def _factors(self) -> Any:
        return self.parts.numbers("scale").reshape(-1)


class Fp8(Scaled):
    """A matrix row, cut where the next scale begins; a scale for each column is a list a row."""

    def __init__(self, parts: Parts) -> None:
        tensor = parts.tensor
        params = tensor.params
        self._bm, bn = params["block"]
        _, self._lines, self._across = params.get("stored_grid", params["grid"])
        self._listed = bn == 1 < tensor.unit_elems
        self._whole = bn >= tensor.unit_elems
        run = tensor.unit_elems if self._listed else min(bn, LONGEST) if self._whole else bn
        super().__init__(parts, tensor.unit_elems, tensor.unit_elems, run)
        self.multiple = self.per_unit * self._bm

    def row_bytes(self, wanted: Collection[str]) -> int:
        listed = 8 * self._across if self._listed and "scales" in wanted else 0
        return super().row_bytes(wanted) + listed

    def numbers(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        if "scale" not in self.parts.by_role:
            return {"scale": np.ones(stop - start, np.float32)}
        unit, run = self.split(start, stop)
        params = self._tensor.params
        matrix, row = np.divmod(unit, params["rows"])
        line = np.minimum(matrix, params["grid"][0] - 1) * self._lines + row // self._bm
        low, high = int(line.min()), int(line.max()) + 1
        grid = self.parts.numbers("scale", low * self._across, high * self._across)
        grid = grid.reshape(-1, self._across)
        if self._listed:
            return {"scales": grid[line - low]} if "scales" in wanted else {}
        return {"scale": grid[line - low, run * (not self._whole)]}


class BnbFourBit(Scaled):
    """A block and its absmax, which is quantised once more in some files."""

    def __init__(self, parts: Parts) -> None:
        size = parts.tensor.params["group_size"]
        super().__init__(parts, size, size // 2, size)

    def numbers(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        params = self._tensor.params
        size = params.get("nested_blocksize")
        if size is None:
            return {"scale": self.parts.numbers("absmax", start, stop)}
        codes = self.parts.read("absmax", start, stop)
        first = start // size
        absmax = self.parts.numbers("nested_absmax", first, (stop - 1) // size + 1)
        scale = self._map[codes] * absmax[np.arange(start, stop) // size - first]
        return {"scale": scale + np.float32(params["nested_offset"])}

    @cached_property
    def _map(self) -> Any:
        return self.parts.numbers("nested_quant_map")


class BnbInt8(Scaled):
    """A matrix row and its SCB, 127 times what the codes are multiplied by."""

    def __init__(self, parts: Parts) -> None:
        columns = parts.tensor.unit_elems
        super().__init__(parts, columns, columns, LONGEST)

    def numbers(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        unit, _ = self.split(start, stop)
        scale = self.parts.numbers("SCB", int(unit[0]), int(unit[-1]) + 1)[unit - unit[0]]
        return {"scale": scale, "scales": (scale * _INVERSE_127)[:, None]}


class Gemv(Scaled):
    """AWQ by output rows: a group of inputs, with its scale and zero point."""

    def __init__(self, parts: Parts) -> None:
        inputs, size = parts.tensor.unit_elems, parts.tensor.params["group_size"]
        super().__init__(parts, inputs, inputs // 2, size if size > 0 else inputs)

    def numbers(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        from anamnesis.kernels._codes import read_zeros

        unit, run = self.split(start, stop)
        low, high = int(unit[0]), int(unit[-1]) + 1
        padded = self.parts.by_role["scales"].stored.shape[1]
        scales = self.parts.numbers("scales", low * padded, high * padded).reshape(-1, padded)
        found = {"scale": scales[unit - low, run]}
        if "zero" in wanted:
            words = self.parts.read("qzeros", low * padded // 2, high * padded // 2)
            zeros = read_zeros(words.reshape(-1, padded // 2), 4, 0, 0, False, scales.shape)
            found["zero"] = zeros[unit - low, run]
        return found


class Affine(Scaled):
    """MLX: a group of inputs with its scale, and its bias for a minimum."""

    def __init__(self, parts: Parts) -> None:
        inputs, params = parts.tensor.unit_elems, parts.tensor.params
        super().__init__(parts, inputs, inputs * params["bits"] // 8, params["group_size"])

    def numbers(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        found = {}
        for name, role in (("scale", "scales"), ("minimum", "biases")):
            if {name, f"{name}s"} & set(wanted):
                found[name] = self.parts.numbers(role, start, stop)
                found[f"{name}s"] = found[name][:, None]
        return found


class Grid(Scaled):
    """compressed-tensors: a matrix row, cut where the next scale begins, and its zero points.

    Rows whose groups end inside a byte stay whole, with a list of scales.
    """

    def __init__(self, parts: Parts) -> None:
        params, payload = parts.tensor.params, parts.tensor.components[0].stored
        self._inputs, self._groups = params["in_features"], params["groups"]
        rows = params["matrices"] * params["rows"]
        size, bits = params["group_size"], params["bits"]
        streams = not (params.get("padded") and 32 % bits)
        self._cut = streams and size * bits % 8 == 0 and not params["act_order"]
        run = self._inputs if not self._cut or self._groups == 1 else size
        super().__init__(parts, self._inputs, payload.nbytes // max(1, rows), run)

    def row_bytes(self, wanted: Collection[str]) -> int:
        listed = 8 * self._groups if not self._cut and "scales" in wanted else 0
        return super().row_bytes(wanted) + listed

    def offsets(self, start: int, stop: int) -> Any:
        """Runs of whole bytes; what fills up the last word is the last run's."""
        unit, run = self.split(start, stop + 1)
        inside = run * self._run_elems * self._tensor.params["bits"] // 8
        return np.minimum(unit * self._unit_bytes + inside, self._payload.stored.nbytes)

    def numbers(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        unit, run = self.split(start, stop)
        params = self._tensor.params
        matrix, row = np.divmod(unit, params["rows"])
        line = matrix * params["lines"] + row // params["block_rows"]
        low, high = int(line.min()) * self._groups, (int(line.max()) + 1) * self._groups
        scales = self.parts.numbers("weight_scale", low, high).reshape(-1, self._groups)
        line -= line.min()
        if not self._cut and self._groups > 1:
            # Columns in another order than groups have no runs.
            return {} if params["act_order"] else {"scales": scales[line]}
        found = {"scale": scales[line, run]}
        if params["zero"] == "plain" and "zero" in wanted:
            zeros = self.parts.read("weight_zero_point", low, high).view(np.int8)
            found["zero"] = zeros.reshape(-1, self._groups)[line, run].astype(np.float32)
        elif params["zero"] == "float" and "zero" in wanted:
            zeros = self.parts.numbers("weight_zero_point", low, high)
            found["zero"] = zeros.reshape(-1, self._groups)[line, run]
        elif params["zero"] and "zero" in wanted:
            found["zero"] = self._unpacked(matrix, row)[np.arange(len(run)), run]
        return found

    def _unpacked(self, matrix: Array, row: Array) -> Any:
        """Zero points as signed numbers, float32 `[rows, groups]`, from words down the columns."""
        params, stored = self._tensor.params, self.parts.by_role["weight_zero_point"].stored
        bits, each, lines = params["bits"], 32 // params["bits"], stored.shape[-2]
        word, shift = np.divmod(row * bits, 32)
        if params["padded"]:
            word, shift = row // each, row % each * bits
        word += matrix * lines
        low, high = int(word.min()), min(int(word.max()) + 2, stored.shape[0] * lines)
        words = self.parts.read(
            "weight_zero_point", low * 4 * self._groups, high * 4 * self._groups
        )
        grid = words.view("<u4").reshape(-1, self._groups).astype(np.uint64)
        after = np.minimum(word - low + 1, len(grid) - 1)
        both = grid[word - low] | grid[after] << np.uint64(32)
        codes = both >> shift.astype(np.uint64)[:, None] & np.uint64((1 << bits) - 1)
        return codes.astype(np.float32) - np.float32(1 << (bits - 1))


class Groups:
    """GPTQ, and AWQ by outputs: a scale and a zero point for each group of inputs and output.

    Codes of several such blocks share a word, so they are rows of their own: see `Lines`.
    """

    component = "scales"

    def __init__(self, parts: Parts) -> None:
        self._parts, self._params = parts, parts.tensor.params
        self._outputs = self.multiple = max(1, parts.tensor.shape[0])
        self._groups = self._params["groups"]
        self.rows = parts.tensor.shape[0] * self._groups
        self._lines, self._kept = (0, 0), np.empty(0, np.float32)

    def row_bytes(self, wanted: Collection[str]) -> int:
        return 8 + 16 * len(wanted)

    def place(self, start: int, stop: int) -> Columns:
        group, row = np.divmod(np.arange(start, stop, dtype=np.int64), self._outputs)
        col, elems, scattered = self._spans
        col = pa.array(col[group], mask=scattered[group])
        return {"row": row, "col": col, "elems": elems[group]}

    def read(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        found = {}
        if "scale" in wanted or "scales" in wanted:
            found["scale"] = self._parts.numbers("scales", start, stop)
        if "zero" in wanted:
            lines = start // self._outputs, (stop - 1) // self._outputs + 1
            if lines != self._lines:  # some batches are parts of a line
                self._lines, self._kept = lines, self._zeros(*lines).reshape(-1)
            found["zero"] = self._kept[start - lines[0] * self._outputs :][: stop - start]
        return found

    def _zeros(self, first: int, last: int) -> Any:
        from anamnesis.kernels._codes import read_zeros

        bits, shape = self._params["bits"], (last - first, self._outputs)
        if "qzeros" not in self._parts.by_role:
            return np.full(shape, np.float32(1 << (bits - 1)))
        line = self._parts.by_role["qzeros"].placement.line_bytes
        words = self._parts.read("qzeros", first * line, last * line).reshape(-1, line)
        if self._parts.tensor.coding.startswith("awq-"):
            return read_zeros(words, bits, 0, 0, True, shape)
        carry = self._params["word_bits"] // bits if self._params["zero_carry"] else 0
        return read_zeros(words, bits, self._params["zero_offset"], carry, False, shape)

    @cached_property
    def _spans(self) -> tuple[Any, Any, Any]:
        """First input and number of inputs of each group, and whether others lie between."""
        inputs, size = self._params["in_features"], self._params["group_size"]
        index = np.arange(inputs, dtype=np.int64) // (size if size > 0 else max(1, inputs))
        if "g_idx" in self._parts.by_role:
            stored = self._parts.by_role["g_idx"].stored
            raw = self._parts.read("g_idx", 0, stored.nbytes)
            ids = raw.view(DTYPES[stored.dtype].numpy).astype(np.int64)
            if self._groups == 1 or ids.any():
                index = ids
            if index.min(initial=0) < 0 or index.max(initial=0) >= self._groups:
                raise FormatError(
                    f"{stored.file.path}: tensor {stored.name!r}: a group beyond the "
                    f"{self._groups:,} that have scales"
                )
        elems = np.bincount(index, minlength=self._groups)
        order = np.argsort(index, kind="stable")
        ends = np.cumsum(elems)
        first, last = order[np.minimum(ends - elems, inputs - 1)], order[ends - 1]
        return first, elems, last - first + 1 != elems


def grouped(parts: Parts) -> Sequence[Section]:
    """GPTQ, and AWQ by outputs: scales by group, and words without numbers."""
    return Groups(parts), Lines(parts, "qweight")


def _dense(parts: Parts) -> Sequence[Section]:
    shape, stored = parts.tensor.shape, parts.tensor.components[0].stored
    columns = shape[-1] if shape else 1
    return (Runs(parts, columns, columns * DTYPES[stored.dtype].bits // 8, LONGEST),)


def _plain(parts: Parts) -> Sequence[Section]:
    """An encoding whose row names no sections: bytes by units, or by lines."""
    tensor, placement = parts.tensor, parts.tensor.components[0].placement
    if placement.in_lines:
        return (Lines(parts, tensor.components[0].role),)
    return (Runs(parts, tensor.unit_elems, placement.unit_bits // 8, tensor.unit_elems),)


def sections(parts: Parts) -> Sequence[Section]:
    """The rows of one tensor, as its encoding's row in the table says."""
    if not parts.tensor.elems:
        return ()
    if parts.tensor.coding == "copy":
        return _dense(parts)
    row = ENCODINGS.get(parts.tensor.coding)
    if row is None or not row.sections:
        return _plain(parts)
    module, _, name = row.sections.partition(":")
    found = getattr(import_module(f"anamnesis.analytics.scan.{module}"), name)(parts)
    return found if isinstance(found, tuple) else (found,)
