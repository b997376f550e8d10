"""Which quantisation methods a checkpoint's configuration names, wherever a tool put that.

| place | written by |
|---|---|
| `quantization_config`, `compression_config`, at any depth of `config.json` | transformers, vLLM |
| other spellings of these keys, such as `quantizationConfig`, `quant_scheme` | anyone |
| `quantization` of `config.json` and of `params.json` | MLX, Mistral |
| `quantize` of `config.json`, `quant_model_description.json` | ModelSlim |
| `quantize_config.json`, `quant_config.json` | AutoGPTQ, AutoAWQ, SqueezeLLM |
| `hf_quant_config.json` | ModelOpt |
| `quantization_config.json`, `quanto_qmap.json`, `quantization_map.json` | ExLlamaV3, Quanto |
| `jang_config.json` | JANG |
| the same in files of YAML and TOML that are called after quantisation | anyone |
| the same keys in `generation_config.json`, and in any other small file of JSON or YAML | anyone |
| the same keys in the `metadata` of an index | anyone |
| the same in the `__metadata__` of safetensors, as text or JSON | Nunchaku, ComfyUI |
| the same beside the state dict in a checkpoint of PyTorch, and in texts of an NPZ | anyone |
| the same in the properties of an ONNX model, and in a GGUF's own keys (`_stated_gguf`) | anyone |

A block without a method's name is known by the keys that only one tool writes; where none is, its
method is "", and still a method that may have touched the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.limits import Limits, MiB
from anamnesis.readers.literal import parse_literal
from anamnesis.readers.schemes._stated_words import (
    KEYS,
    MODELSLIM,
    NAMES,
    NOT_STATED,
    TELLING,
    canonical,
    is_key,
    is_label,
    is_of_others,
    names_layers_method,
    says_little,
    squeezed,
    tells,
)
from anamnesis.readers.settings_files import is_json
from anamnesis.readers.strict_json import loads

# Files of JSON beside the tensors that state a method, and which, if they do not say it themselves.
FILES: dict[str, str] = {
    "config.json": "",
    "hf_quant_config.json": "modelopt",
    "jang_config.json": "jang",
    "params.json": "",
    "quant_config.json": "awq",
    "quant_model_description.json": "modelslim",
    "quantization_config.json": "",
    "quantization_map.json": "quanto",
    "quantize_config.json": "gptq",
    "quanto_qmap.json": "quanto",
}
_OF_ONNX = ("modes", "per_model_config")  # of transformers.js's quantize_config.json, beside ONNX
# Other names that tools may come up with: they count when they name a method.
_SPEAKS = re.compile(r"(.*[_.-])?(de|re)?quant[a-z]*([_.-].*)?\.(json|toml|ya?ml)", re.IGNORECASE)
INDEX = ".index."  # in the names of those that list shards
# The rest of them is about nothing else; in these a block stands among other settings.
_WHOLE_MODELS = ("config.json", "params.json")
# Any other file of settings counts when it names a method, and what is no file of settings (results
# of evaluations, say) when there is a block around the name. Vocabularies are neither.
_SETTINGS = re.compile(r".*config.*\.json", re.IGNORECASE)
_VOCABULARIES = re.compile(
    r"(tokenizer(?!_config\.json$)|vocab|merges|added_tokens|special_tokens|chat_template).*|.*\.index\.json|"
    r"_?[^/]*anamnesis\.json",
    re.IGNORECASE,
)
# What servers, trainers and evaluations keep of what they ran: no loader reads it.
_RECORDS = re.compile(
    r"(?:.*[_.-])?(?:bench(?:marks?)?|eval(?:uation)?s?|leaderboard|lighteval|metrics|results?|scores?|server|"
    r"serving|train(?:er|ing)?)(?:[_.-].*)?\.(?:json|ya?ml)",
    re.IGNORECASE,
)
OTHER_BYTES = MiB  # of a file that is not known for stating a method, at most
_WITH_KINDS = ("sinq",)  # whose scheme knows the kinds of it that blocks name
_METADATA_KEYS = (*KEYS, "config")
_COMFY = "_quantization_metadata"
_DEPTH = 32  # as deep as JSON is read
_METADATA_BYTES = 16 * MiB


@dataclass(frozen=True, slots=True)
class Stated:
    """A method that a configuration states; `where` names the file and the path of the key."""

    method: str  # lower case with dashes; "" for a block that names none
    where: str
    named: str = ""  # as it is written
    block: Mapping[str, Any] = field(default_factory=dict)
    label: bool = False  # whether its key may hold an author's label as well

    def __str__(self) -> str:
        return f"{self.where} ({self.named})" if self.named else self.where


def stated(
    configs: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, Any]
) -> tuple[Stated, ...]:
    """Every method that `configs` (by file name) and safetensors' `metadata` state."""
    found: list[Stated] = []
    for name in sorted(configs, key=lambda name: (name not in _WHOLE_MODELS, name)):
        if name in _WHOLE_MODELS:
            found += _walk(configs[name], f"{name}: ", 0)
        elif INDEX in name:
            found += _walk(configs[name], f"{name}: metadata.", 0)
        elif speaks(name):
            known = name in FILES
            found += (one for one in _sidecar(name, configs[name]) if known or one.method)
        else:  # recipes in YAML tell what a run did, mostly in words of their own
            found += _among_others(name, configs[name])
    more = [key for key in metadata if key not in _METADATA_KEYS and _may_speak(metadata[key], key)]
    for key in (*_METADATA_KEYS, *more):
        found += _from_text(key, metadata.get(key))
    if isinstance(metadata.get(_COMFY), str):
        found.append(Stated("comfyui", f"metadata {_COMFY}", "ComfyUI"))
    # mlx-lm writes its block twice, once under a key where others name their method.
    named = [one.block for one in found if one.method]
    return tuple(one for one in found if one.method or one.block not in named)


