"""MXFP4 experts of gpt-oss: blocks of 16 bytes, and an E8M0 exponent for each.

| files | codes, U8 | exponents, U8 | output `X` |
|---|---|---|---|
| transformers | `X_blocks` `[experts, out, in / 32, 16]` | `X_scales` | `[experts, in, out]` |
| original | `X.blocks`, the same | `X.scales` | `[experts, out, in]` |

Exponents are `[experts, out, in / 32]`. Which way round a matrix lies no shape tells (`down_proj`
is square): transformers transposes `gate_up_proj` and `down_proj` when it loads them, and these two
alone are its. Gate and up rows alternate, and stay so. Sources: https://github.com/huggingface/transformers
integrations/mxfp4.py (`convert_moe_packed_tensors`); https://github.com/openai/gpt-oss
gpt_oss/torch/weights.py.
"""

from __future__ import annotations

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Placement, Strided
from anamnesis.readers.schemes._errors import missing, where
from anamnesis.readers.schemes.base import Ledger

_TRANSPOSED = ("gate_up_proj", "down_proj")
_ENDINGS = (("_blocks", "_scales"), (".blocks", ".scales"))
_BLOCK, _BYTES = 32, 16


def resolve(ledger: Ledger) -> None:
    """Claim blocks with their exponents.

    Raises FormatError for one without the other and shapes that do not fit, UnsupportedError for
    names in transformers' style whose orientation is not known.
    """
    for stored in ledger.free():
        for codes, exponents in _ENDINGS:
            name = stored.name
            if stored.dtype != "U8":
                continue
            if name.endswith(codes) and len(stored.shape) > 2:
                base = name[: -len(codes)]
                ledger.claim(_tensor(ledger, base, stored, base + exponents, codes == "_blocks"))
            elif name.endswith(exponents) and _named(name[: -len(exponents)], exponents):
                _refuse_lone(ledger, stored, name[: -len(exponents)] + codes)


def _named(base: str, exponents: str) -> bool:
    """Whether U8 scales of this name are nothing else."""
    return base.endswith(_TRANSPOSED if exponents == "_scales" else "_weight")


def _refuse_lone(ledger: Ledger, scales: Stored, blocks: str) -> None:
    if blocks not in ledger.container.stored:
        raise missing(ledger, scales, blocks)


def _tensor(ledger: Ledger, name: str, blocks: Stored, other: str, transposed: bool) -> Tensor:
    scales = ledger.get(other)
    if scales is None:
        raise missing(ledger, blocks, other)
    if transposed and name.rpartition(".")[2] not in _TRANSPOSED:
        raise UnsupportedError(
            f"{where(blocks)}: MXFP4 blocks of a parameter whose orientation is not known are "
            f"recognised and not implemented; implemented are {' and '.join(_TRANSPOSED)}"
        )
    *lead, count, size = blocks.shape
    if len(lead) != 2 or size != _BYTES or scales.dtype != "U8" or scales.shape != (*lead, count):
        raise FormatError(
            f"{where(scales, blocks)}: allowed are blocks [experts, out, in / {_BLOCK}, {_BYTES}] "
            f"and U8 scales [experts, out, in / {_BLOCK}]"
        )
    experts, outputs = lead
    inputs = count * _BLOCK

    def placement(block_bytes: int) -> Placement:
        line_bytes = max(1, count) * block_bytes
        if transposed:
            return Strided(8 * block_bytes, line_bytes, lines=outputs)
        return Contiguous(8 * line_bytes)

    return Tensor(
        name=name,
        shape=(experts, inputs, outputs) if transposed else (experts, outputs, inputs),
        scheme="mxfp4",
        encoding="fp4-mx-columns" if transposed else "fp4-mx",
        components=(
            Component("payload", blocks, placement(_BYTES)),
            Component("scale", scales, placement(1)),
        ),
        unit_elems=max(1, _BLOCK * outputs if transposed else inputs),
        orientation="transposed" if transposed else "as-stored",
    )
