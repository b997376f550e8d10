"""What a GGUF's own key/values state beside the types of its tensors: a method, or a rotation.

The types say how the blocks are read, so a method that is known states nothing more: AWQ's,
AutoRound's and GPTQ's weights in ggml's blocks are weights. But a fork may have put other numbers
into them under the same types, and said so in a key that llama.cpp does not read. Ordinary are:

| key | written by |
|---|---|
| `general.quantization_version`, `general.file_type` | llama.cpp (no text, or no such word) |
| `general.quantized_by`, `*.quantized_by`, `*.quantized_at`, … | llama.cpp and others, of people |
| `quantize.imatrix.*` | llama-quantize: the files it weighed errors by |
| `tokenizer.*` | llama.cpp |

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and gguf-py's constants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from anamnesis.readers.schemes._stated import Stated, stated
from anamnesis.readers.schemes._stated_words import canonical, is_format, is_key, says_nothing

_ORDINARY = re.compile(r"(tokenizer|quantize\.imatrix|split|imatrix)\..*|.*_(at|by|on|version)")
_MEANING = re.compile(
    r"permut|shuffl|swizzl|transpos|column_?major|smooth_?quant|"
    r"(weights?|quant\w*)_?(scale_?)?(multiplier|offset|order|layout|inverse|smooth|codebook|lut)"
)
_LONGEST = 200  # letters of a name; a longer text is prose
# Types of ggml and mixtures of them, in the spellings of those who publish such files.
_TYPES = re.compile(
    "(?:.*-)?(?:(?:iq|q|tq)[1-8].*|i2-s|tl[12]|ggml.*|gguf.*|llama.*|imatrix.*|[ik]-?quants?|mostly.*|"
    "ptq|qat|unsloth.*|post-training.*)"
)


def stated_in_gguf(metadata: Mapping[str, Any]) -> Iterator[Stated]:
    """What may be a method by its key and is no type of ggml, and what documents in JSON state."""
    for key, value in metadata.items():
        if not isinstance(value, str) or _ORDINARY.fullmatch(key):
            continue
        if value[:1] == "{":
            yield from (one for one in stated({}, {key: value}) if one.method)
        elif is_key(key, value) and len(value) <= _LONGEST:
            said = canonical(value)
            if not (says_nothing(value) or is_format(value) or _TYPES.fullmatch(said)):
                yield Stated(said, f"metadata {key}", value[:80])


def meanings_in_gguf(metadata: Mapping[str, Any]) -> Iterator[str]:
    """The keys that speak of another order or meaning of weights, which llama.cpp has none of."""
    for key, value in metadata.items():
        if _ORDINARY.fullmatch(key) is None and _MEANING.search(key.lower()) and value:
            yield key


__all__ = ["meanings_in_gguf", "stated_in_gguf"]
