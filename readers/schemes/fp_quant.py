"""FP-Quant: MXFP4 or NVFP4 of a weight that is rotated in groups of its inputs, rotated back.

| tensor | stored |
|---|---|
| `X.qweight` | U8 `[o, i / 2]`, element 2k in the low half |
| `X.scales` | U8 `[o, i / 32]` E8M0 of MXFP4, `[o, i / 16]` E4M3 of NVFP4; rows filled up to 128s |
| `X.dqweight` | BF16 `[o, i]`, instead of both: `pseudoquantization` |
| `X.forward_hadamard_matrix` | BF16 `[n, n]`, by which a layer rotates its inputs |
| `X.weight_global_scale` | BF16 `[1]`, which the codes are over (not `dqweight`); 3 without it |

`X.backward_hadamard_matrix` and `X.act_global_scale` are of gradients and activations. fp-quant 0.1
stored no `weight_global_scale`: its MXFP4 codes, all that it had, are over 3
(`dequantize_mxf4_bf16`). Sources: PyPI fp-quant 0.1.6 and 0.3.2 module/linear.py,
module/linear_fns.py (`forward_gemm`), pseudoquant_linear_fns;
https://github.com/IST-DASLab/qutlass tests/mxfp4_test.py (`_dq_fp4`).
"""

from __future__ import annotations

from dataclasses import replace

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, missing, need, where
from anamnesis.readers.schemes._rotated import Rotation, plain, rotated
from anamnesis.readers.schemes.base import Ledger

_MATRIX = "forward_hadamard_matrix"
_UNUSED = {
    "backward_hadamard_matrix": "rotates gradients",
    "act_global_scale": "activation scale",
    "weight_global_scale": "of codes that are not there",
    "weight": "without elements",
    "dqweight": "without elements",
    "qweight": "without elements",
    "scales": "without elements",
}
_METHODS = ("fp-quant", "fpquant")
_BLOCKS = {"mxfp4": 32, "nvfp4": 16}
_TILE_ROWS = 128
_OVER = 3.0  # of fp-quant 0.1, in its module/linear_fns.py
_NOTE = (
    "FP-Quant's weights were rotated back by the matrices of their layers, in double precision, "
    "and rounded once; what rounding the rotated weight to codes has lost is spread over a group"
)

_OLD = "no weight_global_scale beside codes: read as fp-quant 0.1 wrote them, over 3"


def resolve(ledger: Ledger) -> None:
    """Claim layers by the matrix beside them.

    Raises FormatError for parts that are missing or do not fit one another.
    """
    for matrix in ledger.free():
        module, dot, part = matrix.name.rpartition(".")
        if part != _MATRIX:
            continue
        stem = f"{module}{dot}"
        tensor = _layer(ledger, stem, matrix)
        if tensor is None:
            ledger.drop(matrix, "the weight is kept as it was trained")
        else:
            ledger.claim(tensor)
            ledger.note(_NOTE)
        _drop(ledger, stem)
    for stored in ledger.free():  # what has no matrix beside it is rotated by one that is not here
        if stored.name.endswith(".dqweight") and stored.nbytes:
            raise missing(ledger, stored, stored.name.removesuffix("dqweight") + _MATRIX)
    ledger.undone += [one.block for one in ledger.stated if one.method in _METHODS]


def _layer(ledger: Ledger, stem: str, matrix: Stored) -> Tensor | None:
    """The layer's weight; None where it is stored as it was trained."""
    codes, rounded = (_filled(ledger, f"{stem}{part}") for part in ("qweight", "dqweight"))
    if codes is not None:
        tensor = _codes(ledger, stem, codes)
        name = f"{stem}weight_global_scale"
        if ledger.get(name) is None and tensor.encoding == "fp4-mx":
            ledger.note(f"{codes.file.path}: {_OLD}")
            return rotated(tensor, inputs=Rotation(matrix), over=_OVER)
        divisor = need(ledger, codes, name)
        return rotated(tensor, inputs=Rotation(matrix), divisor=divisor)
    if rounded is not None:
        tensor = plain(rounded, "fp-quant", f"{stem}weight")
        return rotated(replace(tensor, out_dtype="BF16"), inputs=Rotation(matrix))
    if _filled(ledger, f"{stem}weight") is None:
        raise FormatError(f"{where(matrix)}: no weight, qweight or dqweight beside it")
    return None


def _filled(ledger: Ledger, name: str) -> Stored | None:
    """A stored tensor that has elements: transformers leaves empty ones in the others' places."""
    stored = ledger.get(name)
    return stored if stored is not None and stored.nbytes else None


def _codes(ledger: Ledger, stem: str, codes: Stored) -> Tensor:
    scales = need(ledger, codes, f"{stem}scales")
    if codes.dtype != "U8" or len(codes.shape) != 2:
        raise misfit(codes, "U8, a matrix")
    rows, packed = codes.shape
    heights = (rows, -(-rows // _TILE_ROWS) * _TILE_ROWS)
    fitting = [
        kind
        for kind, size in _BLOCKS.items()
        if not 2 * packed % size
        and scales.shape in [(height, 2 * packed // size) for height in heights]
    ]
    if not fitting or scales.dtype not in ("U8", "F8_E8M0", "F8_E4M3"):
        raise misfit(
            scales, f"U8 [{rows}, {packed // 16}] (MXFP4) or [{rows}, {packed // 8}] (NVFP4)"
        )
    width = 8 * max(1, scales.shape[1])
    return Tensor(
        name=f"{stem}weight",
        shape=(rows, 2 * packed),
        scheme="fp-quant",
        encoding="fp4-mx" if fitting[0] == "mxfp4" else "fp4-nv",
        components=(
            Component("payload", codes, Contiguous(8 * max(1, packed))),
            Component("scale", scales, Contiguous(width)),
        ),
        unit_elems=max(1, 2 * packed),
        params={"minus_zero": True},
    )


def _drop(ledger: Ledger, stem: str) -> None:
    for part, why in _UNUSED.items():
        stored = ledger.get(f"{stem}{part}")
        empty = stored is not None and not stored.nbytes
        if stored is not None and (empty or why != "without elements"):
            ledger.drop(stored, why)
