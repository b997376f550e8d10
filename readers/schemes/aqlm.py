"""AQLM: `X.codes`, `X.codebooks` and `X.scales`, whose layout and formula are in `kernels/aqlm.py`.

All sizes follow from the shapes. Codes are of the narrowest integer that holds them, as aqlm packs
them; wider ones are no file of its own, and refused. Sources: PyPI aqlm 1.1.7 aqlm/inference.py
(`QuantizedLinear`); https://github.com/huggingface/transformers integrations/aqlm.py.
"""

from __future__ import annotations

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, need, unsupported
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger

_CODES = {"I8": 1, "I16": 2}


def resolve(ledger: Ledger) -> None:
    """Claim layers by their codebooks.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError for
    codes of another width than aqlm gives them.
    """
    for stored in ledger.free():
        layer, dot, part = stored.name.rpartition(".")
        if part == "codebooks" and len(stored.shape) == 4:
            codes = need(ledger, stored, f"{layer}{dot}codes")
            scales = need(ledger, stored, f"{layer}{dot}scales")
            ledger.claim(_tensor(f"{layer}{dot}weight", codes, stored, scales))


def _tensor(name: str, codes: Stored, books: Stored, scales: Stored) -> Tensor:
    count, vectors, rows, columns = books.shape
    if books.dtype not in SCALE_BITS or vectors & (vectors - 1) or not all(books.shape):
        raise misfit(books, f"{', '.join(SCALE_BITS)} [books, a power of 2, rows, columns]")
    width, bits = _CODES.get(codes.dtype, 0), vectors.bit_length() - 1
    if len(codes.shape) != 3 or codes.shape[2] != count:
        raise misfit(codes, f"{' or '.join(_CODES)} [rows, columns, {count}]")
    if width != (1 if bits <= 8 else 2) or bits > 16:
        what = f"AQLM's codes of {bits} bits as {codes.dtype}"
        raise unsupported(codes, what, "I8 for up to 8 bits, I16 for up to 16")
    units, groups, _ = codes.shape
    if scales.dtype not in SCALE_BITS or scales.shape != (units, 1, 1, 1):
        raise misfit(scales, f"{', '.join(SCALE_BITS)} {[units, 1, 1, 1]}")
    inputs = groups * columns
    return Tensor(
        name=name,
        shape=(units * rows, inputs),
        scheme="aqlm",
        encoding="aqlm",
        components=(
            Component("codes", codes, Contiguous(8 * width * count * max(1, groups))),
            Component("scales", scales, Contiguous(SCALE_BITS[scales.dtype])),
            Component("codebooks", books),
        ),
        unit_elems=max(1, rows * inputs),
        params={
            "bits": bits,
            "out_group": rows,
            "in_group": columns,
            "in_features": inputs,
            "code_bytes": width,
            "scale_dtype": scales.dtype,
        },
    )
