"""`config.json` out of a GGUF's key/values: one row a key, by class of model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.names.config_blocks import USUAL_BIASES
from anamnesis.names.config_changes import key_heads
from anamnesis.names.config_class import ModelClass, decimal, layers_with, set_value, words
from anamnesis.names.config_rows import CLASSES
from anamnesis.names.defaults import where_not_said
from anamnesis.names.family import Family
from anamnesis.names.rope import rope_scaling, unknown_factors
from anamnesis.names.tokenizer_models import usual_id
from anamnesis.names.unsaid import Asked, is_not_causal, unsaid
from anamnesis.names.vision_config import CLASSES as TOWERS
from anamnesis.readers.base import Stored
from anamnesis.readers.gguf_types import KeyValue
from anamnesis.readers.model import Model

Metadata = Mapping[str, Any]
Names = Mapping[str, Stored]

_NONE_IF_ZERO = ("sliding_window",)
_ALWAYS = ("bos", "eos", "pad")
_IDS = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")


def class_of(family: Family, model: Model) -> str:
    """The class that a GGUF was made of, where an architecture of GGUF stands for several."""
    for name, is_other, other in _OTHERS:
        if family.name == name and is_other(model.metadata, model.stored):
            return other
    return family.architectures[0]


def config_of(
    family: Family, values: Mapping[str, KeyValue], model: Model, dtype: str, tower: str = ""
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The configuration of a text model, and remarks on what the file does not say.

    `tower` is the class of the whole where a vision tower lies beside.
    Keys that the file does not have are left to the class's defaults. Raises FormatError where what
    follows from several keys lacks one of them.
    """
    name = class_of(family, model)
    row = CLASSES.get(name)
    config: dict[str, Any] = {"architectures": [name], "torch_dtype": dtype, "dtype": dtype}
    if row is None:
        return config, (f"config.json: {name} is not described; complete it by hand",)
    config |= {"architectures": [row.same_as or name], "model_type": row.model_type}
    keys: set[str] = set()
    stated, values = values, Asked(values, keys)
    prefix = str(_get(values, "general.architecture"))
    for key, source in row.sources.items():
        found = _get(values, f"{prefix}.{source}")
        if found is not None and (found or key not in _NONE_IF_ZERO):
            set_value(config, key, _shortest(found))
    seen = _from_tensors(model, row)
    config |= {k: v for k, v in seen.items() if row.sources.get(k) == _SOURCED.get(k)}
    if config.get("num_key_value_heads") == 0:  # a list of zeros, of files of Granite's hybrids
        key_heads(config, {}, prefix, model)
    config |= where_not_said(config)
    config |= row.constants
    config |= rope_scaling(values, prefix, model, config)
    factors = unknown_factors(model, config, _get(values, f"{prefix}.rope.scaling.type"))
    if is_not_causal(stated, prefix, name):
        config["is_causal"] = False
    words = _get(values, "tokenizer.ggml.tokens") or ()
    for token in _IDS:
        key = _GGUF_IDS.get(token, token)
        found = _get(values, f"tokenizer.ggml.{key}_token_id")
        if found is None:
            found = usual_id(_get(values, "tokenizer.ggml.model"), key, len(words))
        if found is not None or token in _ALWAYS:  # a class's default may be beyond this vocabulary
            config[f"{token}_token_id"] = found
    said = Asked({key: value.value for key, value in stated.items()}, keys)
    for change in row.changes:
        try:
            change(config, said, prefix, model)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise FormatError(
                f"{model.path}: no config.json of {name} can be made of its key/values and "
                f"tensors: {type(error).__name__}: {error}; --names stored needs none"
            ) from error
    return config, (*_remarks(name, row, tower), *factors, *unsaid(stated, keys, prefix, name))


def _ends(name: str) -> Callable[[Metadata, Names], bool]:
    """Whether some tensor's name ends so."""
    return lambda metadata, names: any(n.endswith(name) for n in names)


def _says(key: str, *found: Any) -> Callable[[Metadata, Names], bool]:
    """Whether a key has one of these values, or any that is not nought."""
    return lambda said, names: said.get(key) in found if found else bool(said.get(key))


