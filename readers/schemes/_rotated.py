"""Tensors whose layer rotates its inputs or outputs by a stored matrix, which goes with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from anamnesis.errors import UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, where

FLOATS = ("F32", "F16", "BF16")
_MATRIX = ("F64", *FLOATS)


@dataclass(frozen=True, slots=True)
class Rotation:
    """A matrix, and what is done to it before anything is multiplied by it.

    In this order: `perm` of its rows and columns, the transpose if `inverse`, and division by the
    square root of its size if it is a `hadamard` matrix.
    """

    matrix: Stored
    perm: Stored | None = None
    hadamard: bool = False
    inverse: bool = False

    def parts(self, side: str, count: int) -> tuple[list[Component], dict[str, object]]:
        """Components and parameters for `side`, of `count` inputs or outputs.

        Raises FormatError for a matrix that does not fit.
        """
        size = self.matrix.shape[0] if self.matrix.shape else 0
        square = self.matrix.shape == (size, size) and size > 0
        if self.matrix.dtype not in _MATRIX or not square or count % size:
            raise misfit(self.matrix, f"{', '.join(_MATRIX)} [n, n], n a divisor of {count:,}")
        components = [Component(side, self.matrix)]
        if self.perm is not None:
            if self.perm.dtype != "I64" or self.perm.shape != (size,):
                raise misfit(self.perm, f"I64 [{size}]")
            components.append(Component(f"{side}_perm", self.perm))
        return components, {f"{side}_hadamard": self.hadamard, f"{side}_inverse": self.inverse}


def rotated(
    tensor: Tensor,
    *,
    inputs: Rotation | None = None,
    outputs: Rotation | None = None,
    divisor: Stored | None = None,
    over: float = 1.0,
) -> Tensor:
    """The same tensor, as a layer without these matrices has it (`kernels/basis.py`).

    A tensor of one dimension is a bias. `divisor` is a number that codes are over, beside `inputs`,
    and `over` one that is not stored.
    Raises FormatError for parts that do not fit, UnsupportedError for stacks, and for tensors that
    are not decoded in whole rows.
    """
    first = tensor.components[0].stored
    bias = len(tensor.shape) == 1
    columns = tensor.shape[-1]
    rows_of_units = columns > 0 and tensor.unit_elems % columns == 0
    if len(tensor.shape) > 2 or not rows_of_units or tensor.encoding == "folded":
        raise UnsupportedError(
            f"{where(first)}: a {tensor.scheme} tensor {list(tensor.shape)} that a transform "
            "belongs to; implemented are those of one matrix in whole rows"
        )
    components, more = list(tensor.components), {"inner": tensor.encoding, "columns": columns}
    params: dict[str, object] = {**tensor.params, **more, "bias": bias}
    if over != 1:
        params["over"] = over
    multiple = tensor.unit_multiple
    for side, rotation, count in (
        ("inputs", inputs, columns),
        ("outputs", outputs, tensor.shape[0]),
    ):
        if rotation is not None:
            parts, settings = rotation.parts(side, count)
            components += parts
            params |= settings
    if outputs is not None and not bias:
        rows = tensor.unit_elems // columns
        multiple = math.lcm(multiple, outputs.matrix.shape[0] // math.gcd(
            outputs.matrix.shape[0], rows
        ))  # fmt: skip
    if divisor is not None:
        if divisor.dtype not in _MATRIX or math.prod(divisor.shape) != 1:
            raise misfit(divisor, f"{', '.join(_MATRIX)}, one number")
        components.append(Component("divisor", divisor))
    return replace(
        tensor,
        encoding="basis",
        components=tuple(components),
        unit_multiple=multiple,
        params=params,
    )


def plain(stored: Stored, scheme: str, name: str = "") -> Tensor:
    """A dense matrix or bias in whole rows, as a tensor that can be rotated.

    Raises FormatError for numbers of other kinds.
    """
    if stored.dtype not in FLOATS or not stored.shape or 0 in stored.shape:
        raise misfit(stored, f"{', '.join(FLOATS)}, of one or two dimensions")
    columns = stored.shape[-1]
    unit_bits = columns * DTYPES[stored.dtype].bits
    return Tensor(
        name=name or stored.name,
        shape=stored.shape,
        scheme=scheme,
        encoding=stored.dtype.lower(),
        components=(Component("payload", stored, Contiguous(unit_bits)),),
        unit_elems=columns,
        out_dtype=stored.dtype,
    )
