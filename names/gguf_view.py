"""A Hugging Face model under GGUF's names: the tensors and key/values of a file for llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.names.arrange import Link, arrange
from anamnesis.names.derived import without_rows
from anamnesis.names.facts import Facts
from anamnesis.names.families import families
from anamnesis.names.family import Family, Row
from anamnesis.names.gguf_config import architecture_values, keys_of
from anamnesis.names.keys import Keys
from anamnesis.names.settings import padding_rows
from anamnesis.readers.base import Dropped, Tensor
from anamnesis.readers.gguf_types import KeyValue
from anamnesis.readers.model import Model

# What llama.cpp's graphs need in float32 (conversion/base.py, `prepare_tensors`).
_FLOAT = re.compile(
    r"(?:.*_norm|.*\.ffn_gate_inp(?:_shexp)?|position_embd|token_types|.*\.ssm_conv1d|"
    r".*\.shortconv\.conv|.*\.altup_(?:correct|predict)_coef)\.weight"
)
# Buffers; heads of encoders that llama.cpp has no graph for; what predicts further tokens.
_SKIPPED = re.compile(
    r".*(?:\.attention\.masked_bias|\.attn\.bias|\.rotary_emb\.inv_freq|position_ids)|"
    r"(?:\w+\.)?pooler\.dense\..*|cls\.(?:predictions|seq_relationship)\..*|vocab_\w+\..*|mtp\..*"
)
# Towers of multimodal models, which are files of their own.
_TOWERS = re.compile(
    r".*(?:visual\.|vision_|audio_|projector\.|patch_embed|connector\.|multi_modal|image_newline).*"
)


@dataclass(frozen=True, slots=True)
class GgufView:
    """A model under GGUF's names, its architecture's key/values, and the row that made them."""

    model: Model
    values: dict[str, KeyValue]
    keys: Keys

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
    name = str((config.get("architectures") or [""])[0])
    tensors = {t.name: t for t in model.tensors if not _left_out(t.name)}
    family = _family(model, name, tensors)
    tensors |= _after_padding(family, tensors, config, model.path)
    architecture = family.gguf[0]
    keys = keys_of(name, model.path)
    values = architecture_values(keys, architecture, config, model.path)
    metadata = {key: value.value for key, value in values.items()}
    finder = _Finder(family, tensors)
    links: list[Link] = []
    for tensor in tensors.values():
        found = list(finder.links(tensor.name, metadata))
        if not found:
            raise UnsupportedError(
                f"{model.path}: tensor {tensor.name!r:.200} is not in the table of {name!r}; "
                "--names stored writes tensors under the names they have"
            )
        links += found
    links.sort(key=_order)
    if keys.head == "never" or (keys.head == "untied" and config.get("tie_word_embeddings")):
        links = [link for link in links if link.gguf != "output.weight"]
    made = arrange(links, tensors, "to-gguf")
    left = tuple(
        Dropped(t.components[0].stored, _left_out(t.name))
        for t in model.tensors
        if t.name not in tensors
    )
    viewed = replace(
        model,
        tensors=tuple(made),
        dropped=(*model.dropped, *left),
        notes=(*model.notes, *_notes(left)),
    )
    return GgufView(viewed, values, keys)


def _after_padding(
    family: Family, tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: str
) -> Iterator[tuple[str, Tensor]]:
    """Tensors without the rows before that of the first position, which follows padding's."""
    rows = padding_rows(config)
    for name in family.zero_rows:
        if name in tensors and rows:
            try:
                yield name, without_rows(tensors[name], rows)
            except ValueError as error:
                raise FormatError(f"{path}: config.json: pad_token_id: {error}") from error


def _notes(left: Sequence[Dropped]) -> Iterator[str]:
    """One remark a reason for which tensors are left out."""
    for reason in sorted({d.why for d in left}):
        names = [d.stored.name for d in left if d.why == reason]
        more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
        yield f"{names[0]}{more} left out: {reason}"


def _left_out(name: str) -> str:
    """Why a tensor is not in the GGUF of a text model; empty where it is."""
    if _SKIPPED.fullmatch(name):
        return "llama.cpp has no use for it"
    return "part of a tower beside the text model" if _TOWERS.fullmatch(name) else ""


def kept_dtype(tensor: Tensor, outtype: str) -> str:
    """The dtype of a tensor in a file of `outtype`: vectors and a few matrices are float32."""
    matrix = len(tensor.shape) > 1 and tensor.name.endswith(".weight")
    if not matrix or _FLOAT.fullmatch(tensor.name):
        return "F32"
    return outtype.upper()


def _family(model: Model, name: str, tensors: Mapping[str, Tensor]) -> Family:
    """The family of a class; of several, the one that has rows for the most tensors."""
    rows = [f for f in families() if name in f.architectures]
    if not rows:
        known = ", ".join(sorted({a for f in families() for a in f.architectures}))
        raise UnsupportedError(
            f"{model.path}: {name or 'its class'!r:.100} is not in the table of names; known are "
            f"{known}. --names stored writes the tensors under the names they have"
        )
    if len(rows) == 1:
        return rows[0]
    return max(rows, key=lambda f: sum(map(_Finder(f, tensors).knows, tensors)))


class _Finder:
    """From Hugging Face names to links, by the rows of one family."""

    def __init__(self, family: Family, tensors: Mapping[str, Tensor]) -> None:
        path, head = self._paths(family, tensors)
        self._by_key: dict[str, list[tuple[Row, re.Pattern[str]]]] = {}
        for row in family.rows:
            text = row.hf.replace("{m}", path).replace("{h}", head)
            key = _NUMBER.sub("#", re.sub(r"\{[a-z]\}", "#", text))
            matcher = re.compile(_as_regex(row.hf, path, head))
            if row.hf:
                self._by_key.setdefault(key, []).append((row, matcher))

    def _paths(self, family: Family, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
        for path, head in family.paths:
            if any(name.startswith(f"{path}layers.") for name in tensors):
                return path, head
        return family.paths[0]

    def knows(self, name: str) -> bool:
        """Whether some row has that name."""
        return any(True for _ in self._found(name))

    def links(self, name: str, metadata: Mapping[str, Any]) -> Iterator[Link]:
        """The links that begin in a tensor, in the order of its parts."""
        rows = list(self._found(name))
        if any(row.pattern.hf.join >= 0 for row, _ in rows):  # parts, rather than the whole
            rows = [(row, found) for row, found in rows if row.pattern.hf.join >= 0]
        for row, found in rows:
            gguf = row.gguf.replace("{i}", found.get("i") or "")
            facts = Facts(metadata, int(found.get("i") or 0))
            yield Link(name, gguf, row.pattern, row.value, facts)

    def _found(self, name: str) -> Iterator[tuple[Row, dict[str, Any]]]:
        for row, matcher in self._by_key.get(_NUMBER.sub("#", name), ()):
            match = matcher.fullmatch(name)
            if match is not None:
                yield row, match.groupdict()


_NUMBER = re.compile(r"\d+")


def _order(link: Link) -> tuple[int, ...]:
    """Layers and experts by their numbers; the sort keeps the order of all others."""
    return tuple(int(number) for number in _NUMBER.findall(link.hf))


def _as_regex(template: str, path: str, head: str) -> str:
    text = template.replace("{m}", path).replace("{h}", head)
    parts: Sequence[str] = re.split(r"\{([a-z])\}", text)
    return "".join(
        re.escape(part) if number % 2 == 0 else rf"(?P<{part}>\d+)"
        for number, part in enumerate(parts)
    )
