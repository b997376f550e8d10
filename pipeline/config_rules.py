"""What the files beside a model say of quantisation, and what becomes of it: one table.

A recovered model whose configuration still speaks of quantisation is loaded wrongly, or not at
all (huggingface/transformers#34847, ml-explore/mlx-lm#223, vllm-project/vllm-ascend#453). A row
says of which files it speaks, by a shell pattern; of which keys in them, at any depth (none: of the
whole file); what is done; and why. The first row that fits counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import cache
from typing import Any, Literal

from anamnesis.readers.schemes import METHODS
from anamnesis.readers.schemes._hints import are_grouped, hint, names_others, states
from anamnesis.readers.schemes._stated_words import ENDINGS, KEYS, NARROW, is_key

_CONFIGS = "*.json"  # that hold settings, or state a method all the same
_SETTINGS = "*config*.json|params.json"
_MAIN = "config.json|params.json"


@dataclass(frozen=True, slots=True)
class Rule:
    """A row. `files` and `keys` are shell patterns with `|` between them; `keys` may be empty.

    `leave` keeps the file out of the output, `remove` takes the key out of it, `dtype` writes the
    output's number format as its value, in the spelling that it had. With `narrow`, a value that
    names no narrow number format is none of the row's business; nor is true or false. With
    `spellings`, every key is meant under which a method is looked for; with `words`, and if
    something was decoded, every one that states a method in words that no tool is known for. What
    is no JSON cannot be written again without its comments, and goes as a whole.
    """

    files: str
    keys: str
    action: Literal["leave", "remove", "dtype"]
    why: str
    narrow: bool = False
    spellings: bool = False
    words: bool = False


RULES = (
    Rule("quantize_config.json", "", "leave", "GPTQ: loaders take it for packed weights"),
    Rule("quant_config.json", "", "leave", "AWQ: loaders take it for packed weights"),
    Rule("hf_quant_config.json", "", "leave", "ModelOpt: vLLM and TensorRT-LLM read it first"),
    Rule("quant_model_description*.json", "", "leave", "ModelSlim: vllm-ascend looks for it"),
    Rule("quanto_qmap.json|quantization_map.json", "", "leave", "Quanto: which layers are codes"),
    Rule("quantization_config.json", "", "leave", "AutoRound, EXL3, SDNQ: how weights are stored"),
    Rule("jang_config.json", "", "leave", "JANG: widths of the packed weights"),
    Rule("recipe.yaml", "", "leave", "LLM Compressor: how it was quantised"),
    Rule("*.yaml|*.yml", "…", "leave", "YAML that states a method, in any words", words=True),
    Rule("measurement.json|job_new.json", "", "leave", "EXL2: how it was quantised"),
    Rule("_anamnesis.json|*.anamnesis.json", "", "leave", "a manifest of other weights"),
    Rule(_CONFIGS, "|".join((*KEYS, *(f"*{ending}" for ending in ENDINGS))), "remove",
         "the method, in any spelling of the key", spellings=True),
    Rule(_CONFIGS, "sparsity_config|quantization_bit|q_group_size|w_bit", "remove", "older tools"),
    Rule(_CONFIGS, "is_quantized|quantized|pre_quantized|use_fp8", "remove", "no weight is"),
    Rule(_CONFIGS, "kv_cache_quant_algo|kv_cache_scheme", "remove", "its scales are dropped"),
    Rule(_CONFIGS, "load_in_4bit|load_in_8bit|_load_in_4bit|_load_in_8bit|bnb_4bit_*", "remove",
         "bitsandbytes would quantise again"),
    Rule(_MAIN, "scale_fmt|weight_block_size|activation_scheme", "remove", "FP8 of DeepSeek"),
    # Not removed: what is missing counts as fp4 for DeepSeek V4 (vllm-project/vllm#42970).
    Rule(_MAIN, "*dtype|*precision", "dtype", "the number format of some weights", narrow=True),
    Rule("config.json", "torch_dtype|dtype", "dtype", "the number format of the weights"),
    Rule(_MAIN, "…", "remove", "the method, in any words (`use_int8`, `bits_per_weight`, …)",
         words=True),
)  # fmt: skip
# A file that no row knows by name: notes and tables of quantisation tools, and no code.
_SPEAKS = re.compile(
    r"(?:.*[_.-])?(?:de|re)?quant(?:o|s|ize|ized|ization|isation)?(?:[_.-].*)?"
    r"\.(?:json|ya?ml|csv|txt|log)",
    re.IGNORECASE,
)
LONG = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
SHORT = {"bf16": "bf16", "f16": "fp16", "f32": "fp32"}


def left_out(name: str) -> str | None:
    """Why the file of that name is no part of a recovered model; None when it may be."""
    for rule in RULES:
        if not rule.keys and _fits(name, rule.files):
            return rule.why
    return "its name speaks of quantisation" if _SPEAKS.fullmatch(name) else None


def table() -> str:
    """The rows as Markdown, for docs/outputs.md."""
    lines = ["| files | keys | are | because |", "|---|---|---|---|"]
    done = {"leave": "left out", "remove": "removed", "dtype": "set to the output's"}
    for rule in RULES:
        narrow = ", if it names a narrow format" if rule.narrow else ""
        what = f"{done[rule.action]}{narrow}"
        lines.append(f"| {_code(rule.files)} | {_code(rule.keys)} | {what} | {rule.why} |")
    return "\n".join(lines)


def _code(patterns: str) -> str:
    return ", ".join(f"`{pattern}`" for pattern in patterns.split("|") if pattern)


def is_config(name: str) -> bool:
    """Whether a file of that name holds settings; rows speak of keys in it."""
    return _fits(name, _SETTINGS)


def stating(name: str, document: Mapping[str, Any]) -> str:
    """What a YAML file states of quantisation, and where; "" for nothing.

    By the words that count when a model is read. It goes along as it is or not at all: its comments
    and templates would be lost.
    """
    return hint({name: document}, {}, METHODS)


def clean(name: str, document: Any, dtype: str | None) -> Any:
    """What is in the JSON file `name`, for weights of `dtype` (bf16, f16, f32).

    Without a `dtype` nothing was decoded, and only narrow formats are overwritten, by bf16.
    """
    rules = [rule for rule in RULES if rule.keys and _fits(name, rule.files)]
    rules = [rule for rule in rules if dtype or not rule.words]
    return _cleaned(document, rules, dtype)


def _cleaned(value: Any, rules: list[Rule], dtype: str | None) -> Any:
    if isinstance(value, list):
        return [_cleaned(item, rules, dtype) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {}
    grouped = are_grouped(value)
    for key, inner in value.items():
        said = (r for r in rules if _speaks_of(r, key, inner, grouped=grouped))
        rule = next(said, None)
        if rule is None:
            # A class in `auto_map` may be called BitNet, and a label of `id2label` quant-ph.
            named = isinstance(inner, (Mapping, list)) and names_others(key)
            below = [one for one in rules if not one.words] if named else rules
            kept[key] = _cleaned(inner, below, dtype)
        elif rule.action == "dtype":
            name = dtype if dtype or not is_narrow(inner) else "bf16"
            kept[key] = inner if name is None else _spelt(key, inner, name)
    return kept


def _speaks_of(rule: Rule, key: str, value: Any, *, grouped: bool) -> bool:
    if rule.words:
        return states(key, value, METHODS, grouped=grouped)
    if not _fits(key, rule.keys) and not (rule.spellings and is_key(key, value)):
        return False
    if rule.action == "dtype":
        return isinstance(value, str) and (not rule.narrow or is_narrow(value))
    return not isinstance(value, bool) or key.endswith(("bit", "quantized", "fp8"))


def is_narrow(value: str) -> bool:
    """Whether a value names a number format of 8 bits or fewer, or a quantised one."""
    return NARROW.fullmatch(value) is not None


def _spelt(key: str, old: str, dtype: str) -> str:
    """`dtype` in the spelling of the old value: bf16 for fp8, bfloat16 for float8_e4m3fn.

    torch's own keys take torch's names alone.
    """
    if key in ("torch_dtype", "dtype"):
        return LONG[dtype]
    return LONG[dtype] if "float" in old.lower() or "int" in old.lower() else SHORT[dtype]


def _fits(name: str, patterns: str) -> bool:
    return _expression(patterns).match(name) is not None


@cache
def _expression(patterns: str) -> re.Pattern[str]:
    """All patterns at once: a configuration may have a hundred thousand keys, as labels do."""
    return re.compile("|".join(map(translate, patterns.split("|"))))


__all__ = [
    "LONG",
    "RULES",
    "SHORT",
    "Rule",
    "clean",
    "is_config",
    "is_narrow",
    "left_out",
    "stating",
    "table",
]
