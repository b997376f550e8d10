"""Words that many messages share: the nearest of what is valid, and how many more there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# What other programs and everyday speech call a word of ours, by its letters and digits alone. A
# word may mean several; those that are allowed at the place count.
_HABITS: Mapping[str, Sequence[str]] = {
    "average": ("mean",),
    "bfloat16": ("bf16",),
    "bitsandbytes": ("bnb-nf4", "bnb-fp4", "bnb-int8"),
    "cluster": ("distributed",),
    "dask": ("distributed",),
    "dequantize": ("remember",),
    "double": ("f32",),
    "float": ("f32",),
    "float16": ("f16",),
    "float32": ("f32",),
    "force": ("overwrite",),
    "format": ("to",),
    "frompretrained": ("open_model",),
    "ggufkv": ("key_values",),
    "half": ("f16",),
    "hffolder": ("hf",),
    "huggingface": ("hf",),
    "include": ("tensors",),
    "int4": ("awq", "gptq", "ct-pack-quantized"),
    "jobs": ("threads",),
    "kv": ("key_values",),
    "llamacpp": ("gguf",),
    "load": ("open_model",),
    "loadfile": ("open_model",),
    "mlx": ("mlx-affine",),
    "name": ("tensor",),
    "no": ("false",),
    "off": ("false",),
    "on": ("true",),
    "output": ("out",),
    "quantize": ("encode", "convert"),
    "read": ("open_model",),
    "safeopen": ("open_model",),
    "shape": ("elements",),
    "size": ("stored_bytes", "elements"),
    "sparsity": ("zeros",),
    "tensors": ("include",),
    "torchdtype": ("dtype",),
    "transformers": ("hf",),
    "type": ("scheme", "dtype"),
    "w4a16": ("ct-pack-quantized",),
    "w8a8": ("ct-int-quantized",),
    "workers": ("threads",),
    "yes": ("true",),
}

# Of a file that ends before what it says it holds.
CUT_SHORT = "the file was cut short, as by a download that did not end"
_MOST = 5  # words that one question has
_LONG = 3  # letters that tell a part of a word
_MOST_CHARS = 60  # of a wrong word, whose comparison takes time with its length


def nearest(given: object, names: Iterable[str], alike: float = 0.6) -> list[str]:
    """The one of `names` that is spelt most like a word that is none of them, or none at all.

    `alike` is as difflib counts: from 0, for any, to 1.
    """
    from difflib import get_close_matches  # noqa: PLC0415

    return get_close_matches(str(given)[:_MOST_CHARS], list(names), 1, alike)


def meant(given: object, allowed: Sequence[str], alike: float = 0.6) -> list[str]:
    """The allowed words that a wrong one may stand for, at most five; none where it is like none.

    Those of the same letters and digits (`q4km` is `Q4_K_M`), or else those that it is a habit for,
    that begin with it, that have it within, or the one that is spelt most alike.
    """
    wanted = bare(str(given)[:_MOST_CHARS])
    letters = [bare(word) for word in allowed]
    pairs = list(zip(allowed, letters, strict=True))
    part = wanted if len(wanted) >= _LONG else " "
    found = (
        [word for word, its in pairs if its == wanted]
        or [word for word in _HABITS.get(wanted, ()) if word in allowed]
        or [word for word, its in pairs if wanted and its.startswith(wanted)]
        or [word for word, its in pairs if part in its]
        or [word for word, its in pairs if its in nearest(wanted, letters, alike)]
    )
    return found[:_MOST]


def bare(word: str) -> str:
    """The letters and digits of a word, of GGUF's types (`gguf-q4-k`) without what all have."""
    letters = "".join(filter(str.isalnum, word.lower()))
    its = letters.removeprefix("gguf")
    return its if any(map(str.isdigit, its)) else letters


def did_you_mean(near: Sequence[str], before: str = "") -> str:
    """The question, after `before`; empty where nothing is near."""
    return f"{before}did you mean {' or '.join(map(repr, near))}?" if near else ""


def extra(name: str) -> str:
    """The command that installs an extra; quoted, for shells that take brackets for a pattern."""
    return f'pip install "anamnesis-arrow[{name}]"'


def and_more(count: int, shown: int = 1, mark: str = "") -> str:
    """What follows the first `shown` of `count` things: `" and 2 more"`, or nothing."""
    return f"{mark} and {count - shown:,} more" if count > shown else ""


def some(names: Sequence[str], shown: int = 5, most: int = 0) -> str:
    """The first `shown` names, of at most `most` letters (0: all of them), and how many more."""
    listed = ", ".join(name[: most or None] for name in names[:shown])
    return listed + and_more(len(names), shown)


__all__ = ["CUT_SHORT", "and_more", "bare", "did_you_mean", "extra", "meant", "nearest", "some"]
