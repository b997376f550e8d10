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
| the same keys in `generation_config.json`, and in any other small JSON file | anyone |
| the same keys in the `metadata` of an index | anyone |
| the same in the `__metadata__` of safetensors, as text or JSON | Nunchaku, ComfyUI |
| the same beside the state dict in a checkpoint of PyTorch | anyone |

A block without a method's name is known by the keys that only one tool writes; where none is, its
method is "", and still a method that may have touched the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.limits import Limits, MiB
from anamnesis.readers.strict_json import loads

# JSON files beside the tensors that state a method, and which, if they do not say it themselves.
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
# Other names that tools may come up with: they count when they name a method.
_SPEAKS = re.compile(r"(.*[_.-])?(de|re)?quant[a-z]*([_.-].*)?\.json", re.IGNORECASE)
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
# Keys of a model's configuration whose value is a block, or the name of a method.
KEYS = (
    "compression_config",
    "quant_config",
    "quant_method",
    "quantization",
    "quantization_config",
    "quantization_method",
    "quantize",
    "quantize_config",
)
# Others that tools may come up with: what is quantised, the word, and what is said about it. In
# lower case, with nothing between the words.
PARTS = ("base", "language", "llm", "model", "text", "vision", "weight", "weights")
WORDS = ("quant", "quantisation", "quantised", "quantization", "quantize", "quantized")
ABOUT = (
    *("algo", "algorithm", "args", "cfg", "config", "configuration", "details", "format", "info"),
    *("kind", "kwargs", "meta", "metadata", "method", "mode", "name", "options", "parameters"),
    *("params", "recipe", "scheme", "settings", "spec", "strategy", "type"),
)
_SPELLING = re.compile(f"({'|'.join(PARTS)})?({'|'.join(WORDS)})({'|'.join(ABOUT)})?")
ENDINGS = ("_quant_config", "_quantization_config")  # of a part of the model: text_, vision_, …
_QUANTIZER = "quantizer"  # audio codecs have one too, and it quantises no weights
OTHER_BYTES = MiB  # of a file that is not known for stating a method, at most
_METADATA_KEYS = (*KEYS, "config")
_COMFY = "_quantization_metadata"
_NAMES = ("quant_method", "method", "qformat_weight")
# Other keys of a block whose text may be a method, where no key tells it better: in lower case,
# with nothing between the words. The vague ones may mean something else in a file of their own.
_MORE_NAMES = re.compile(
    f"(?:{'|'.join(WORDS)}|q)?(?:algo|algorithm|method|scheme)|(?:{'|'.join(WORDS)})type|quantizer"
)
_VAGUE_NAMES = re.compile(
    f"(?:{'|'.join(WORDS)}|quantizer|method)?(?:approach|format|kind|library|name|technique|tool|type)"
)
# What the latter say of any method, of none, or of a container; and of signals (audio codecs).
_VAGUE = re.compile(
    "affine|asym(?:metric)?|block(?:wise)?|channel(?:wise)?|default|dynamic|float(?:ing)?|group(?:wise)?|"
    "int(?:eger)?s?|linear|per-.*|ptq|qat|static|sym(?:metric)?|tensor(?:wise)?|uniform|weights?(?:-only)?|"
    ".*-quantized|gem[mv].*|gptq-v[12]|huggingface|llm-?compressor|marlin|optimum.*|pth?|safetensors|transformers|"
    "fsq|lfq|r?vq|residual-.*|vector-.*"
)
# A number format, which says that something is quantised and not by which method.
NARROW = re.compile(
    r"(?:torch\.)?(?:"
    r"(?:fp|float|f)[468](?![0-9]).*|(?:mx|nv)(?:fp|int)[0-9].*|nf4.*|e[2-5]m[0-3].*|"
    r"u?int[1-8](?![0-9]).*|[iu][248]|w[0-9]+a[0-9]+.*|q[0-9]+(?:_.*)?|ue8m0"
    r")",
    re.IGNORECASE,
)
_NUMBERS = re.compile(
    r"[1-8][-_ ]?bits?|(static|dynamic)(_.*)?|(a?sym)(metric)?|true|yes|1", re.IGNORECASE
)
_DEPTH = 32  # as deep as JSON is read
_METADATA_BYTES = 16 * MiB
_MODELSLIM = re.compile(r"w8a(8|16)(_dynamic|_mix)?", re.IGNORECASE)  # `quantize: w8a8_dynamic`
_NOT_STATED = frozenset(
    "0 bf16 bfloat16 dense f16 f32 false float16 float32 fp16 fp32 full n/a no none null "
    "original unquantized".split()
) | {""}

