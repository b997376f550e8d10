"""What a model folder has beside its weights, out of a GGUF's key/values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from anamnesis.errors import FormatError
from anamnesis.limits import Limits
from anamnesis.names.config import class_of, config_of
from anamnesis.names.processor import PROCESSORS, processor_files
from anamnesis.names.tokenizer import tokenizer_files
from anamnesis.names.view import family_of
from anamnesis.names.vision import tower_of
from anamnesis.names.vision_config import with_tower
from anamnesis.readers.gguf_fields import read_key_values
from anamnesis.readers.gguf_types import KeyValue
from anamnesis.readers.llamafile import open_inside
from anamnesis.readers.model import Model

Dtype = Literal["bf16", "f16", "f32"]

_FILE_TYPES: dict[int, Dtype] = {
    0: "f32",
    1: "f16",
    32: "bf16",
}  # of llama_ftype, those that are not quantised
_DTYPES: dict[str, str] = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}


def usual_dtype(model: Model) -> Dtype:
    """One dtype for a folder: that of most of the file's numbers, BF16 where they are quantised.

    `general.file_type` says it; a file without it is judged by its tensors.
    """
    stated = _FILE_TYPES.get(model.metadata.get("general.file_type", -1))
    if stated:
        return stated
    nbytes: dict[str, int] = {}
    for stored in model.stored.values():
        name = stored.dtype.lower()
        nbytes[name] = nbytes.get(name, 0) + stored.nbytes
    known: list[Dtype] = sorted(("bf16", "f16", "f32"), key=lambda name: -nbytes.get(name, 0))
    quantised = any(count > nbytes.get(known[0], 0) for count in nbytes.values())
    return "bf16" if quantised else known[0]


def _beyond(values: Mapping[str, KeyValue], model: Model) -> Iterator[str]:
    """A remark on tokens that have no row of the embeddings."""
    tokens, rows = values.get("tokenizer.ggml.tokens"), model.stored.get("token_embd.weight")
    count = len(tokens.value) if tokens is not None and isinstance(tokens.value, list) else 0
    if rows is not None and len(rows.shape) > 1 and count > rows.shape[0]:
        yield (
            f"the vocabulary has {count} tokens, and token_embd.weight {rows.shape[0]} rows: the "
            "model cannot take the last ones"
        )


def describe(model: Model, dtype: str, limits: Limits) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The small files of a folder by name, and remarks on what could not be said."""
    with open_inside(model.files[0].path, limits) as file:
        values = read_key_values(file, limits)
    with open_inside(model.files[-1].path, limits) as file:
        last = {key: value.value for key, value in read_key_values(file, limits).items()}
    tower = ""
    beside = last.get("general.architecture") == "clip"
    family = family_of(model, tower=beside)
    if beside:
        stored = {c.stored.name for t in model.tensors for c in t.components}
        tower = tower_of(last, stored, model.files[-1].path).texts[class_of(family, model)]
    config, notes = config_of(family, values, model, _DTYPES[dtype], tower)
    if tower:
        words = values.get("tokenizer.ggml.tokens")
        shapes = {t.name: t.shape for t in model.tensors}
        with _tower_s_sizes(model.files[-1].path):
            config, why = with_tower(tower, config, last, words.value if words else [], shapes)
        notes = (*notes, *why)
    generation = _generation(config, values)
    files = {"config.json": as_json(config), "generation_config.json": as_json(generation)}
    tokenizer, more = tokenizer_files(values)
    more = (*more, *_beyond(values, model))
    if tower:
        with _tower_s_sizes(model.files[-1].path):
            tokenizer |= _processor(tower, last, tokenizer)
    return files | tokenizer, (*notes, *more)


@contextmanager
def _tower_s_sizes(path: str) -> Iterator[None]:
    """FormatError for key/values of a tower that are no sizes."""
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise FormatError(
            f"{path}: no configuration can be made of its key/values: "
            f"{type(error).__name__}: {error}; without this file the text model is converted alone"
        ) from error


def _processor(
    tower: str, metadata: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The files of a processor, and the tokenizer's settings with the tokens that it asks for."""
    found = processor_files(tower, metadata)
    settings = json.loads(files.get("tokenizer_config.json", "{}"))
    if settings:
        extra = dict(PROCESSORS[tower].tokens)
        settings |= {"processor_class": PROCESSORS[tower].name}
        settings |= {"extra_special_tokens": extra} if extra else {}
        found["tokenizer_config.json"] = settings
    return {name: as_json(document) for name, document in found.items()}


def _generation(config: dict[str, Any], values: Mapping[str, KeyValue]) -> dict[str, Any]:
    """What text generation starts from: the ids of the special tokens.

    Ends of a turn and of a message end a text too, as they do in llama.cpp.
    """
    text = config.get("text_config", config)
    ids = {key: text[key] for key in _GENERATION_IDS if text.get(key) is not None}
    ends = [ids[key] for key in ("eos_token_id",) if key in ids]
    for name in ("eot", "eom"):
        found = values.get(f"tokenizer.ggml.{name}_token_id")
        if found is not None and found.value not in ends:
            ends.append(found.value)
    if len(ends) > 1:
        ids["eos_token_id"] = ends
    return {"_from_model_config": True, **ids}


_GENERATION_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def as_json(document: Any) -> bytes:
    """A document as Hugging Face's tools lay one out."""
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