def _is_solar(said: Metadata, names: Names) -> bool:
    """SOLAR Open, by its vocabulary; by what its layers lack where that is another's."""
    words = said.get("tokenizer.ggml.pre")
    if words in ("solar-open", "glm4", "chatglm-bpe"):
        return bool(words == "solar-open")
    return not any(n.endswith((".attn_q.bias", ".attn_q_norm.weight")) for n in names)


# A family, what its first class does not have, and the class that does.
_OTHERS: tuple[tuple[str, Callable[[Metadata, Names], bool], str], ...] = (
    ("deepseek2", _ends("exp_probs_b.bias"), "DeepseekV3ForCausalLM"),
    ("glm4moe", _is_solar, "SolarOpenForCausalLM"),
    ("mamba", _says("mamba.ssm.dt_b_c_rms"), "FalconMambaForCausalLM"),
    ("mistral3", _says("mistral3.attention.temperature_scale", None), "MistralForCausalLM"),
    ("olmo2", _says("olmo2.attention.sliding_window"), "Olmo3ForCausalLM"),
    ("roberta", _says("tokenizer.ggml.model", "t5"), "XLMRobertaModel"),
    ("roberta-labels", _says("tokenizer.ggml.model", "t5"), "XLMRobertaForSequenceClassification"),
    ("t5", _ends("enc.blk.1.attn_rel_b.weight"), "UMT5ForConditionalGeneration"),
)

# Keys that tensors tell better than key/values, where a class has them from these.
_SOURCED = {"intermediate_size": "feed_forward_length", "num_hidden_layers": "block_count"}


def _remarks(name: str, row: ModelClass, tower: str) -> Iterator[str]:
    """What a reader of the folder has to know of its class."""
    if row.same_as and name in TOWERS:
        if not tower:
            yield f"no vision tower lies beside the file: config.json is of {row.same_as} alone"
    elif row.same_as and name.endswith("ForConditionalGeneration"):
        yield f"config.json is of {row.same_as}, which computes what the text model of {name} does"
    elif row.same_as:
        yield f"config.json: transformers has no {name}; {row.same_as} computes the same"
    if row.remote:
        yield f"config.json: transformers has no {name}; it needs the model's own code beside it"
    if row.lacks:
        yield f"config.json: a GGUF does not say {row.lacks}"
    if row.missing:
        yield f"{name}: a GGUF does not have {row.missing}; transformers fills in random numbers"


_GGUF_IDS = {"unk": "unknown", "pad": "padding", "sep": "seperator"}  # as they are spelled there


def _from_tensors(model: Model, row: ModelClass) -> dict[str, Any]:
    stored = model.stored
    found: dict[str, Any] = {"tie_word_embeddings": "output.weight" not in stored}
    embeddings = stored.get("token_embd.weight")
    if embeddings is not None and embeddings.shape:
        found["vocab_size"] = embeddings.shape[0]
    down = {s.shape[-1] for n, s in stored.items() if n.endswith(".ffn_down.weight") and s.shape}
    if len(down) == 1:
        found["intermediate_size"] = down.pop()
    further = layers_with(model, "nextn.eh_proj.weight")
    layers = [int(n.split(".")[1]) for n in stored if n.startswith("blk.")]
    layers = [layer for layer in layers if layer not in further]
    if layers:  # without those that only predict further tokens
        found["num_hidden_layers"] = max(layers) + 1
        for key, text in row.kinds.items():
            found[key] = words(model, range(max(layers) + 1), text)
    for key, text in (USUAL_BIASES | dict(row.biases)).items():
        there = any(n.endswith(tuple(text.split())) for n in stored)
        if there or key in row.biases:
            found[key] = there
    return found


def _get(values: Mapping[str, KeyValue], key: str) -> Any:
    found = values.get(key)
    return None if found is None else found.value


def _shortest(value: Any) -> Any:
    """A float32 as the shortest decimal that means it; one number where all layers have it."""
    if isinstance(value, list):
        numbers = {v for v in value if v} or set(value)
        if len(numbers) == 1 and all(isinstance(v, (int, float)) for v in value):
            return _shortest(next(iter(numbers)))
        return [_shortest(v) for v in value]
    return decimal(value)
