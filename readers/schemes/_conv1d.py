"""Layers that were quantised as `Linear`'s matrices, of models whose class keeps `Conv1D`'s.

| | a layer's matrix |
|---|---|
| transformers' `Conv1D` (GPT-2 and the like) | `[inputs, outputs]` |
| what bitsandbytes, GPTQ and others store of it | `[outputs, inputs]`, as of `nn.Linear` |

The class takes them transposed, and a square one, such as `attn.c_proj`, it takes either way. They
are found here, and transposed in `names.open`. Source: transformers 5.23.0
integrations/bitsandbytes.py (`Bnb4bitQuantize`, `Bnb8bitQuantize`), pytorch_utils.py (`Conv1D`).
"""

from __future__ import annotations

from collections.abc import Iterable

from anamnesis.readers.base import Tensor
from anamnesis.readers.schemes._errors import first_of
from anamnesis.readers.schemes.base import Ledger

_MODELS = ("clvp", "decision_transformer", "gpt2", "imagegpt", "openai-gpt")  # `model_type`
_WIDE = ("c_attn", "c_fc")  # more outputs than inputs
_LAYERS = (*_WIDE, "c_proj", "q_attn")
_SIZES = ("n_embd", "hidden_size")


def find_conv1d(ledger: Ledger) -> None:
    """Enter layers that the model's class in transformers keeps transposed.

    Those that were decoded as `nn.Linear`'s get a note.
    """
    config = ledger.configs.get("config.json", {})
    kind = config.get("model_type", "")
    inputs = next((config[key] for key in _SIZES if type(config.get(key)) is int), 0)
    if kind not in _MODELS or ledger.container.kind == "gguf":
        return
    ledger.conv1d = conv1d_of(str(kind), ledger.tensors.values())
    found = [t for t in ledger.tensors.values() if t.quantised and t.name in ledger.conv1d]
    if inputs and any(_layer(t) in _WIDE and t.shape[0] != t.shape[1] == inputs for t in found):
        ledger.transposed = frozenset(t.name for t in found)
        ledger.note(
            f"{first_of(found)}: stored as [outputs, "
            f"inputs], as its tool decodes it; comes out as [inputs, outputs], as transformers' "
            f"{kind} keeps it (Conv1D)"
        )


def conv1d_of(kind: str, tensors: Iterable[Tensor]) -> frozenset[str]:
    """Names of the matrices that the class of a `model_type` keeps as [inputs, outputs]."""
    if kind not in _MODELS:
        return frozenset()
    return frozenset(tensor.name for tensor in tensors if _layer(tensor) in _LAYERS)


def _layer(tensor: Tensor) -> str:
    """The last part of a layer's name, of a weight that is a matrix; "" for others."""
    layer, _, part = tensor.name.rpartition(".")
    return layer.rpartition(".")[2] if part == "weight" and len(tensor.shape) == 2 else ""
