"""Statements of quantisation in words that no tool is known for, wherever they stand.

`_stated` knows where tools name their method. Here every word counts of every key and text: in the
JSON files beside the weights, in safetensors' metadata, and in the names of these files.

| what | counts | examples |
|---|---|---|
| a text or a file's name with a speaking word | always | `precision: int4`, `awq_config.json` |
| a key with a speaking word | unless its value says no | `use_int8: true`, `quant_methods: […]` |
| a key of bits, with 1 to 8 in numbers or as text | unless of signals | `nbits: "4"`, `wBits: 4` |
| a key that is `compression` or the like | with a text or block | `compression: {method: …}` |

Speaking words are the names of the known methods, number formats of 8 bits or fewer, and `quant…`.
What is about activations, caches, labels, optimisers, or was left alone does not count, nor does a
listing of tensors by dtype and shape, nor do quantisers and bits of codecs and autoencoders: of
whatever has to do with signals or codebooks.

That is too little to conclude that every number of the model was touched. So floats stay what they
are, unless they have the shape of codes; and a matrix of integers for which nothing else accounts
is no dense weight, and is refused with the statement.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import PurePath
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.limits import Limits, MiB
from anamnesis.readers.schemes._stated_words import NARROW, says_nothing
from anamnesis.readers.strict_json import loads

_DEPTH = 32  # as deep as JSON is read
_LONGEST = 200  # letters of a text; a longer one is prose
_DOCUMENT = MiB  # of JSON in metadata, at most
# Methods whose names mean other things as well, or whose models are of floats, too.
_DENSE_TOO = frozenset(("gemma", "gguf", "higgs", "jang", "metal", "mlx"))
_FORMATS = (
    r"(?:fp|float)-?[468](?:-?e[0-9]m[0-9][a-z]*)?|u?e[2-8]m[0-3](?:fn|fnuz)?|nf4|"
    r"(?:mx|nv)-?(?:fp|int)-?[0-9]|u?int-?[1-8]|w[1-8]a[0-9]+|q[2-8](?:-(?:[01]|k)(?:-[sml])?)?|"
    r"(?:[1-8]|low|one|two|three|four|six|eight)-?bits?"
)
_QUANT = (
    r"(?<!vector-)(?:re|pre|pre-)?quant(?!il|it|um|izers?(?![a-z])|-conv)[a-z]*|"
    r"binarized?|bits-and-bytes|bnb|ptq|qat|ternary"
)
# Words of a key that turn what it says into something else, or are about other numbers.
_ELSEWHERE = re.compile(
    r"(?<![a-z])(?:acts?|activations?|audio|byte|cache|colou?r|converted|de-?quant[a-z]*|excluded?|"
    r"ignored?|image|inputs?|kv|labels?|levels|not|optim(?:izers?)?|original|outputs?|pixel|samples?|"
    r"skip|un-?quant[a-z]*)(?![a-z])"
)
_BITS = re.compile(r"(?:.*-)?(?:[nw]-?|num-?|q(?:uant)?-?)?bits?(?:-?(?:width|per-weight))?")
_BARE_BITS = re.compile(r"(?:n-?|num-?)?bits?")
_GROUPS = re.compile(r"(?:q-)?group-?size")
# Bits of weights, and not of patches, hashes or times, which a configuration may need.
_WEIGHT_BITS = re.compile(
    r"(?:(?:attention|attn|average|avg|base|dense|down|embed(?:ding)?s?|experts?|gate|head|kernels?|"
    r"layers?|linears?|lm|load|in|max|mean|min|mlp|model|moe|params?|proj|q|qkv|quant|router|target|"
    r"up|weights?|wq?)-)*(?:[nw]-?|num-?|q(?:uant)?-?)?bits?(?:-?width|-per-(?:param|weight))?"
)
_SIGNALS = re.compile(r"(?<![a-z])(?:audio|code(?:book|c)s?|image|mel|sample|vae|video|vision|vq)")
_NAMING = re.compile(
    r"(?:.*-)?(?:name|path|dir|model-type|architectures?|auto-map|class|datasets?|tags?|language|"
    r"license|version)"
)
_PRECISION = re.compile(r"(?:weights?-)?(?:precision|word-?length)")
_BLOCKS = re.compile(r"(?:weights?-)?(?:compress(?:ed|ion)|pack(?:ed|ing))(?:-(?:format|method))?")
# What a tensor looks like, as listings of a file's tensors have it: `int8[3, 64, 32]`.
_TENSOR = re.compile(r"[A-Za-z][A-Za-z0-9_.]* ?[\[(][0-9, x]*[\])]")
_JOINT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def hint(
    configs: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, Any],
    methods: Collection[str],
    files: Collection[str] = (),
) -> str:
    """Where such a statement is, and what it says; "" for none.

    `configs` are by file name, `metadata` is safetensors', `methods` are the known ones, and
    `files` are the paths of the weights.
    """
    return next(_speech(frozenset(methods)).of_model(configs, metadata, files), "")


def states(key: str, value: object, methods: frozenset[str], *, grouped: bool = False) -> bool:
    """Whether a key of a configuration is a statement by itself, whatever stands around it.

    Names of models, architectures and files are none, nor is prose, nor bits of what are no
    weights, nor flags with `quant` in them: some autoencoders have parts that are called so. Bits
    of what is not said are one beside the size of groups (`grouped`, see `are_grouped`), and so is
    that.
    """
    words = _words(key)
    if grouped and (_BARE_BITS.fullmatch(words) or _GROUPS.fullmatch(words)):
        return isinstance(value, (int, float, str))
    speech = _speech(methods)
    bits = _BITS.fullmatch(words) and not _WEIGHT_BITS.fullmatch(words)
    others = bits and not speech.names(words)
    named = _is_elsewhere(words) or _BARE_BITS.fullmatch(words) or others
    flag = isinstance(value, bool) and "quant" in words
    prose = isinstance(value, str) and " " in value.strip()
    return not named and not flag and not prose and speech.states(words, value)


def are_grouped(keys: Collection[str]) -> bool:
    """Whether a block's keys have bits and the size of groups."""
    words = [_words(key) for key in keys] if len(keys) <= _LONGEST else []
    return all(any(map(one.fullmatch, words)) for one in (_BARE_BITS, _GROUPS))