# Key -> the method of a block that has it and names none.
_TELLING: dict[str, str] = {
    "activation_scheme": "fp8",
    "bnb_4bit_quant_type": "bitsandbytes",
    "config_groups": "compressed-tensors",
    "linear_class": "bitnet",
    "load_in_4bit": "bitsandbytes",
    "load_in_8bit": "bitsandbytes",
    "model_quant_type": "modelslim",
    "q_group_size": "awq",
    "quant_algo": "modelopt",
    "w_bit": "awq",
    "wbits": "squeezellm",
    "weight_block_size": "fp8",
}
# Other spellings of a method, in lower case with dashes.
_ALIASES: dict[str, str] = {
    "ascend": "modelslim",
    "auto-awq": "awq",
    "auto-gptq": "gptq",
    "autoawq": "awq",
    "autogptq": "gptq",
    "autoround": "auto-round",
    "bitsandbytes-4bit": "bitsandbytes",
    "bitsandbytes-8bit": "bitsandbytes",
    "bnb": "bitsandbytes",
    "bnb.fp4": "bitsandbytes",
    "bnb.fp4-dq": "bitsandbytes",
    "bnb.int8": "bitsandbytes",
    "bnb.nf4": "bitsandbytes",
    "bnb.nf4-dq": "bitsandbytes",
    "four-over-six": "fouroversix",
    "fp8-e4m3": "fp8",
    "fp8-e5m2": "fp8",
    "gptqmodel": "gptq",
    "inc": "auto-round",
    "modelopt-fp4": "modelopt",
    "modelopt-fp8": "modelopt",
    "modelopt-mixed": "modelopt",
    "modelopt-mxfp8": "modelopt",
    "msmodelslim": "modelslim",
    "nunchaku": "svdquant",
    "optimum-quanto": "quanto",
    "quip#": "quip",
    "quip-sharp": "quip",
    "quipsharp": "quip",
}


@dataclass(frozen=True, slots=True)
class Stated:
    """A method that a configuration states; `where` names the file and the path of the key."""

    method: str  # lower case with dashes; "" for a block that names none
    where: str
    named: str = ""  # as it is written
    block: Mapping[str, Any] = field(default_factory=dict)

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
        elif name.endswith(".json"):  # recipes in YAML tell what a run did, to be taken as words
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
    return name.endswith(".json") and _VOCABULARIES.fullmatch(name) is None


def _among_others(name: str, config: Mapping[str, Any]) -> Iterator[Stated]:
    """What a file says that is not known for stating a method."""
    for one in _walk(config, f"{name}: ", 0):
        block = one.block or one.where.endswith("quant_method")
        if one.method and (block or is_settings(name)):
            yield one


def canonical(name: str) -> str:
    """A method's name in the one spelling that the tables here use."""
    text = name.strip().lower().replace("_", "-").rpartition("/")[2]
    return _ALIASES.get(text, text)


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


def says_nothing(text: str) -> bool:
    """Whether the text that a key of a method has says that there is none."""
    return canonical(text[:200]) in _NOT_STATED


def is_key(key: str, value: object) -> bool:
    """Whether a key states a method, in any of its spellings."""
    text = _squeezed(key.rpartition(".")[2])
    if text == _QUANTIZER:
        return isinstance(value, Mapping) and any(k in value for k in ("quant_method", *_TELLING))
    whole = _squeezed(key).replace(".", "")  # quantization.method
    return any(_SPELLING.fullmatch(one) for one in (text, whole)) or key.endswith(ENDINGS)


def _sidecar(name: str, config: Mapping[str, Any]) -> Iterator[Stated]:
    inner = next((config[key] for key in KEYS if isinstance(config.get(key), Mapping)), config)
    default = FILES.get(name, "")
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
        method = "modelslim" if _MODELSLIM.fullmatch(value) else canonical(value[:200])
        if method in _NOT_STATED:
            return None
        if key not in KEYS and _is_format(value):
            return Stated("", where, value[:80])
        return Stated(method, where, value[:80])
    if not isinstance(value, Mapping) or not value:
        return None
    spelt = {_squeezed(name): name for name in value if isinstance(name, str)}
    for usual in _NAMES:
        name = usual if usual in value else spelt.get(_squeezed(usual), usual)
        text = value.get(name)
        if text is not None and not isinstance(text, str):
            text = repr(text)[:80]
        if text and canonical(text) not in _NOT_STATED:
            return Stated(canonical(text[:200]), f"{where}.{name}", text[:80], value)
    method = next((_TELLING[k] for k in _TELLING if value.get(k)), "")
    for name in value if not method else ():
        text = value[name] if isinstance(name, str) else None
        if isinstance(text, str) and _tells(name, text, whole_file=key.endswith(".json")):
            return Stated(canonical(text[:200]), f"{where}.{name}", text[:80], value)
    if not method and key == "compression_config":
        method = "compressed-tensors"
    if not method and key == "quantization" and ("bits" in value or "group_size" in value):
        method = "mlx"
    return Stated(method, where, method, value)


def _tells(name: str, text: str, *, whole_file: bool) -> bool:
    """Whether a key of a block without a method's name has one all the same."""
    key, said = _squeezed(name), canonical(text[:200])
    if said in _NOT_STATED or _is_format(text):
        return False
    vague = not whole_file and _VAGUE_NAMES.fullmatch(key) and not _VAGUE.fullmatch(said)
    return bool(vague or _MORE_NAMES.fullmatch(key))


def _squeezed(key: str) -> str:
    """A key in lower case, with nothing between the words."""
    return key.lower().replace("_", "").replace("-", "")


def _is_format(text: str) -> bool:
    """Whether a text says how wide numbers are, or of which kind, and no method."""
    return any(one.fullmatch(text[:200]) for one in (NARROW, _NUMBERS))


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
            value = {key: None}  # of no meaning to anyone, and still a statement
    if stating:
        yield from _blocks(key, value, where)
    else:
        yield from _walk(value, f"{where}: ", 0)


def texts(value: object, depth: int = 0) -> Iterator[str]:
    """Every text that is a value in a block, at any depth; no names of modules in lists."""
    for one in value.values() if isinstance(value, Mapping) else ():
        if isinstance(one, str):
            yield one[:200]
        elif isinstance(one, Mapping) and depth < _DEPTH:
            yield from texts(one, depth + 1)
