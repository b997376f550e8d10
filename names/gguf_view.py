"""A Hugging Face model under GGUF's names: the tensors and key/values of a file for llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.names.arrange import Link, arrange
from anamnesis.names.derived import without_rows
from anamnesis.names.families import families
from anamnesis.names.family import Family
from anamnesis.names.finder import Finder, by_numbers
from anamnesis.names.gguf_config import architecture_values, keys_of
from anamnesis.names.incomplete import lacking
from anamnesis.names.keys import Keys, described
from anamnesis.names.listed import listed_values
from anamnesis.names.settings import Settings, padding_rows
from anamnesis.names.taken import taken
from anamnesis.names.text_model import text_class
from anamnesis.names.values import SCALED, times
from anamnesis.readers.base import Dropped, Tensor
from anamnesis.readers.gguf_types import KeyValue
from anamnesis.readers.model import Model
from anamnesis.words import did_you_mean, nearest

# What llama.cpp's graphs need in float32 (conversion/base.py, `prepare_tensors`).
_FLOAT = re.compile(
    r"(?:.*_norm|.*\.ffn_gate_inp(?:_shexp)?|position_embd|token_types|.*\.ssm_conv1d|"
    r".*\.shortconv\.conv|.*\.ssm_conv1d_[qkv]|.*\.indexer\.proj|.*\.altup_(?:correct|predict)_coef)\.weight"
)
# Buffers; heads of encoders that llama.cpp has no graph for; what predicts further tokens.
_SKIPPED = re.compile(
    r".*(?:\.attention\.masked_bias|\.attn\.bias|\.rotary_emb\.inv_freq|position_ids)|"
    r"(?:\w+\.)?pooler\.dense\..*|cls\.(?:predictions|seq_relationship)\..*|decoder\.(?:weight|bias)|vocab_\w+\..*|mtp\..*|"
    r".*\.mlp\.experts\.bias"
)
_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.")
_SECTIONS = "mrope"  # no scaling: the parts of a head are told by their sizes
_NEXT = "num_nextn_predict_layers"
_MOST_LAYERS = 1 << 16  # lists of a GGUF have a number for each
_ALIKE = 0.8  # as difflib counts
_BARE = ("", "")  # paths of a model that was saved without its head
# Towers of multimodal models, which are files of their own.
_TOWERS = re.compile(
    r"(?:vit\..*|mlp1\.\d|model\.(?:aligner|encoder(?!\.weight$)|generation_\w+|merger|vqmodel)\..*|"
    r".*(?:visual\.|vision_|audio_|embed_(?:vision|audio)\.|mlp_AR\.|projector\.|patch_embed|connector\.|multi_modal|image_newline)).*"
)


@dataclass(frozen=True, slots=True)
class GgufView:
    """A model under GGUF's names, its architecture's key/values, and the row that made them."""

    model: Model
    values: dict[str, KeyValue]
    keys: Keys

    def beside(self, words: Mapping[str, KeyValue]) -> dict[str, KeyValue]:
        """The key/values with those of a vocabulary."""
        own = self.values.items()
        return {**words, **{k: v for k, v in own if k not in words or k not in self.keys.usual}}

    def beyond(self, words: Mapping[str, KeyValue]) -> tuple[str, ...]:
        """A remark on tokens of a vocabulary that have no row of the embeddings."""
        count = len(words["tokenizer.ggml.tokens"].value)
        if not 0 < self.tokens < count:
            return ()
        return (
            f"the tokenizer has {count} tokens, and the embeddings have {self.tokens} rows: "
            "llama.cpp does not load such a file; take the last tokens out, or add rows",
        )

    @property
    def tokens(self) -> int:
        """How many the embeddings have; 0 where there are none."""
        rows = (t.shape[0] for t in self.model.tensors if t.name == "token_embd.weight")
        return next(rows, 0)


def gguf_view(model: Model, config: Mapping[str, Any]) -> GgufView:
    """The tensors of a GGUF, out of a folder whose `config.json` is `config`.

    Raises UnsupportedError for a class, or a tensor, that the table does not have, and FormatError
    where shapes contradict it.
    """
    name, settings = text_class(config, described()), Settings(config)
    if settings.layers > _MOST_LAYERS:
        raise FormatError(
            f"{model.path}: config.json: found {settings.layers} layers; allowed: {_MOST_LAYERS}"
        )
    keys = described().get(name)
    why = {t.name: _left_out(t.name, settings, keys) for t in model.tensors}
    tensors = {t.name: t for t in model.tensors if not why[t.name]}
    family = _family(model, name, tensors)
    tensors |= _after_padding(family, tensors, config, model.path)
    keys = keys_of(name, model.path)
    architecture = family.gguf[settings.get(keys.second) is not None if keys.second else 0]
    values = architecture_values(keys, architecture, config, model.path)
    metadata = {key: value.value for key, value in values.items()}
    finder = _finder(family, tensors)
    links: list[Link] = []
    for tensor in tensors.values():
        found = list(finder.links(tensor.name, metadata))
        if not found:
            raise UnsupportedError(
                f"{model.path}: tensor {tensor.name!r:.200} is not in the table of {name!r}; "
                "--names stored writes tensors under the names they have"
            )
        links += [_scaled(link, settings, model.path) for link in found]
    links.sort(key=by_numbers)
    if keys.head == "never" or (keys.head == "untied" and config.get("tie_word_embeddings")):
        links = [link for link in links if link.gguf != "output.weight"]
    made, listed = listed_values(arrange(links, tensors, "to-gguf"), family.arrays)
    values |= listed
    left = tuple(
        Dropped(t.components[0].stored, why[t.name]) for t in model.tensors if t.name not in tensors
    )
    viewed = replace(
        model,
        tensors=tuple(made),
        dropped=(*model.dropped, *left),
        notes=(
            *model.notes,
            *_notes(left),
            *_unscaled(settings, metadata, architecture, keys),
            *taken(settings, metadata, architecture, frozenset(t.name for t in made)),
            *lacking([t.name for t in made], metadata, family.some_layers),
        ),
    )
    return GgufView(viewed, values, keys)


def _scaled(link: Link, settings: Settings, path: str) -> Link:
    """The link with the numbers that `config.json` says the tensor is multiplied with."""
    if not link.value.startswith(SCALED):
        return link
    names = link.value.removeprefix(SCALED).split(",")
    factors = [1.0 if (found := settings.get(name)) is None else found for name in names]
    for name, factor in zip(names, factors, strict=True):
        if not isinstance(factor, (int, float)):
            raise FormatError(f"{path}: config.json: {name}: found {factor!r:.60}, no number")
    return replace(link, value=times(factors))


def _after_padding(
    family: Family, tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: str
) -> Iterator[tuple[str, Tensor]]:
    """Tensors without the rows before that of the first position, which follows padding's."""
    rows = padding_rows(config)
    names = {
        template.replace("{m}", path)
        for template in family.zero_rows
        for path, _ in (*family.paths, _BARE)
    }
    for name in sorted(names & tensors.keys()):
        if rows:
            try:
                yield name, without_rows(tensors[name], rows)
            except ValueError as error:
                raise FormatError(f"{path}: config.json: pad_token_id: {error}") from error


