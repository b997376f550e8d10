"""The vision tower of a Hugging Face folder as an `mmproj` file: names, types and key/values.

What is said, and of what, is as llama.cpp's converter has it under `--mmproj` (`MmprojModel` of
conversion/base.py in https://github.com/ggml-org/llama.cpp).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.names.arrange import Link, arrange
from anamnesis.names.derived import row_of, without_rows
from anamnesis.names.finder import Finder, by_numbers
from anamnesis.names.gguf_config import values_of
from anamnesis.names.keys import sources_of
from anamnesis.names.settings import Settings, class_name, text_block
from anamnesis.names.sources import DERIVED, Derived
from anamnesis.names.tower import Tower
from anamnesis.names.tower_rows import TOWERS
from anamnesis.readers.base import Dropped, Tensor
from anamnesis.readers.gguf_types import STRING, KeyValue
from anamnesis.readers.model import Model

_FEWER = (
    "clip.audio.",
    "clip.has_audio",
    "clip.use_",
    "clip.vision.is_deepstack",
    "clip.vision.preproc_m",
    "clip.vision.projector.",
    "clip.vision.spatial",
)
_LAYER = re.compile(r".*\b(?:vision|visual|vit)\w*\..*\b(?:blocks|layers?)\.\d+\..*")
_PATCHES = ("v.patch_embd.weight", "mm.patch_merger.weight")


@dataclass(frozen=True, slots=True)
class MmprojView:
    """A tower under llama.cpp's names, its key/values, and the row that made them."""

    model: Model
    values: dict[str, KeyValue]
    tower: Tower


def mmproj_view(
    model: Model, config: Mapping[str, Any], token_id: Callable[[str], int | None]
) -> MmprojView:
    """The tensors of an `mmproj` file, out of a folder whose `config.json` is `config`.

    `token_id` says the id of a token by its text, None where the tokenizer does not have it.
    Raises UnsupportedError for a class that has no tower here, or a layer that has no row, and
    FormatError where the configuration does not say what llama.cpp needs, or shapes contradict it.
    """
    name = class_name(config)
    tower = _tower(name, config, model)
    settings = settings_of(config)
    values = {
        "general.architecture": KeyValue(STRING, "clip"),
        "general.type": KeyValue(STRING, "mmproj"),
    }
    values |= values_of(sources_of(tower.keys), settings, model.path, derived=_DERIVED)
    for key, source in sources_of(tower.keys).items():
        if key not in values and not key.startswith(_FEWER):
            raise FormatError(f"{model.path}: its configuration has no {source} for {key}")
    metadata = {key: value.value for key, value in values.items()}
    outputs = settings.get("vision.deepstack_visual_indexes") or ()
    finder = Finder(tower.rows, tower.path, tower.head)
    tensors = {t.name: t for t in model.tensors if finder.knows(t.name)}
    for tensor in tower.zero_rows.keys() & tensors.keys():
        try:
            tensors[tensor] = without_rows(tensors[tensor], tower.zero_rows[tensor])
        except ValueError as error:
            raise FormatError(f"{model.path}: {error}") from error
    links: list[Link] = []
    for tensor in tensors:
        links += finder.links(tensor, metadata, tower.facts_prefix, outputs)
    links.sort(key=by_numbers)
    rest = [t for t in model.tensors if t.name not in tensors]
    unknown = next((t.name for t in rest if _LAYER.fullmatch(t.name)), None)
    if unknown is not None:
        raise UnsupportedError(
            f"{model.path}: tensor {unknown!r:.200} is not in the table of {name}'s tower"
        )
    made, used, notes = _token_rows(tower, rest, token_id)
    rest = [t for t in rest if t.name not in used]
    dropped = tuple(Dropped(t.components[0].stored, "part of the text model") for t in rest)
    viewed = replace(
        model,
        tensors=(*arrange(links, tensors, "to-gguf"), *made),
        dropped=(*model.dropped, *dropped),
        notes=(*model.notes, *_notes(rest), *notes),
    )
    return MmprojView(viewed, values, tower)


def _token_rows(
    tower: Tower, rest: list[Tensor], token_id: Callable[[str], int | None]
) -> tuple[list[Tensor], set[str], list[str]]:
    """The embeddings of tokens that the tower has too, the names they are of, and remarks."""
    embeddings = [t for t in rest if t.name.endswith("embed_tokens.weight")]
    made: list[Tensor] = []
    notes = []
    for name, token in tower.token_rows.items():
        row = token_id(token)
        if embeddings and row is not None and row < embeddings[0].shape[0]:
            made.append(row_of(embeddings[0], row, name))
        else:
            what = (
                "the folder has no embedding of the token"
                if row is not None
                else "no tokenizer has"
            )
            notes.append(
                f"{name} is left out: {what} {token}; llama.cpp does not load a tower without"
            )
    return made, {embeddings[0].name} if made else set(), notes


