"""VPTQ: a vector of outputs a column, looked up in the codebook of a group of columns.

| tensor | stored |
|---|---|
| `indices` | I32 `[groups, out / v, words]`: a stream of `b + r` bits a column, lowest first |
| `centroids` | F16, BF16 or F32 `[groups, 2**b * v]`: vectors of `v` outputs |
| `res_centroids` | the same of `2**r`: vectors that are added |
| `outlier_indices` | I16 or I32 `[1, out / w, outliers]`: of the first columns |
| `outlier_centroids` | `[1, vectors * w]` |
| `perm` | I16, I32 or I64 `[in]`: where each column belongs |
| `weight_scale`, `weight_bias` | `[in]`, or `[out]` |

    value = (centroid[index] + residual[index >> b]) * scale + bias

each step float32, rounded once to BF16 at the end; the tools compute in the dtype of the codebooks.
Sources: PyPI vptq 0.0.5.post1 vptq/ops/quant_gemm.py (`dequant`), vptq/utils/pack.py; GPTQModel
7.7.0 nn_modules/qlinear/vptq_torch.py, whose outlier indices are wider and whose scales may be the
outputs'.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import PayloadError, Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import numbers_of
from anamnesis.kernels.types import Array, Params, Views, Wholes

_outliers = kernel("vptq:add_outliers")
_vectors = kernel("vptq:vectors")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """float32 `books` and `rest` `[groups, vectors, v]`, `outlier_book` `[vectors, w]`, `scale`,
    `bias`, and `places`, int64 `[in]`.

    What a layer lacks is empty. Raises ValueError for a `perm` that is no permutation.
    """
    columns, length = scalars["in_features"], scalars["vector"]

    def book(role: str, size: int) -> Array:
        if role not in wholes:
            return np.empty((0, 0, size), np.float32)
        values = numbers_of(wholes[role])
        return values.reshape(values.shape[0], -1, size)

    def padded(role: str, bits: int) -> Array:
        """With a vector for every code, so that none is read from beyond the book."""
        values = book(role, length)
        # Indices of so many bits may be greater than the book; what they meet is refused
        # afterwards.
        room = (1 << bits) - values.shape[1] if role in wholes else 0
        return np.pad(values, ((0, 0), (0, room), (0, 0)))

    places = np.arange(columns)
    if "perm" in wholes:
        stored = wholes["perm"].array.reshape(-1)
        places = stored.view(f"<u{stored.itemsize}").astype(np.int64)
        if not np.array_equal(np.sort(places), np.arange(columns)):
            raise ValueError(f"a perm that does not order {columns:,} columns")
    empty = np.empty(0, np.float32)
    return {
        "books": padded("centroids", scalars["bits"]),
        "rest": padded("res_centroids", scalars["residual_bits"]),
        "outlier_book": book("outlier_centroids", scalars["outlier_vector"]).reshape(
            -1, scalars["outlier_vector"]
        ),
        "scale": numbers_of(wholes["weight_scale"]) if "weight_scale" in wholes else empty,
        "bias": numbers_of(wholes["weight_bias"]) if "weight_bias" in wholes else empty,
        "places": places,
    }


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units of `unit_rows` outputs `window`, the last may be short.

    `blocks`: uint8 `indices` `[groups, bytes]`, and `outlier_indices` `[units, bytes]` where there
    are outliers. `params`: `bits`, `residual_bits`, `vector`, `outlier_vector`, `outliers`,
    `group_size`, `unit_rows`, `in_features`, `index_bytes` (of an outlier), `vectors` of both
    books, `by_rows` (factors are those of outputs), and what `prepare` made. Raises ValueError for
    arrays that do not fit, PayloadError for an index beyond its book.
    """
    columns, unit_rows = params["in_features"], params["unit_rows"]
    rows, units = out.shape[0] // max(1, columns), window.stop - window.start
    words = blocks["indices"].view("<u4")
    vectors = units * (unit_rows // params["vector"])
    if (
        rows * columns != out.shape[0]
        or not 0 <= units * unit_rows - rows < unit_rows
        or words.shape[0] != len(params["books"])
        or words.shape[1] % vectors
    ):
        raise ValueError(f"indices {words.shape}, out {out.shape}: {window}")
    layout = (
        params["bits"],
        params["residual_bits"],
        params["group_size"],
        params["outliers"],
        words.shape[1] // vectors,
    )
    factors = (params["scale"], params["bias"])
    # -1: factors are those of columns.
    first = window.start * unit_rows if params["by_rows"] else -1
    places, books, rest = params["places"], params["books"], params["rest"]
    most = np.zeros(2, np.int64)
    _vectors(words, layout, (books, rest), places, factors, first, most, out)
    for found, book in zip(most.tolist(), params["vectors"], strict=True):
        if found >= book:
            raise PayloadError(f"an index of {found:,} in a codebook of {book:,}")
    if params["outliers"]:
        raw = np.ascontiguousarray(blocks["outlier_indices"]).reshape(-1)
        apart = raw.view(f"<u{params['index_bytes']}").astype(np.int64)
        vectors = len(params["outlier_book"])
        if apart.size and apart.max() >= vectors:
            raise PayloadError(f"an outlier's index of {apart.max():,} in a book of {vectors:,}")
        table = apart.reshape(-1, params["outliers"])
        _outliers(table, params["outlier_book"], places, *factors, first, out)
