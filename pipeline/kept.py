"""What an output keeps of its input besides the tensors: the stem of file names, and metadata.

Libraries look for files by name: diffusers for `diffusion_pytorch_model`, PEFT for `adapter_model`,
vLLM and mistral-inference for `consolidated`, each with the index of the same stem. And LoRA tools
need what training scripts put into safetensors' `__metadata__` (`ss_*`, `modelspec.*`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping

from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits, MiB
from anamnesis.pipeline.config_rules import LONG, clean, is_narrow
from anamnesis.readers.model import Model
from anamnesis.readers.schemes import METHODS
from anamnesis.readers.schemes._hints import states
from anamnesis.readers.source import base_name
from anamnesis.readers.strict_json import loads

USUAL_STEM = "model"
# What diffusers, PEFT, vLLM, open_clip and mistral-inference look for, besides `model`.
LOOKED_FOR = frozenset(
    "adapter_model consolidated diffusion_flax_model diffusion_pytorch_model "
    "open_clip_model open_clip_pytorch_model pytorch_lora_weights".split()
)
_SUFFIXES = (".safetensors", ".bin")
# `X-00001-of-00002`, `X-00001`, `X.00`; and the variants of diffusers, which say a dtype.
_NUMBER = re.compile(r"(?:-\d{2,6}(?:-of-\d{2,6})?|\.\d\d)$")
_VARIANT = re.compile(r"[.](?:bf16|fp16|fp32|f16|f32)$")
_QUANTISED = re.compile(
    r"(?:^|[^a-z])(?:gptq|awq|exl[23]|hqq|bnb|nf4|q\d(?:_\w+)?|\d-?bits?|int[2-8]|u?int8|fp[48]|"
    r"float8|w\d+a\d+|(?:mx|nv)fp\d|quant\w*|quanto)(?![a-z])",
    re.IGNORECASE,
)
_KEY_SPEAKS = re.compile(r"(?:.*[._-])?quant(?:ize|ized|ization|isation)?(?:[._-].*)?", re.DOTALL)
_TRAINING = ("modelspec.", "ss_")
_JSON_BYTES = 4 * MiB  # of a value that may hold a configuration


def stem_of(paths: Iterable[str], *, folder: bool = True) -> str:
    """The stem that output files in a folder get, from the paths of the input's files.

    That of safetensors and `.bin` files, when they all have the same and it does not speak of
    quantisation; else what libraries look for if it begins so, or `model`, which is also what
    `pytorch_model` becomes. A file that came by itself, and not as a `folder`, has a name that
    means something to a library, or any name at all: the folder that it becomes is a model's.
    """
    stems = set()
    for path in paths:
        stem, suffix = os.path.splitext(base_name(path))
        stems.add(_stripped(stem) if suffix in _SUFFIXES else USUAL_STEM)
    if len(stems) != 1:
        return USUAL_STEM
    (stem,) = stems
    if not stem.isprintable():  # or no text in UTF-8, which headers and manifests are
        return USUAL_STEM
    if not stem or stem.startswith(".") or stem == "pytorch_model":
        return USUAL_STEM
    if _QUANTISED.search(stem):  # `diffusion_pytorch_model-fp8`, `consolidated.nf4`
        begun = (name for name in LOOKED_FOR if re.match(rf"{name}[^A-Za-z0-9]", stem))
        return max(begun, key=len, default=USUAL_STEM)
    return stem if folder or stem in LOOKED_FOR else USUAL_STEM


def _stripped(stem: str) -> str:
    """Without a variant, and without the number of a shard, which may come before it or behind."""
    return _VARIANT.sub("", _NUMBER.sub("", _VARIANT.sub("", stem)))


def metadata_of(model: Model, dtype: str | None) -> tuple[tuple[str, str], ...]:
    """The `__metadata__` of a safetensors input that its output keeps, in its order.

    Left out is what speaks of quantisation: keys with the word or a narrow format in them, texts
    that are such a format, the descriptions of torchao's tensors, and blocks of configurations that
    are stored as text. Keys of a dtype get the output's. `dtype` is that of the output (bf16, f16,
    f32), None when nothing was decoded.
    """
    if model.container != "safetensors":
        return ()
    texts = {key: str(value) for key, value in model.metadata.items()}
    described = {key for key, text in texts.items() if _object(text).get("_type")}
    if described:
        described.add("tensor_names")
    kept = []
    for key, text in texts.items():
        if key in described or _speaks(key):
            continue
        training = key.startswith(_TRAINING) or key.endswith("dtype")
        if dtype and not training and states(key, text, METHODS):
            continue
        if key.startswith("ss_") or not is_narrow(text):
            kept.append((key, _cleaned(text, dtype)))
        elif key.endswith("dtype"):
            kept.append((key, LONG[dtype or "bf16"]))
    return tuple(kept)


def _speaks(key: str) -> bool:
    """Whether a key is about how weights were quantised; kohya's settings (`ss_…`) never are."""
    if key.startswith("ss_"):
        return _KEY_SPEAKS.fullmatch(key.lower()) is not None
    quantised = _QUANTISED.search(key) or key in ("bits", "desc_act", "group_size")
    return bool(quantised or _KEY_SPEAKS.fullmatch(key.lower()))


def _cleaned(text: str, dtype: str | None) -> str:
    document = _object(text)
    found = clean("config.json", document, dtype)
    if found == document:
        return text
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False)


def _object(text: str) -> Mapping[str, object]:
    """The JSON object that a value is, or an empty one."""
    if not text.startswith("{") or len(text) > _JSON_BYTES:
        return {}
    try:
        document = loads(text.encode(), "metadata", Limits())
    except AnamnesisError:
        return {}
    return document if isinstance(document, dict) else {}


__all__ = ["metadata_of", "stem_of"]
