"""GPTQ-for-LLaMa's first layout, of March 2023: `X.qweight`, `X.scales`, `X.zeros`.

`qweight` is I32 `[in * bits / 32, out]`, the others are floats `[out, 1]`; the formula is at the
head of `kernels/gptq_zeros.py`. The tensors do not tell how many bits a code has, and these files
have no configuration: a `quantize_config.json` beside them with `{"bits": 4}` says it. Later
versions have `qzeros`, and are `gptq.py`'s.
"""

from __future__ import annotations

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._errors import misfit, unsupported
from anamnesis.readers.schemes._packed_linear import settings
from anamnesis.readers.schemes.base import Ledger

_BITS = (2, 3, 4, 8)
_DTYPES = {"F16": 16, "F32": 32}


def resolve(ledger: Ledger) -> None:
    """Claim layers by `qweight` and floats `zeros`; leaves others of these names alone.

    Raises FormatError for parts that do not fit, UnsupportedError where nothing tells the bits.
    """
    bits = settings(ledger).bits
    for codes in ledger.free():
        prefix, dot, part = codes.name.rpartition(".")
        zeros, scales = (ledger.get(f"{prefix}{dot}{name}") for name in ("zeros", "scales"))
        if part != "qweight" or codes.dtype not in ("I32", "U32") or zeros is None or not scales:
            continue
        if zeros.dtype in _DTYPES and len(zeros.shape) == 2 and zeros.shape[1] == 1:
            ledger.claim(_tensor(f"{prefix}{dot}weight", codes, scales, zeros, bits))


def _tensor(name: str, codes: Stored, scales: Stored, zeros: Stored, bits: int | None) -> Tensor:
    if bits is None or bits not in _BITS:
        raise unsupported(
            codes,
            "GPTQ-for-LLaMa's first layout whose bits no configuration says",
            '2, 3, 4 and 8 bits; a quantize_config.json beside it with {"bits": 4} says them',
        )
    lines, outputs = codes.shape if len(codes.shape) == 2 else (0, 0)
    if not lines or not outputs or lines % bits:
        raise misfit(codes, f"I32 [in * {bits} / 32, out], in a multiple of 32")
    for one in (scales, zeros):
        if one.dtype != zeros.dtype or one.shape != (outputs, 1):
            raise misfit(one, f"{zeros.dtype} {[outputs, 1]}, for {codes.name!r}")
    inputs, width = lines * 32 // bits, Contiguous(_DTYPES[zeros.dtype])
    return Tensor(
        name=name,
        shape=(outputs, inputs),
        scheme="gptq-for-llama",
        encoding="gptq-zeros",
        components=(
            Component("qweight", codes, Strided(32, 4 * outputs)),
            Component("scales", scales, width),
            Component("zeros", zeros, width),
        ),
        unit_elems=inputs,
        params={"bits": bits, "dtype": zeros.dtype},
        orientation="transposed",
    )
