"""Words that may say by what weights are to be decoded, and that nobody is known to use: noted.

A method's block may have any key beside those that its scheme reads: most are about how a model was
quantised or how it runs. Those that say what packs, decodes or multiplies weights (`kernel`,
`preset`, `pipeline`) may change what its codes mean; so may a model's configuration that says
outside of any block what weights are held in (`weight_format`, `storage: {codec: …}`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from anamnesis.readers.schemes._stated_words import canonical, is_key, is_of_others, is_unknown_word
from anamnesis.readers.schemes.base import Ledger

# Keys, in lower case.
_BY = re.compile(
    r"(?:.*_)?(?:backend|(?:layer|linear)_class|class|compressor|converter|decoder|dialect|engine|"
    r"extension|flavou?r|impl|implementation|kernels?|loader|modifiers?|module|pass(?:es)?|"
    r"pipeline|plugin|policy|preset|profile|recipe|runtime|schema|stages?|status|steps?|strategy|"
    r"target_hardware|unpack|unpack(?:er|ing)|variant)|weights?(?:_transform)?|post|pre"
)
_HELD = re.compile(
    r"(?:weights?|storage|checkpoint|param(?:eter)?s?)_(?:codec|compression|dtype|encoding|format|"
    r"layout|method|packing|scheme)|(?:torch_)?dtype|(?:pack|packing)(?:_format|_mode)?|"
    r"(?:model_|weights?_)?compress(?:ion|or)(?:_(?:format|method|scheme))?|storage|weights|"
    r"linear_class|low_?bit|numerics|q_?(?:cfg|config)"
)
_HOLDING = ("numerics", "storage", "weights")  # a text right there is a place, a file or a set
_NAMED = re.compile(
    r"algorithm|class|codec|encoding|format|id|kind|method|name|scheme|type|weights?"
)
# What runs weights of any layout, and what became of them.
_ORDINARY = re.compile(
    r"(?:auto|exllama|gptq|jang|llm|torch|pytorch|triton|cutlass|cuda|quanto)-?.*|"
    r"(?:jnp|mx|nn|np|numpy|optimum|transformers)\..*|jax\..*|[<>=|]?[fiub][0-9]|complex[0-9]*|tf32|"
    r"v?[0-9.]+|accuracy|basic|calibrated|done|[abh][0-9]+|hf|independent|sequential|sglang|vllm|"
    r"(?:auto)?(?:bit|q)?linear|aten|balanced|calibration|"
    r"compressed|cpu|eager|exclusive|frozen|gpu|high|hpu|initialized|low|machete|medium|metal|mps|"
    r"npu|performance|rocm|tinygemm|tpu|xla|xpu"
)
_WHOLE = ("config.json", "params.json")
_DEPTH = 32  # as deep as JSON is read
_OUTSIDE = 3  # levels of a model's configuration, whose parts say it of themselves


def note_words(ledger: Ledger, methods: Collection[str]) -> None:
    """Add a note on the first such word of each block, and of each model's configuration."""
    if ledger.container.kind == "gguf":
        return  # whose types are followed
    found = [(str(one), _words(one.block, _BY, False, _DEPTH)) for one in ledger.stated]
    for name in _WHOLE:
        found.append((name, _words(ledger.configs.get(name), _HELD, False, _OUTSIDE)))
    found.append(("metadata", _words(ledger.container.metadata, _HELD, False, 0)))
    for said, words in found:
        for path, text in words:
            if canonical(text[:200]) not in methods and _is_unknown(text):
                ledger.note(
                    f"{ledger.container.files[0].path}: its {said}: {path:.80}: {text!r:.80} is "
                    "not known here and was not heeded; if weights are stored as it has them, "
                    "what was decoded is not them"
                )
                break


def _is_unknown(text: str) -> bool:
    return is_unknown_word(text) and _ORDINARY.fullmatch(canonical(text[:200])) is None


def _words(
    value: object, keys: re.Pattern[str], inside: bool, deep: int
) -> Iterator[tuple[str, str]]:
    """`(path, text)` of what stands under such keys, or is named `inside` of what does.

    Not in parts that are about something else than weights, nor, outside of a block, in blocks.
    """
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        text = str(key).lower()
        if "." in text or is_of_others(text) or (keys is _HELD and is_key(text, inner)):
            continue
        hit = keys.fullmatch(text) is not None
        for part in inner if isinstance(inner, list) else [inner]:
            if isinstance(part, str):
                says = hit and not (keys is _HELD and text in _HOLDING)
                if says or (inside and _NAMED.fullmatch(text)):
                    yield key, part
            elif deep > 0:
                for path, said in _words(part, keys, hit, deep - 1):
                    yield f"{key}.{path}", said


__all__ = ["note_words"]