def _unscaled(
    settings: Settings, metadata: Mapping[str, Any], architecture: str, keys: Keys
) -> Iterator[str]:
    """A remark on a scaling of rotary embeddings that the file does not say."""
    kind, said = settings.scaling, metadata.get(f"{architecture}.rope.scaling.type")
    stretched = "@alpha-base" in keys.rows and kind in ("dynamic", "xdrope")  # Hunyuan's base
    if kind in ("", _SECTIONS, said, *keys.factors) or stretched:
        return
    if said is None or said == "none":
        yield (
            f"config.json: a GGUF of {architecture!r} has no rope scaling {kind!r}: llama.cpp "
            "computes without it"
        )


def _notes(left: Sequence[Dropped]) -> Iterator[str]:
    """One remark a reason for which tensors are left out."""
    for reason in sorted({d.why for d in left}):
        names = [d.stored.name for d in left if d.why == reason]
        more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
        yield f"{names[0]}{more} left out: {reason}"


def _left_out(name: str, settings: Settings, keys: Keys | None) -> str:
    """Why a tensor is not in the GGUF of a text model; empty where it is."""
    if _SKIPPED.fullmatch(name):
        return "llama.cpp has no use for it"
    layer = _LAYER.match(name)
    beyond = layer is not None and 0 < settings.layers <= int(layer[1])
    if beyond and settings.number(_NEXT) and keys is not None and _NEXT not in keys.rows:
        return "part of a layer that only predicts further tokens"
    return (
        "part of a tower beside the text model (--mmproj writes it)"
        if _TOWERS.fullmatch(name)
        else ""
    )


def kept_dtype(tensor: Tensor, outtype: str, keys: Keys) -> str:
    """The dtype of a tensor in a file of `outtype`: vectors and a few matrices are float32."""
    matrix = len(tensor.shape) > 1 and tensor.name.endswith(".weight")
    if not matrix or (_FLOAT.fullmatch(tensor.name) and not keys.all_matrices):
        return "F32"
    return outtype.upper()


def _class(name: str) -> str:
    return f"{name!r:.100}" if name else "its class, which no architectures in config.json say,"


def _family(model: Model, name: str, tensors: Mapping[str, Tensor]) -> Family:
    """The family of a class; of several, the one that has rows for the most tensors."""
    rows = [f for f in families() if name in f.architectures and f.only != "to-hf"]
    if not rows:
        near = nearest(name, sorted({a for f in families() for a in f.architectures}), _ALIKE)
        raise UnsupportedError(
            f"{model.path}: {_class(name)} is not in the table of names (docs/gguf-and-hf.md)"
            f"{did_you_mean(near, '; ')}; --names stored writes the tensors under the names they "
            "have"
        )
    if len(rows) == 1:
        return rows[0]
    return max(rows, key=lambda f: sum(map(_finder(f, tensors).knows, tensors)))


def _finder(family: Family, tensors: Mapping[str, Tensor]) -> Finder:
    """What finds the names of a family, whose text model is where the tensors' is."""
    for path, head in (*family.paths, _BARE):
        start = family.layers.partition("{i}")[0].replace("{m}", path)
        if any(name.startswith(start) for name in tensors):
            return Finder(family.rows, path, head)
    return Finder(family.rows, *family.paths[0])
