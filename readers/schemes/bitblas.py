"""BitBLAS, as GPTQModel and vLLM's fork of it save it: see `kernels/bitblas.py`.

`X.qweight` in I8 with a row an output, `X.scales` with a row an output too, and `X.qzeros`, or
`X.zeros`, packed along the outputs; of a symmetric layer it has no elements, and the configuration
says the bits. GPTQ packed in bytes has its inputs as rows. Codes are mixed where BitBLAS computes
in F16, which is the dtype of the scales; for BF16 it does not mix them.
Source: https://github.com/ModelCloud/GPTQModel gptqmodel/nn_modules/qlinear/bitblas.py.
"""

from __future__ import annotations

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._errors import misfit, unsupported
from anamnesis.readers.schemes._packed_linear import note_group_sizes, settings
from anamnesis.readers.schemes.base import Ledger

_METHODS = ("awq", "bitblas", "gptq")
_IMPLEMENTED, _READ = "2 and 4 bits", (2, 4)
_REFUSED = {
    1: "1 bit, whose order its two implementations disagree on,",
    8: "8 bits, whose codes it takes with a sign and GPTQModel stores without,",
}
_FIELDS = ("checkpoint_format", "format", "quant_method")


def resolve(ledger: Ledger) -> None:
    """Claim layers of bytes whose scales have a row an output.

    Raises FormatError for parts that do not fit one another, UnsupportedError for other bits.
    """
    blocks = [one.block for one in ledger.stated if one.method in _METHODS]
    said = any(str(block.get(field)).lower() == "bitblas" for block in blocks for field in _FIELDS)
    stated = next((b["bits"] for b in blocks if type(b.get("bits")) is int), 0)
    for codes in ledger.free():
        layer, dot, part = codes.name.rpartition(".")
        if part != "qweight" or codes.dtype != "I8" or len(codes.shape) != 2:
            continue
        scales = ledger.get(f"{layer}{dot}scales")
        zeros = ledger.get(f"{layer}{dot}qzeros") or ledger.get(f"{layer}{dot}zeros")
        if scales is None or scales.dtype not in ("F16", "BF16") or len(scales.shape) != 2:
            continue
        # Without a word of it only shapes that this can be read by: GPTQ has words of a byte, too.
        if said or (zeros is not None and _bits(codes, scales, zeros) in _READ):
            if zeros is not None and not zeros.nbytes:
                ledger.drop(zeros, "zero points of no elements: the layer is symmetric")
                zeros = None
            ledger.claim(_tensor(ledger, f"{layer}{dot}weight", codes, scales, zeros, stated))
    note_group_sizes(ledger, "bitblas", settings(ledger))


def _bits(codes: Stored, scales: Stored, zeros: Stored) -> int:
    """Those that the shapes say, 0 if they are not BitBLAS's."""
    outputs, groups = scales.shape
    if zeros.dtype != "I8" or codes.shape[0] != outputs or len(zeros.shape) != 2:
        return 0
    for bits in (1, 2, 4, 8):
        if zeros.shape == (groups, outputs * bits // 8) and outputs * bits % 8 == 0:
            inputs = codes.shape[1] * 8 // bits
            return bits if groups and inputs % groups == 0 else 0
    return 0


def _tensor(
    ledger: Ledger, name: str, codes: Stored, scales: Stored, zeros: Stored | None, stated: int
) -> Tensor:
    outputs, groups = scales.shape
    bits = stated if zeros is None else _bits(codes, scales, zeros)
    if bits in _REFUSED:
        raise unsupported(codes, f"BitBLAS of {_REFUSED[bits]}", _IMPLEMENTED)
    inputs = codes.shape[1] * 8 // bits if bits else 0
    word = 32 // bits if bits else 1
    if (
        bits not in _READ
        or codes.shape[0] != outputs
        or not groups
        or inputs % groups
        or (inputs % word or outputs % (8 // bits) or not outputs)
    ):
        beside = f", zeros {list(zeros.shape)}" if zeros is not None else ""
        raise misfit(
            codes,
            f"I8 [out, in * b / 8] of BitBLAS, b of 2 or 4, with scales [out, groups] and zeros "
            f"[groups, out * b / 8]; found scales {list(scales.shape)}{beside}, bits {stated}",
        )
    components = [
        Component("qweight", codes, Contiguous(8 * codes.shape[1])),
        Component("scales", scales, Contiguous(16 * groups)),
    ]
    if zeros is not None:
        components.append(Component("qzeros", zeros, Strided(bits, outputs * bits // 8)))
    return Tensor(
        name=name,
        shape=(outputs, inputs),
        scheme="bitblas",
        encoding="bitblas",
        components=tuple(components),
        unit_elems=inputs,
        unit_multiple=1 if zeros is None else 8 // bits,
        params={
            "bits": bits,
            "mixed": scales.dtype == "F16",
            "group_size": inputs // groups,
            "groups": groups,
            "in_features": inputs,
            "scale_dtype": scales.dtype,
            "rounding": ledger.options.rounding,
        },
    )