def speaks(name: str) -> bool:
    """Whether a file of that name may state a method, one that FILES does not have included."""
    return name in FILES or _SPEAKS.fullmatch(name) is not None


def is_settings(name: str) -> bool:
    """Whether a file of that name holds settings, among which a method may be."""
    return _SETTINGS.fullmatch(name) is not None and _VOCABULARIES.fullmatch(name) is None


def may_state(name: str) -> bool:
    """Whether a JSON file of that name may state a method, whatever it is about."""
    return is_json(name) and _VOCABULARIES.fullmatch(name) is None


def _among_others(name: str, config: Mapping[str, Any]) -> Iterator[Stated]:
    """What a file says that is not known for stating a method.

    In a record of a run it may be a label as well.
    """
    for one in _walk(config, f"{name}: ", 0):
        word = one.where.endswith("quant_method")
        if one.method and (one.block or word or is_settings(name)):
            record = _RECORDS.fullmatch(name) is not None and not is_settings(name)
            yield replace(one, label=one.label or record)


def _walk(config: object, where: str, depth: int) -> Iterator[Stated]:
    """Blocks at this level, those of KEYS that transformers reads first, then those below."""
    if isinstance(config, list):
        for number, item in enumerate(config if depth < _DEPTH else ()):
            if isinstance(item, (dict, list)):
                yield from _walk(item, f"{where}{number}.", depth + 1)
        return
    if not isinstance(config, Mapping):
        return
    order = sorted(KEYS, key=lambda key: key != "quantization_config")
    more = [key for key in config if key not in KEYS and is_key(key, config[key])]
    for key in (*order, *more):
        if key in config:
            yield from _blocks(key, config[key], where + key)
    for key, value in config.items():
        if isinstance(value, (dict, list)) and key not in (*KEYS, *more) and depth < _DEPTH:
            yield from _walk(value, f"{where}{key}.", depth + 1)


def _sidecar(name: str, config: Mapping[str, Any]) -> Iterator[Stated]:
    inner = next((config[key] for key in KEYS if isinstance(config.get(key), Mapping)), config)
    default = FILES.get(name, "")
    if default == "gptq" and any(key in config for key in _OF_ONNX):
        return
    for one in _blocks(name, inner, name):
        yield one if one.method else Stated(default, name, default, one.block)