def settings_of(config: Mapping[str, Any]) -> Settings:
    """What rows of towers are about: the blocks `audio`, `model`, `text`, `vision`, `processor`."""
    processor: dict[str, Any] = {}
    for file, block in (
        ("preprocessor_config", "media_proc_cfg"),
        ("processor_config", "image_processor"),
    ):
        found = config.get(file) or {}
        inner = found.get(block)
        processor |= {**found, **(inner if isinstance(inner, Mapping) else {})}
    blocks = {
        "audio": config.get("audio_config") or {},
        "model": config,
        "text": {**config, **text_block(config)},
        "vision": config.get("vision_config") or {},
        "processor": processor,
    }
    return Settings(blocks)


def tower_dtype(tower: Tower, tensor: Tensor, outtype: str) -> str:
    """The dtype of a tensor in a file of `outtype`."""
    if tensor.name == tower.half:
        return "F16"
    if len(tensor.shape) < 2 or any(fnmatchcase(tensor.name, name) for name in tower.single):
        return "F32"
    if tensor.name.startswith((*_PATCHES, *tower.patches)):
        return "F16" if outtype == "f16" else "F32"
    return outtype.upper() if tensor.name.endswith(".weight") else "F32"


def _tower(name: str, config: Mapping[str, Any], model: Model) -> Tower:
    """The tower of a class; of several, the one that has rows for the most tensors."""
    towers = [t for t in TOWERS if name in t.classes and config.get("vision_config")]
    if towers:
        return max(towers, key=lambda tower: _known(tower, model)) if towers[1:] else towers[0]
    known = ", ".join(dict.fromkeys(n for tower in TOWERS for n in tower.classes))
    raise UnsupportedError(
        f"{model.path}: {name or 'its class'!r:.100} has no vision tower that is in the table of "
        f"names; known are those of {known}"
    )


def _known(tower: Tower, model: Model) -> int:
    finder = Finder(tower.rows, tower.path, tower.head)
    return sum(finder.knows(tensor.name) for tensor in model.tensors)


def _notes(rest: list[Tensor]) -> Iterator[str]:
    others = [t.name for t in rest if "vision" in t.name or "visual" in t.name]
    if others:
        more = f" and {len(others) - 1} more are" if len(others) > 1 else " is"
        yield f"{others[0]}{more} left out: llama.cpp has no place for it in the tower"


def _true_if(settings: Settings, arguments: str) -> bool | None:
    path, _, text = arguments.partition(",")
    return True if settings.get(path) == text else None


def _inverse(settings: Settings, path: str) -> int | None:
    ratio = settings.number(path)
    return int(1.0 / ratio) if ratio else None


def _unless_zero(settings: Settings, path: str) -> int | None:
    return settings.whole(path) or None


def _root(settings: Settings, path: str) -> int | None:
    """The side of a square of so many pixels."""
    return math.isqrt(settings.whole(path)) or None


def _of_audio(settings: Settings, arguments: str) -> Any:
    """A setting, or else what is usual, of a model that has a tower for sounds."""
    path, _, usual = arguments.partition(",")
    found = settings.get(path) if path else None
    if not settings.get("audio.hidden_size"):
        return None
    return json.loads(usual) if found is None and usual else found


def _inner_of_embedded(settings: Settings, _: str) -> Any:
    """Qwen2-VL's configuration calls the feed-forward's width `hidden_size`."""
    embedded = settings.get("vision.embed_dim") is not None
    return settings.get("vision.hidden_size" if embedded else "vision.intermediate_size")


def _positions_side(settings: Settings, _: str) -> int:
    """The side of an image that has as many patches as there are positions (Qwen3-VL)."""
    positions = settings.number("vision.num_position_embeddings") or 2304
    return int(positions**0.5 * (settings.number("vision.patch_size") or 16))


def _deepstack_layers(settings: Settings, _: str) -> list[bool] | None:
    """Which layers have an output of their own."""
    count = int(settings.number("vision.num_hidden_layers", "vision.depth"))
    chosen = settings.get("vision.deepstack_visual_indexes") or ()
    return [layer in chosen for layer in range(count)] or None


def _pooled_side(settings: Settings, _: str) -> int | None:
    """How many patches a side become one token; None for Gemma 3's usual four."""
    tokens = settings.number("processor.image_seq_length") or 256
    patches = settings.number("vision.image_size") // settings.number("vision.patch_size")
    side = int(patches // math.isqrt(int(tokens)))
    return side if side > 0 and side != 4 else None


_DERIVED: dict[str, Derived] = {
    **DERIVED,
    "deepstack-layers": _deepstack_layers,
    "inner-of-embedded": _inner_of_embedded,
    "inverse": _inverse,
    "of-audio": _of_audio,
    "pooled-side": _pooled_side,
    "positions-side": _positions_side,
    "root": _root,
    "true-if": _true_if,
    "unless-zero": _unless_zero,
}
