"""Weights of layers that turn their inputs, or their outputs, by a matrix in the file: turned back.

Where a layer computes `((x A) W.T) B`, a dense layer with the weight

    B.T W A.T

does the same. `A` and `B` are blocks of one square matrix along the diagonal, as large as the
stored one:

| matrix | stored as | element |
|---|---|---|
| compressed-tensors `hadamard`, `random-hadamard` | +1 and -1 `[n, n]` | stored / sqrt(n) |
| compressed-tensors `random-matrix` | floats `[n, n]` | as stored |
| FP-Quant | BF16 `[n, n]` | as stored; the codes are over a number of the tensor besides |

With a permutation `perm` `[n]`, rows and columns of a stored matrix are taken in its order. A bias
`b` of a layer that turns its outputs becomes `b B`.

The number that a code means is a float32, as the encoding inside has it; products and sums of the
matrices are double, in the order of the rows of a block, first `A`, then `B`; roots and divisors
come last, in one division. The result is rounded to float32, and once more to a narrower format.
Matrices of Sylvester's kind, rows and columns of any sign, are applied in butterflies where no sum
is rounded, which gives the same bits (`bodies/basis.py`).
Sources: PyPI compressed-tensors 0.20 transform/factory/hadamard.py, matrix_multiply.py,
transform/utils/matrix.py (`apply_transform_weight`); PyPI fp-quant 0.3.2 module/linear.py,
module/linear_fns.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import PayloadError, Window, decoder, preparer
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.types import Array, Component, Doubles, Params, Views, Wholes

_CHUNK = 64  # columns that are turned together
_LEAST = 32  # inputs from which butterflies are faster
_TOGETHER = 16  # rows that a matrix is read once for
_round = kernel("basis:round_values")
_times = kernel("basis:times")
_times_sylvester = kernel("basis:times_sylvester")
_turned = kernel("basis:turned")
_turned_sylvester = kernel("basis:turned_sylvester")


class Sylvester(NamedTuple):
    """A matrix that is `factor * rows[i] * H[i, k] * columns[k]`, H of Sylvester's kind.

    `bits` are those of the factor's odd part, 0 for a power of two.
    """

    rows: Doubles
    columns: Doubles
    factor: float
    bits: float


def sylvester(matrix: Array) -> Sylvester | None:
    """What a square matrix of float64 is in butterflies, if it is; None for others."""
    size = len(matrix)
    factor = abs(float(matrix[0, 0])) if size else 0.0
    if (
        size < _LEAST
        or size & (size - 1)
        or not 0 < factor < np.inf
        or not (np.abs(matrix) == factor).all()
    ):
        return None
    signs = np.signbit(matrix)
    # A column whose first sign differs is turned as a whole, and a row after it.
    signs ^= signs[0] ^ signs[:1, :1]  # columns first, then what is left of the rows
    columns = np.where(np.signbit(matrix[0]) ^ np.signbit(matrix[0, 0]), -1.0, 1.0)
    rows = np.where(signs[:, 0], -1.0, 1.0)
    signs ^= signs[:, :1]
    plain = np.zeros((1, 1), bool)
    while len(plain) < size:
        # Sylvester's step: H of twice the size.
        plain = np.block([[plain, plain], [plain, ~plain]])
    if not np.array_equal(signs, plain):
        return None
    odd = float(factor).as_integer_ratio()[0]
    # The factor without its powers of two, which round nothing.
    odd //= odd & -odd
    return Sylvester(rows, columns, factor, float(odd.bit_length() if odd > 1 else 0))


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """What the encoding `scalars["inner"]` needs, the matrices, float64 `[n, n]`, and `over`.

    `wholes`: `inputs` (`A`) or `outputs` (`B`), with `inputs_perm` or `outputs_perm`, and
    `divisor`, one number. `scalars`: `columns`, and for each side `inputs_hadamard` and
    `inputs_inverse`: the matrix is the transpose of the stored one; `over`, a divisor that is
    known without being stored. With `bias` the numbers are a bias. Raises ValueError for parts that
    do not fit, PayloadError for what is no permutation.
    """
    inner = preparer(scalars["inner"])
    prepared = {} if inner is None else inner(scalars, wholes)
    prepared["right"] = prepared["left"] = np.zeros((0, 0))
    prepared["over"] = float(scalars.get("over", 1.0))
    if "inputs" in wholes:
        prepared["right"] = np.ascontiguousarray(_matrix("inputs", scalars, wholes).T)
    if "outputs" in wholes:
        matrix = _matrix("outputs", scalars, wholes)
        side = "right" if scalars.get("bias") else "left"
        prepared[side] = np.ascontiguousarray(matrix if side == "right" else matrix.T)
    for side in ("inputs", "outputs"):
        if side in wholes and scalars[f"{side}_hadamard"]:
            prepared["over"] *= float(len(wholes[side].array)) ** 0.5
    for side in ("left", "right"):
        prepared[f"{side}_sylvester"] = sylvester(prepared[side])
    if "divisor" in wholes:
        prepared["over"] *= float(_doubles(wholes["divisor"]).reshape(-1)[0])
    if scalars["columns"] % max(1, len(prepared["right"])):
        raise ValueError(f"{scalars['columns']:,} columns in blocks of {len(prepared['right'])}")
    return prepared


def _matrix(side: str, scalars: Params, wholes: Wholes) -> Array:
    matrix = _doubles(wholes[side])
    if f"{side}_perm" in wholes:
        order = wholes[f"{side}_perm"].array.reshape(-1)
        if not np.array_equal(np.sort(order), np.arange(len(matrix))):
            raise PayloadError(f"{side}_perm is no permutation of {len(matrix)} numbers")
        matrix = matrix[order][:, order]
    return matrix.T if scalars[f"{side}_inverse"] else matrix


def _doubles(stored: Component) -> Array:
    if stored.dtype == "F64":
        return np.array(stored.array, np.float64)
    with np.errstate(invalid="ignore"):  # of a signalling NaN, which stays one
        return to_float32(stored.dtype, stored.array).astype(np.float64)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of the encoding inside, whole rows of `columns`, and whole blocks of them.

    Raises ValueError for arrays that do not fit.
    """
    columns, left, right = params["columns"], params["left"], params["right"]
    numbers = np.empty(out.shape, np.float32)
    decoder(params["inner"])(blocks, params, window, numbers)
    if out.shape[0] % (max(1, columns) * max(1, len(left))):
        raise ValueError(f"out {out.shape} for rows of {columns} in blocks of {len(left)}")
    wide = numbers.astype(np.float64).reshape(-1, columns)
    if len(right):
        room = np.empty((_TOGETHER, len(right)))
        plain = params["right_sylvester"]
        if plain is None:
            _times(wide, right, room)
        else:
            order = (plain.rows, plain.columns, plain.factor, plain.bits)
            _times_sylvester(wide, right, *order, room)
    if len(left):
        room = np.empty((len(left), _CHUNK))
        plain = params["left_sylvester"]
        if plain is None:
            _turned(left, wide, room)
        else:
            order = (plain.columns, plain.rows, plain.factor, plain.bits)
            _turned_sylvester(left, wide, *order, room)
    _round(wide.reshape(-1), params["over"], out)