def _blocks(key: str, value: object, where: str) -> Iterator[Stated]:
    """What one key says: a block, a list of them, or a block that holds another."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            if not isinstance(item, list):
                yield from _blocks(key, item, f"{where}.{number}")
        return
    one = _block(key, value, where)
    if one is None:
        return
    inner = [name for name in KEYS if isinstance(one.block.get(name), Mapping)]
    named = [
        deeper
        for name in one.block
        if name not in inner
        for deeper in _named(one.block[name], f"{where}.{name}", 0)
    ]
    if one.method or not (inner or named):
        yield one
    for name in inner:
        yield from _blocks(name, one.block[name], f"{where}.{name}")
    yield from named
    if not key.startswith("quant_model_description"):  # whose types are ModelSlim's scheme's
        yield from _further(one, {n: v for n, v in one.block.items() if n not in inner}, where, 0)


def _further(one: Stated, block: Mapping[Any, Any], where: str, depth: int) -> Iterator[Stated]:
    """Methods of single layers in a block, and those that it names beside its own.

    Kinds of its own (SINQ's `method: asinq`) are no others, where its scheme knows them.
    """
    for name, value in block.items():
        path = f"{where}.{name}"
        if isinstance(value, str):
            kind = not depth and one.method in _WITH_KINDS and one.method in canonical(value)
            if (
                path != one.where
                and not kind
                and names_layers_method(str(name), value, in_block=depth > 0)
            ):
                yield Stated(canonical(value[:200]), path, value[:80], block)
            continue
        parts = value if isinstance(value, list) else [value]
        for said in parts:  # `methods: […]`
            singular = isinstance(said, str) and str(name).removesuffix("s")
            if singular and names_layers_method(singular, said, in_block=True):
                yield Stated(canonical(said[:200]), path, said[:80], block)
        if depth < _DEPTH and not is_of_others(str(name)):
            for part in parts:
                if isinstance(part, Mapping) and not isinstance(part.get("quant_method"), str):
                    yield from _further(one, part, path, depth + 1)


def _named(value: object, where: str, depth: int) -> Iterator[Stated]:
    """Blocks inside of a method's block that name one themselves."""
    if isinstance(value, Mapping) and isinstance(value.get("quant_method"), str):
        yield from _blocks("quant_method", value, where)
    elif isinstance(value, (Mapping, list)) and depth < _DEPTH:
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _named(inner, f"{where}.{name}", depth + 1)


def _block(key: str, value: object, where: str) -> Stated | None:
    """What one key says; None where it says that nothing is quantised."""
    if isinstance(value, str):
        method = "modelslim" if MODELSLIM.fullmatch(value) else canonical(value[:200])
        if method in NOT_STATED:
            return None
        if key not in KEYS and says_little(value):
            return Stated("", where, value[:80])
        return Stated(method, where, value[:80])
    if not isinstance(value, Mapping) or not value:
        return None
    spelt = {squeezed(name): name for name in value if isinstance(name, str)}
    for usual in NAMES:
        name = usual if usual in value else spelt.get(squeezed(usual), usual)
        text = value.get(name)
        if text is not None and not isinstance(text, str):
            text = repr(text)[:80]
        if text and canonical(text) not in NOT_STATED:
            return Stated(canonical(text[:200]), f"{where}.{name}", text[:80], value)
    method = next((TELLING[k] for k in TELLING if value.get(k)), "")
    for name in value if not method else ():
        text = value[name] if isinstance(name, str) else None
        if isinstance(text, str) and tells(name, text, whole_file=key.endswith(".json")):
            found = canonical(text[:200])
            return Stated(found, f"{where}.{name}", text[:80], value, is_label(name, text))
    if not method and key == "compression_config":
        method = "compressed-tensors"
    if not method and key == "quantization" and ("bits" in value or "group_size" in value):
        method = "mlx"
    return Stated(method, where, method, value)


def _may_speak(text: object, key: str) -> bool:
    """Whether a value of metadata states a method by its key, or is a document that may."""
    if is_key(key, text):
        return True
    document = isinstance(text, str) and text[:1] == "{" and len(text) <= _METADATA_BYTES
    return document and key != _COMFY and "quant" in str(text).lower()


def _from_text(key: str, text: object) -> Iterator[Stated]:
    """Metadata is text: JSON of a block or of a whole configuration, or a method's name."""
    if not isinstance(text, str):
        return
    where, stating = f"metadata {key}", is_key(key, text)
    if len(text) > _METADATA_BYTES:
        raise FormatError(f"{where}: {len(text):,} characters, allowed {_METADATA_BYTES:,}")
    value: object = text
    if text.lstrip()[:1] == "{":
        try:
            value = loads(text.encode(), where, Limits())
        except FormatError:
            if not stating:
                return
            value = _as_python(text, key)
    if stating:
        yield from _blocks(key, value, where)
    else:
        yield from _walk(value, f"{where}: ", 0)


def _as_python(text: str, key: str) -> object:
    """A block as `str(dict)` writes it; else of no meaning to anyone, and still a statement."""
    try:
        return parse_literal(text)
    except FormatError:
        return {key: None}


def texts(value: object, depth: int = 0) -> Iterator[str]:
    """Every text that is a value in a block, at any depth; no names of modules in lists."""
    for one in value.values() if isinstance(value, Mapping) else ():
        if isinstance(one, str):
            yield one[:200]
        elif isinstance(one, Mapping) and depth < _DEPTH:
            yield from texts(one, depth + 1)
