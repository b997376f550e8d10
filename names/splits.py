"""How text is split before byte-level BPE merges it, by llama.cpp's names of pre-tokenisers.

A row is steps, applied one after another to what the last one left. A step is an expression, each
of whose matches is a piece of its own, or one of these:

- `:bytes`        GPT-2's expression, and bytes as characters
- `:digits`       each digit alone
- `:numbers`      digits that follow one another
- `:punctuation`  punctuation that follows one another

Bytes become characters at the end where no step does it. Expressions are those of the models' own
`tokenizer.json`, as src/llama-vocab.cpp of https://github.com/ggml-org/llama.cpp quotes them beside
what its own engine needs in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BYTES, _DIGITS, _NUMBERS, _PUNCTUATION = ":bytes", ":digits", ":numbers", ":punctuation"

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_REST = rf"{_MARKS}|{_SPACES}"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"


def _cased(ending: str, digits: str, *, but: str = "", marks: str = "/") -> str:
    """Words of small letters after capitals, or of capitals (o200k, Tekken, Kimi)."""
    start, upper, lower = r"[^\r\n\p{L}\p{N}]?", f"[{_UPPER}{but}]", f"[{_LOWER}{but}]"
    return (
        rf"{start}{upper}*{lower}+{ending}|{start}{upper}+{lower}*{ending}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n{marks}]*|{_SPACES}"
    )


_GPT4O = _cased(f"{_CONTRACTIONS}?", r"\p{N}{1,3}")
_CJK = r"[一-龥぀-ゟ゠-ヿ]+"
_ASCII_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_LETTERS = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK3 = rf"{_ASCII_WORD}|{_LETTERS}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
# Letters that have two cases, as DeepSeek's first tokenizer lists them.
_TWO_CASES = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5"
    "\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3"
    "\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115"
    "\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)

SPLITS: dict[str, tuple[str, ...]] = {
    "afmoe": (
        r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))",
        "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+",
        _DEEPSEEK3,
    ),
    "bailingmoe": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "bloom": (_BLOOM,),
    "chameleon": (
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        _DIGITS,
        r"[\p{P}!-/:-@\[-`{-~]",
        _BYTES,
    ),
    "deepseek-coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGITS),
    "deepseek-llm": (
        "[\r\n]",
        rf"\s?[{_TWO_CASES}]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        "[一-龥ࠀ-一가-퟿]+",
        r"\p{N}+",
    ),
    "deepseek-v3": (r"\p{N}{1,3}", _CJK, _DEEPSEEK3),
    "exaone-moe": (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "falcon": (_PUNCTUATION, _BYTES, _NUMBERS, "[0-9][0-9][0-9]"),
    "gpt-2": (_BYTES,),
    "gpt-4o": (_GPT4O,),
    "jais-2": (
        rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_MARKS}|\s*[\r\n]+|\s{{512}}(?!\S)|\s{{256}}(?!\S)"
        r"|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)"
        r"|\s{1,2}(?!\S)|\s{1}",
    ),
    "kimi-k2": (
        r"[\p{Han}]+|" + _cased(f"{_CONTRACTIONS}?", r"\p{N}{1,3}", but=r"&&[^\p{Han}]", marks=""),
    ),
    "laguna": (r"[^\n]+|[\n]+", _QWEN2),
    "llama-bpe": (_LLAMA3,),
    "minicpm5": (r"\p{N}{1,3}", rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+|{_REST}"),
    "qwen2": (_QWEN2,),
    "qwen35": (_QWEN35,),
    "seed-coder": (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",),
    "smollm": (_DIGITS, _BYTES),
    "spark2_5": (
        r"\p{N}{1,3}",
        _CJK,
        rf"{_ASCII_WORD}|{_LETTERS}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+",
        r"\p{N}",
    ),
    "superbpe": (r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
    "tekken": (_cased("", r"\p{N}"),),
    "tiny_aya": (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O),
    "ufakzeka": (rf"{_WORD}|\p{{N}}|{_REST}",),
    "viking": (_BLOOM, r"\p{N}"),
    "youtu": (
        r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
        _cased(f"{_CONTRACTIONS}?", r"\p{N}"),
    ),
}

# Other names of the rows above.
_SAME: dict[str, str] = {
    "bailingmoe": "bailingmoe2 llada-moe",
    "bloom": "gpt3-finnish poro-chat",
    "deepseek-v3": "hunyuan-dense hy_v4 joyai-llm",
    "gpt-2": "a.x-4.0 exaone4 gigachat granite-docling jais jina-de jina-es jina-v1-en "
    "jina-v2-code jina-v2-de jina-v2-es mellum modern-bert mpt olmo phi-2 roberta-bpe trillion",
    "gpt-4o": "granite-embed-multi-97m kanana2 llama4 minimax-m2 talkie",
    "llama-bpe": "chatglm-bpe dbrx falcon-h1 falcon3 glm4 glm5 jina-v5-nano lfm2 llama-v3 llama3 "
    "midm-2.0 pixtral smaug-bpe",
    "qwen2": "deepseek-r1-qwen f2llmv2 grok-2 hunyuan kormo megrez solar-open stablelm2",
    "smollm": "codeshell command-r exaone mellum2 minerva-7b refact starcoder",
    "tiny_aya": "cohere2moe",
}
SAME: dict[str, str] = {other: name for name, text in _SAME.items() for other in text.split()}

# Names whose words are looked up whole before they are merged, and whose texts begin with a token.
WHOLE_WORDS = frozenset(
    "falcon-h1 falcon3 glm4 glm5 granite-embed-multi-97m jina-v5-nano lfm2 llama-bpe llama-v3 "
    "llama3 midm-2.0 minicpm5 pixtral tekken youtu".split()
)
BEGINNING = frozenset(
    "chameleon falcon-h1 falcon3 jina-v5-nano lfm2 llama-bpe llama-v3 llama3 midm-2.0 pixtral "
    "tekken".split()
)


def pre_tokenizer(name: str, *, space: bool) -> Any:
    """The pre-tokeniser of `tokenizers` for one of llama.cpp's names; KeyError for others.

    `space` puts one before a text.
    """
    from tokenizers import pre_tokenizers as made

    steps = SPLITS[SAME.get(name, name)]
    found = [_step(step, space) for step in steps]
    if _BYTES not in steps:
        found.append(made.ByteLevel(add_prefix_space=space, use_regex=False))
    return found[0] if len(found) == 1 else made.Sequence(found)


def _step(step: str, space: bool) -> Any:
    from tokenizers import Regex
    from tokenizers import pre_tokenizers as made

    if step == _BYTES:
        return made.ByteLevel(add_prefix_space=space, use_regex=True)
    if step in (_DIGITS, _NUMBERS):
        return made.Digits(individual_digits=step == _DIGITS)
    if step == _PUNCTUATION:
        return made.Punctuation("contiguous")
    return made.Split(Regex(step), "isolated")


def name_of(document: Mapping[str, Any]) -> str | None:
    """llama.cpp's name of the `pre_tokenizer` of a tokenizer.json; None where it has none."""
    parts = document.get("pretokenizers") or [document]
    steps = tuple(filter(None, map(_word, parts)))
    return next((name for name, row in SPLITS.items() if row == steps), None)


def _word(part: Mapping[str, Any]) -> str:
    """The step that a pre-tokeniser is; "" for one that only makes bytes characters."""
    kind = part.get("type")
    if kind == "ByteLevel":
        return _BYTES if part.get("use_regex", True) else ""
    if kind == "Digits":
        return _DIGITS if part.get("individual_digits") else _NUMBERS
    if kind == "Punctuation" and part.get("behavior") == "Contiguous":
        return _PUNCTUATION
    pattern = part.get("pattern")
    if kind == "Split" and part.get("behavior") == "Isolated" and isinstance(pattern, Mapping):
        return str(pattern.get("Regex", kind))
    return str(kind)
