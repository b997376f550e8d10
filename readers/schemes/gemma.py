"""Gemma's own quantisation (`quant_method: gemma`): 2, 4 and 8 bits, layers and embeddings.

| part | stored | what comes out |
|---|---|---|
| `X.weight` | U8 `[out, in / 2]` or `[out, in / 4]`, or I8 `[out, in]` | `X.weight` |
| `X.weight_scale` | F32 `[out, 1]` | |
| `X.embedding_quantized` | the same, a row for each token | `X.weight` |
| `X.embedding_scale` | F32 `[tokens, blocks]` | |
| `X.input_activation_scale`, `X.output_activation_scale` | F32 `[]` | dropped |

Codes of 4 and 2 bits are stored plus 8 and plus 2, the first in the lowest bits; a last byte that
is not full is told by the sizes of the model alone. How many bits a
U8 has is the config's to say: `num_bits`, and `module_quant_configs` for modules that match regular
expressions, of which the one that matches first in the name counts, and of those the first in the
file. Those that could take long are not run (`_patterns.py`): then the columns must be a size that
the model has. Source: https://github.com/huggingface/transformers
integrations/gemma_quant.py (`QuantizedLinear`, `QuantizedEmbedding`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from anamnesis.readers.base import Stored, Tensor
from anamnesis.readers.schemes._errors import misfit, need, unsupported
from anamnesis.readers.schemes._model_sizes import ModelSizes
from anamnesis.readers.schemes._patterns import LONGEST, compiled
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.ct import int8_tensor, packed_tensor

_SCALES = {"weight": "weight_scale", "embedding_quantized": "embedding_scale"}
_ACTIVATIONS = ("input_activation_scale", "output_activation_scale")
_BITS = 4  # where the config has no `num_bits`
_IMPLEMENTED = "2, 4 and 8 bits that the config or the sizes of the model tell"


def resolve(ledger: Ledger) -> None:
    """Claim packed layers and embeddings, and drop the scales of their activations.

    Raises FormatError for parts that are missing or do not fit, UnsupportedError for codes whose
    width nothing tells.
    """
    config = ledger.quantization()
    if ledger.method() != "gemma":
        return
    sizes = set(_sizes(ledger.configs.get("config.json", {})))
    model = ModelSizes(ledger.configs)
    for stored in ledger.free():
        module, _, part = stored.name.rpartition(".")
        if part in _ACTIVATIONS:
            ledger.drop(stored, "activation scale")
        elif part in _SCALES and stored.dtype in ("I8", "U8"):
            scale = _SCALES[part]
            ledger.claim(_tensor(ledger, stored, module, scale, config, sizes, model))


def _tensor(
    ledger: Ledger,
    codes: Stored,
    module: str,
    part: str,
    config: Mapping[str, Any],
    sizes: set[int],
    model: ModelSizes,
) -> Tensor:
    scale = need(ledger, codes, f"{module}.{part}")
    if len(codes.shape) != 2:
        raise misfit(codes, "a matrix")
    rows, packed = codes.shape
    if codes.dtype == "I8":
        tensor = int8_tensor(ledger, codes, scale, None, [])
    else:
        bits = _bits(codes, module, config, sizes)
        name, columns = f"{module}.weight", _columns(module, packed, bits, model)
        tensor = packed_tensor(ledger, name, codes, (rows, columns), scale, bits=bits)
    return replace(tensor, name=f"{module}.weight", scheme=f"gemma-int{tensor.params['bits']}")


def _columns(module: str, packed: int, bits: int, model: ModelSizes) -> int:
    """Those that the codes fill, or the model's own where the last byte is not full."""
    most, reads = packed * 8 // bits, model.reads(module)
    if most in reads.explained:
        return most
    least = most - 8 // bits
    fitting = [size for size in reads.sizes if least < size < most]
    return fitting[0] if len(fitting) == 1 else most


def _bits(codes: Stored, module: str, config: Mapping[str, Any], sizes: set[int]) -> int:
    general, own = config.get("num_bits", _BITS), config.get("module_quant_configs")
    stated, unknown, first = general, False, len(module) + 1
    for pattern, about in own.items() if isinstance(own, Mapping) else ():
        able = compiled(pattern) if len(module) <= LONGEST else None
        match = able.search(module) if able else None
        unknown |= able is None
        if match and match.start() < first:  # all are one expression: the first place decides
            first = match.start()
            stated = about.get("num_bits", general) if isinstance(about, Mapping) else general
    fitting = [bits for bits in (2, 4) if codes.shape[1] * 8 // bits in sizes]
    if unknown and len(fitting) == 1:
        return fitting[0]
    if unknown or stated not in (2, 4):
        raise unsupported(codes, f"Gemma's U8 of {stated!r:.40} bits or others", _IMPLEMENTED)
    return int(stated)


def _sizes(config: Any) -> Iterator[int]:
    """Integers of a config, and the product of heads and their size, at any depth it has."""
    if not isinstance(config, Mapping):
        return
    for value in config.values():
        if type(value) is int:
            yield value
        yield from _sizes(value)
    heads, size = config.get("num_attention_heads"), config.get("head_dim")
    if type(heads) is int and type(size) is int:
        yield heads * size
