"""Which files of a folder are the model: one table, which docs/inputs.md shows.

What loaders do, put in one order: transformers (`_get_resolved_checkpoint_files`) takes
`model.safetensors`, then its index, then the same of `pytorch_model.bin`; diffusers takes an index
before a single file, and files without a variant (`.fp16`) unless one is asked for; mlx-lm takes
`model*.safetensors`; all prefer safetensors. Nothing here opens a weight file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from anamnesis.errors import FormatError, UnsupportedError, UsageError
from anamnesis.readers.impostors import by_name, foreign
from anamnesis.readers.index import Index
from anamnesis.words import some

# Of downloads that did not end: huggingface_hub, aria2, browsers, wget-likes.
UNFINISHED = frozenset(".aria2 .crdownload .download .incomplete .part .partial .tmp".split())
INDEX_NAME = re.compile(r"(?s).+\.(?:safetensors|bin)\.index(?:\.\w+)?\.json")


@dataclass(frozen=True, slots=True)
class Kind:
    """A row: files of one ending. The first row of which a file is there decides.

    `single` is the whole model when it is there and no index names it; then an index decides, those
    of the stems in `indexed` first, then the only other; then the first pattern that fits a name.
    """

    ending: str
    patterns: tuple[str, ...]
    single: str = ""
    indexed: tuple[str, ...] = ()


KINDS: tuple[Kind, ...] = (
    Kind(
        ".safetensors",
        (
            "model*.safetensors",
            "diffusion_pytorch_model*.safetensors",
            "*model*.safetensors",
            "*.safetensors",
        ),
        "model.safetensors",
        ("model", "diffusion_pytorch_model"),
    ),
    Kind(".gguf", ("*.gguf",)),
    Kind(
        ".bin",
        ("pytorch_model*.bin", "diffusion_pytorch_model*.bin", "*model*.bin"),
        "pytorch_model.bin",
        ("pytorch_model", "diffusion_pytorch_model"),
    ),
    Kind(".pth", ("*.pth",)),
    Kind(".pt", ("*.pt",)),
    Kind(".ckpt", ("*.ckpt",)),
    Kind(".th", ("*.th",)),
    Kind(".npz", ("*.npz",)),
    Kind(".arrow", ("*.arrow",)),
    Kind(".onnx", ("*.onnx",)),
)
# Written by trainers (transformers, accelerate, DeepSpeed, Lightning, torchtune) beside a model.
TRAINING = (
    "*optim*.pt",
    "*optim*.pth",
    "*scheduler*.pt",
    "custom_checkpoint_*.pkl",
    "ema_optim*",
    "optim*.bin",
    "optim*.safetensors",
    "random_states*.pkl",
    "rng_state*",
    "sampler*.bin",
    "scaler*.pt",
    "scheduler*.bin",
    "trainer_state*",
    "training_args*",
    "training_state*",
)
# Files beside a GGUF model that belong to it: its vision tower, and what a quantiser measured.
BESIDE_GGUF = ("*mmproj*", "*imatrix*")
# The same weights in another layout, beside those of Hugging Face.
DUPLICATES = ("consolidated*",)
ORIGINAL = "original"  # a folder of them

# What may hold tensors under any name, and is not copied beside the output either.
OTHERS = (".bin", ".h5", ".msgpack", ".npy")

_VARIANT = re.compile(
    r"(.+?)-\d{5}-of-\d{5}\.([A-Za-z]\w*)|(.+?)\.([A-Za-z]\w*)(?:-\d{5}-of-\d{5})?"
)
_PRECISION = re.compile(r"(?i)(?:bf|fp|f|int|q|nf)\d+\w*|(?:non_|no_)?ema(?:only)?")
_STEMS = frozenset(("adapter_model", "diffusion_pytorch_model", "model", "pytorch_model"))
_PART = re.compile(r"(.+)-\d{5}-of-\d{5}")

ReadIndex = Callable[[str], Index]


@dataclass(frozen=True, slots=True)
class Choice:
    """Names of the files of a model, or its index; `notes` say what else is there and left out.

    `variant`: they are all of one variant, such as `fp16`, and the plain files are not there.
    """

    names: tuple[str, ...]
    index: Index | None = None
    notes: tuple[str, ...] = ()
    variant: bool = False


def is_training(name: str) -> bool:
    """Whether a file of that name is the state of a training run."""
    return _fits(name, TRAINING)


def choose(
    path: str, names: Sequence[str], read: ReadIndex, hint: Callable[[], str] = str
) -> Choice:
    """What of the `names` in the folder at `path` is the model; `read` parses an index.

    Raises FormatError when there is none, UnsupportedError for those of a container that is known
    and not read, UsageError when several are equally good, and what
    `read` raises.
    """
    notes: list[str] = []
    training = {name for name in names if is_training(name)}
    rest = [name for name in names if name not in training]
    for kind, chosen in _candidates(path, rest, read, notes):
        named = set(chosen.index.shards if chosen.index else chosen.names)
        left = [n for n in rest if n.endswith(kind.ending) and n not in named]
        others = [n for n in rest if _weights(n) and not n.endswith(kind.ending)]
        by_index = chosen.index is not None
        duplicates = [n for n in left + others if _fits(n, DUPLICATES)]
        duplicates += [f"{n}/" for n in rest if n == ORIGINAL]
        left = [n for n in left if n not in duplicates]
        others = [n for n in others if n not in duplicates]
        _note(notes, path, training, "the state of a training run")
        _note(notes, path, duplicates, "the same model in another layout")
        towers = [n for n in left if kind.ending == ".gguf" and "mmproj" in n.lower()]
        unchosen = [n for n in left if n not in towers]
        _note(notes, path, towers, "of a vision tower, which --to hf (--names hf) takes along")
        _note(notes, path, unchosen, "the index does not name it" if by_index else "not chosen")
        _note(notes, path, others, f"{kind.ending} files come first")
        strange = [n for n in rest if n.endswith(OTHERS) and n not in {*named, *left, *others}]
        _note(notes, path, strange, "not called as weights are")
        return Choice(chosen.names, chosen.index, tuple(notes))
    if not names:
        raise FormatError(f"{path}: no weights found, the folder is empty{hint()}")
    looked = ", ".join(kind.patterns[-1] for kind in KINDS)  # the widest
    _note(notes, path, training, "the state of a training run")
    also = "".join(f"; {note.removeprefix(f'{path}: ')}" for note in notes)
    other = foreign(path, rest)
    if other:
        raise UnsupportedError(f"{path}: no weights found that are read, and {other}{also}")
    raise FormatError(f"{path}: no weights found (looked for {looked}){also}{hint()}")


def _candidates(
    path: str, names: Sequence[str], read: ReadIndex, notes: list[str]
) -> Iterator[tuple[Kind, Choice]]:
    """What each row gives, the best first: a variant comes after the plain files of the next row.

    transformers and diffusers take no variant unasked, but fall back from safetensors to .bin.
    """
    variant: tuple[Kind, Choice] | None = None
    for kind in KINDS:
        if variant is not None and kind.ending != ".bin":
            continue
        chosen = _of_kind(path, kind, names, read, notes)
        if chosen is None:
            continue
        if kind.ending == ".safetensors" and chosen.variant:
            variant = (kind, chosen)
        elif variant is None or (not chosen.variant and _same_model(variant[1], chosen)):
            yield kind, chosen
    if variant is not None:
        yield variant


def _same_model(variant: Choice, plain: Choice) -> bool:
    """Whether .bin files are called as the plain ones of a safetensors variant would be."""
    split = _variant(variant.names[0].removesuffix(".safetensors"))
    stem = split[0] if split else ""
    stem = "pytorch_model" if stem == "model" else stem
    first = os.path.basename(plain.index.path) if plain.index else plain.names[0]
    return first.startswith((f"{stem}.", f"{stem}-"))


def _of_kind(
    path: str, kind: Kind, names: Sequence[str], read: ReadIndex, notes: list[str]
) -> Choice | None:
    alone = kind.single in names
    for name in _indexes(path, kind, names):
        try:
            index = read(name)
        except FormatError as error:
            if not alone:
                raise
            notes.append(f"{kind.single} is the model, and its index is not used: {error}")
            continue
        shards = index.shards
        if alone and kind.single not in shards:
            notes.append(f"{path}: {kind.single} is the model, and the index {name} is not used")
        elif not any(_there(shard, names) for shard in shards):
            notes.append(
                f"{path}: the index {name} is not used, since none of its files is there "
                f"({shards[0]!r:.100}, …)"
            )
        else:
            return Choice((), index)
    if alone:
        return Choice((kind.single,))
    for pattern in kind.patterns:
        matches = [n for n in names if fnmatchcase(n, pattern) and not by_name(n)]
        if kind.ending == ".gguf":
            matches = [n for n in matches if not _fits(n.lower(), BESIDE_GGUF)] or matches
        if matches:
            settled = _settle(path, pattern, matches)
            ending = kind.ending
            variant = all(_variant(name.removesuffix(ending)) for name in settled)
            return Choice(tuple(settled), variant=variant)
    return None


def _indexes(path: str, kind: Kind, names: Sequence[str]) -> list[str]:
    """Those to try, in order; UsageError when several are of no known name."""
    ending = f"{kind.ending}.index.json"
    known = [f"{stem}{ending}" for stem in kind.indexed]
    there = [name for name in known if name in names]
    others = [name for name in names if name.endswith(ending) and name not in known]
    if not there and len(others) > 1:
        raise UsageError(f"{path}: holds {len(others)} indexes; name one of them")
    return there or others or _variant_indexes(kind, names)


def _variant_indexes(kind: Kind, names: Sequence[str]) -> list[str]:
    """The index of a variant (`X.safetensors.index.fp16.json`), if it is the only one.

    Plain files of its stem come before it.
    """
    found = []
    for name in names:
        stem, mark, variant = name.partition(f"{kind.ending}.index.")
        shard = re.compile(rf"{re.escape(stem)}(-\d{{5}}-of-\d{{5}})?{re.escape(kind.ending)}")
        if mark and variant.endswith(".json") and not any(map(shard.fullmatch, names)):
            found.append(name)
    return found if len(found) == 1 else []


def _there(shard: str, names: Sequence[str]) -> bool:
    """Whether a shard, or the folder it lies in, is there; the names lack hidden ones."""
    first = shard.partition("/")[0]
    return first in names or first.startswith(".")


def _settle(path: str, pattern: str, matches: list[str]) -> list[str]:
    """Of the names that fit a pattern, those that are one model."""
    ending = pattern.rpartition("*")[2]
    single = pattern.replace("*", "")
    if single in matches:  # what a pattern such as model*.safetensors has besides is not loaded
        return [single]
    others = [name for name in matches if not _fits(name, DUPLICATES)]
    stems = {name.removesuffix(ending): name for name in others or matches}
    found = {stem: _variant(stem) for stem in stems}
    plain = {part[1] if (part := _PART.fullmatch(s)) else s for s, v in found.items() if not v}
    variants: dict[str, set[str]] = {}
    for split in filter(None, found.values()):
        variants.setdefault(split[0], set()).add(split[1])
    for base, several in variants.items():
        if base not in plain and len(several) > 1:
            shown = ", ".join(stems[s] for s, v in found.items() if v and v[0] == base)
            raise UsageError(
                f"{path}: holds {len(several)} variants of {base}{ending} and not that itself: "
                f"{shown}; name one of them"
            )
    return sorted(stems[s] for s, split in found.items() if not split or split[0] not in plain)


def _variant(stem: str) -> tuple[str, str] | None:
    """`(plain stem, variant)` of a file such as `model.fp16` or `model.fp16-00001-of-00002`."""
    match = _VARIANT.fullmatch(stem)
    if match is None:
        return None
    base, variant = (match[1], match[2]) if match[1] else (match[3], match[4])
    return (base, variant) if base in _STEMS or _PRECISION.fullmatch(variant) else None


def holds_weights(names: Iterable[str]) -> bool:
    """Whether some of the names are of files that `choose` looks for."""
    return any(_weights(name) and not _fits(name, TRAINING) for name in names)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _weights(name: str) -> bool:
    return any(_fits(name, kind.patterns) for kind in KINDS)


def _note(notes: list[str], path: str, names: Iterable[str], why: str) -> None:
    listed = sorted(names)
    if listed:
        notes.append(f"{path}: left out {some(listed)}: {why}")


__all__ = ["INDEX_NAME", "KINDS", "Choice", "choose", "holds_weights"]