def names_others(key: str) -> bool:
    """Whether nothing under a key of a configuration is about how its weights are stored.

    It holds names of classes, files and labels, or is about caches, activations and the like. The
    configuration of a part, such as `audio_config`, is about weights as well.
    """
    words = _words(key)
    return _is_elsewhere(words) and not words.endswith("config")


def _is_elsewhere(words: str) -> bool:
    return bool(_ELSEWHERE.search(words) or _NAMING.fullmatch(words))


@cache
def _speech(methods: frozenset[str]) -> _Speech:
    return _Speech(methods)


class _Speech:
    """What speaks of quantisation, given the names of methods."""

    def __init__(self, methods: Collection[str]) -> None:
        known = sorted(frozenset(methods) - _DENSE_TOO, key=len, reverse=True)
        names = "|".join(re.escape(name).replace(r"\-", "-?") for name in known)
        suffix = r"(?:-?(?:v?[0-9]+|int[0-9]|model))?"
        self._words = re.compile(
            rf"(?<![a-z0-9])(?:(?:{names}){suffix}|{_FORMATS}|{_QUANT})(?![a-z0-9])"
        )

    def of_model(
        self,
        configs: Mapping[str, Mapping[str, Any]],
        metadata: Mapping[str, Any],
        files: Collection[str],
    ) -> Iterator[str]:
        """Each statement of a model's files."""
        for name, config in configs.items():
            if self._speaks(PurePath(name).stem):
                yield name
            yield from self._walk(config, f"{name}: ", 0)
        for key, value in metadata.items():
            yield from self._walk({key: _document(value)}, "metadata ", 0)
        for name in dict.fromkeys(PurePath(path).name for path in files):
            if self._speaks(PurePath(name).stem):
                yield f"the name of {name}"

    def _walk(self, value: object, path: str, depth: int) -> Iterator[str]:
        if depth > _DEPTH or not isinstance(value, (Mapping, list)) or _is_tensor(value):
            return
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        named = [(key, _words(str(key)), inner) for key, inner in pairs]
        signals = any(_SIGNALS.search(words) for _, words, _ in named) or _SIGNALS.search(path)
        for key, words, inner in named:
            if _ELSEWHERE.search(words) or (signals and _BARE_BITS.fullmatch(words)):
                continue
            if self.states(words, inner):
                plain = isinstance(inner, (dict, list))
                yield f"{path}{key}" if plain else f"{path}{key} ({inner!s:.80})"
            yield from self._walk(inner, f"{path}{key}.", depth + 1)

    def names(self, words: str) -> bool:
        """Whether a speaking word is among them."""
        return self._words.search(words) is not None

    def states(self, key: str, value: object) -> bool:
        """Whether a key and its value are a statement."""
        if isinstance(value, str) and self._speaks(value):
            return True
        numbered = _BITS.fullmatch(key) or _PRECISION.fullmatch(key)
        if numbered and any(_few(one) for one in _scalars(value, 0)):
            return True
        if _BLOCKS.fullmatch(key) and not isinstance(value, (int, float)) and _says(value):
            return True
        return self.names(key) and _says(value)

    def _speaks(self, text: str) -> bool:
        if len(text) > _LONGEST or _TENSOR.fullmatch(text):
            return False
        return NARROW.fullmatch(text) is not None or self.names(_words(text))


def _is_tensor(value: Mapping[str, Any] | list[Any]) -> bool:
    """Whether a block says what a tensor looks like, as a header of safetensors does."""
    return isinstance(value, Mapping) and "dtype" in value and isinstance(value.get("shape"), list)


def _words(text: str) -> str:
    """A name's words in lower case, with dashes between them: `wBits` and `w_bits` are `w-bits`."""
    return _JOINT.sub("-", text[:_LONGEST]).strip("-").lower()


def _says(value: object) -> bool:
    """Whether a value says more than no: a method, a format, a width, or yes."""
    return any(
        one
        if isinstance(one, bool)
        else _few(one) or (isinstance(one, str) and not says_nothing(one))
        for one in _scalars(value, 0)
    )


def _few(value: object) -> bool:
    """Whether a number, or one as text, is of bits that codes have."""
    if isinstance(value, str) and len(value) < 8:
        try:
            value = float(value)
        except ValueError:
            return False
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value <= 8


def _scalars(value: object, depth: int) -> Iterator[object]:
    if isinstance(value, (Mapping, list)):
        for one in value.values() if isinstance(value, Mapping) else value:
            if depth < _DEPTH:
                yield from _scalars(one, depth + 1)
    else:
        yield value


def _document(value: object) -> object:
    """What JSON of metadata holds; the text itself where it is none."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") and len(value) <= _DOCUMENT:
        try:
            return loads(value.encode(), "metadata", Limits())
        except FormatError:
            return value
    return value
