"""Layers that were quantised turned: `Linear`'s matrices of models whose class keeps `Conv1D`'s.

| | a layer's matrix |
|---|---|
| transformers' `Conv1D` (GPT-2 and the like) | `[inputs, outputs]` |
| what bitsandbytes, GPTQ and others store of it | `[outputs, inputs]`, as of `nn.Linear` |

They come out as they are stored, since that is what their own tools decode to. The class takes them
turned, and a square one, such as `attn.c_proj`, it takes either way. Source: transformers 5.23.0
integrations/bitsandbytes.py (`Bnb4bitQuantize`, `Bnb8bitQuantize`), pytorch_utils.py (`Conv1D`).
"""

from __future__ import annotations

from anamnesis.readers.base import Tensor
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes.base import Ledger
from anamnesis.words import and_more

_MODELS = ("clvp", "decision_transformer", "gpt2", "imagegpt", "openai-gpt")  # `model_type`
_WIDE = ("c_attn", "c_fc")  # more outputs than inputs
_LAYERS = (*_WIDE, "c_proj", "q_attn")
_SIZES = ("n_embd", "hidden_size")


def note_conv1d(ledger: Ledger) -> None:
    """Add a note on decoded layers that the model's class in transformers keeps turned."""
    config = ledger.configs.get("config.json", {})
    kind = config.get("model_type")
    inputs = next((config[key] for key in _SIZES if type(config.get(key)) is int), 0)
    if kind not in _MODELS or not inputs or ledger.container.kind == "gguf":
        return
    found = [t for t in ledger.tensors.values() if t.quantised and _layer(t) in _LAYERS]
    if any(_layer(t) in _WIDE and t.shape[0] != t.shape[1] == inputs for t in found):
        first = found[0]
        ledger.note(
            f"{where(first.components[0].stored)}{and_more(len(found))}: decoded as [outputs, "
            f"inputs], as its tool has it; transformers' {kind} keeps [inputs, outputs] (Conv1D): "
            "transpose it before that class loads it"
        )


def _layer(tensor: Tensor) -> str:
    """The last part of a layer's name, of a weight that is a matrix; "" for others."""
    layer, _, part = tensor.name.rpartition(".")
    return layer.rpartition(".")[2] if part == "weight" and len(tensor.shape) == 2 else ""
