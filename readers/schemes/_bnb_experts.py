"""bitsandbytes' `Experts4bit`: the matrices of all experts, four bits, without a quant state.

| part | stored |
|---|---|
| `X.gate_up_proj`, `X.down_proj` | U8 `[experts, out * in / 2]`, as other four-bit codes |
| `X.gate_up_absmax`, `X.down_absmax` | F32 `[experts, out * in / blocksize]` |

Neither the shape of a matrix nor the map of the codes is stored. `hidden_size` of config.json is
the columns of the first and the rows of the second; `bnb_4bit_quant_type` says the map. Source:
https://github.com/bitsandbytes-foundation/bitsandbytes/pull/1965 bitsandbytes/nn/experts.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._bnb_state import BLOCK_SIZES, QUANT_TYPES
from anamnesis.readers.schemes._errors import misfit, need, unsupported, where
from anamnesis.readers.schemes.base import Ledger

_PARTS = {"gate_up_absmax": "gate_up_proj", "down_absmax": "down_proj"}
_IMPLEMENTED = "stacked experts of nf4 and fp4 whose config says bnb_4bit_quant_type"


def claim_experts(ledger: Ledger) -> None:
    """Claim both stacks of every layer of experts.

    Raises FormatError for shapes that do not fit `hidden_size` or one another, UnsupportedError
    where the config does not say what the codes mean.
    """
    for stored in ledger.free():
        stem, dot, part = stored.name.rpartition(".")
        if part in _PARTS and stored.dtype == "F32":
            codes = need(ledger, stored, f"{stem}{dot}{_PARTS[part]}")
            ledger.claim(_tensor(ledger, codes, stored))


def _tensor(ledger: Ledger, codes: Stored, absmax: Stored) -> Tensor:
    kind = ledger.quantization().get("bnb_4bit_quant_type")
    if kind not in QUANT_TYPES:
        raise unsupported(codes, f"Experts4bit of type {kind!r:.40}", _IMPLEMENTED)
    if codes.dtype != "U8" or len(codes.shape) != 2 or not all(codes.shape):
        raise misfit(codes, "U8 [experts, bytes]")
    experts, elems = codes.shape[0], 2 * codes.shape[1]
    blocks = absmax.shape[1] if len(absmax.shape) == 2 else 0
    size = elems // blocks if blocks else 0
    if absmax.shape != (experts, blocks) or size not in BLOCK_SIZES or size * blocks != elems:
        raise misfit(
            absmax, f"F32 [{experts}, blocks of {', '.join(map(str, BLOCK_SIZES))} elements]"
        )
    hidden = _hidden_size(ledger)
    if not hidden or elems % hidden or hidden % size:
        raise FormatError(
            f"{where(codes)}: stores no shape, and hidden_size {hidden or 'none'} of config.json "
            f"does not divide {elems:,} elements into rows of whole blocks of {size}"
        )
    shape = (elems // hidden, hidden)
    if codes.name.endswith("down_proj"):
        shape = shape[::-1]
    return Tensor(
        name=codes.name,
        shape=(experts, *shape),
        scheme=f"bnb-{kind}",
        encoding="bnb-4bit",
        components=(
            Component("payload", codes, Contiguous(4 * size)),
            Component("absmax", absmax, Contiguous(32)),
        ),
        unit_elems=size,
        params={
            "bits": 4,
            "group_size": size,
            "quant_type": kind,
            "dtype": "float32",
            "absmax_dtype": "F32",
            "rounding": ledger.options.rounding,
        },
    )


def _hidden_size(ledger: Ledger) -> int:
    """The model's, from config.json; 0 where it says none."""
    config = ledger.configs.get("config.json", {})
    for holder in (config.get("text_config"), config.get("llm_config"), config):
        if isinstance(holder, Mapping):
            size = holder.get("hidden_size")
            if type(size) is int and size > 0:
                return size
    return 0
