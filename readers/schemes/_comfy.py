"""ComfyUI's marks: which layers of a single-file checkpoint are quantised, and how.

Two places, of the same meaning: a U8 tensor `LAYER.comfy_quant` of JSON text, such as
`{"format": "float8_e4m3fn"}`, or `_quantization_metadata` in the file's metadata with
`{"layers": {LAYER: {"format": …}}}` (https://github.com/comfyanonymous/ComfyUI QUANTIZATION.md).
A mark of no bytes, or of zeros alone, is of a layer that was left as it is: some quantisers write
one for every layer (issues 15400 and 16472 there), and FLUX.3's say `bf16` of one
(https://github.com/sgl-project/sglang multimodal_gen/…/quantization/rowwise_fp8.py). One without a
`format` is of a layer whose tensors tell it (pull request 99 of BobJohnson24/ComfyUI-INT8-Fast).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.limits import Limits, MiB
from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._basis import refuse_basis
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.source import SourceFile, open_source
from anamnesis.readers.strict_json import loads
from anamnesis.words import and_more

MARK = ".comfy_quant"
_KEY = "_quantization_metadata"
_MARK_BYTES = 64 << 10
_METADATA_BYTES = 16 * MiB
_VERSION = re.compile(r"1(\.[0-9]+)*")  # of the metadata, that is known
# What marks are known to say. A rotation of another name is refused.
_KNOWN = frozenset(
    "act_unsigned convrot convrot_groupsize format full_precision_matrix_mult group_size layout "
    "lowrank_branch_input_basis orig_dtype orig_shape params per_row quant_group_size".split()
)
_DENSE = ("bf16", "fp16", "fp32")
_ROTATION, _GROUP = 256, 16  # where the mark does not say how many columns


@dataclass(frozen=True, slots=True)
class Mark:
    """What a layer says of itself; `stored` is the marking tensor, None for file metadata.

    `format` is "" where it names none, and the mark `empty` where it says nothing at all, or that
    the layer was left as it is.
    `rotation` is the columns of a group that ConvRot rotated together, 0 where it did not; `group`
    those that share a scale, in formats that need it said.
    """

    format: str
    stored: Stored | None
    rotation: int = 0
    group: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)  # all of the mark
    empty: bool = False

    def block(self, usual: int) -> tuple[int, int]:
        """The block of a format in squares: `group_size`, at the top or among `params`."""
        params = self.options.get("params")
        inner = params.get("group_size") if isinstance(params, Mapping) else None
        size = self.options.get("group_size", inner)
        size = size if type(size) is int and size > 0 else usual
        return size, size


def marks(ledger: Ledger) -> dict[str, Mark]:
    """The marks of a checkpoint by layer name. Reads the text of marking tensors."""
    found = {}
    for layer, about in _from_metadata(ledger).items():
        found[layer] = _mark(about, ledger.container.files[0].path, layer, None)
    with ExitStack() as stack:
        files: dict[str, SourceFile] = {}
        for stored in ledger.free() if "U8" in ledger.dtypes else ():
            if stored.dtype != "U8" or not stored.name.endswith(MARK):
                continue
            where = f"{stored.file.path}: tensor {stored.name!r}"
            if stored.nbytes > _MARK_BYTES:
                raise FormatError(
                    f"{where}: {stored.nbytes:,} bytes of JSON, allowed {_MARK_BYTES:,}"
                )
            if stored.file.path not in files:
                files[stored.file.path] = stack.enter_context(open_source(stored.file.path))
            text = files[stored.file.path].read(stored.offset, stored.nbytes)
            layer = stored.name[: -len(MARK)]
            if not any(text):
                found[layer] = Mark("", stored, empty=True)
            else:
                found[layer] = _mark(loads(text, where, Limits()), where, layer, stored)
    return found


def check_options(ledger: Ledger, found: Mapping[str, Mark]) -> None:
    """Hold what marks say besides a format against what is known of them.

    Raises UnsupportedError for a rotation, and notes what is not known: a tool's own loader may
    change weights by it.
    """
    unknown: dict[str, list[str]] = {}
    for layer, mark in found.items():
        params = mark.options.get("params")
        said = {**params, **mark.options} if isinstance(params, Mapping) else mark.options
        more = {key: value for key, value in said.items() if key not in _KNOWN and value}
        refuse_basis(ledger, f"ComfyUI mark of {layer!r:.200}", more, stated=True)
        for key in more:
            unknown.setdefault(key, []).append(layer)
    for key, layers in unknown.items():
        ledger.note(
            f"{ledger.container.files[0].path}: {layers[0]!r:.200}{and_more(len(layers))}: its "
            f"ComfyUI mark says {key!r:.80}, which is not known and was not heeded"
        )


def _from_metadata(ledger: Ledger) -> Mapping[str, Any]:
    text = ledger.container.metadata.get(_KEY)
    if not isinstance(text, str):
        return {}
    where = f"{ledger.container.files[0].path}: metadata {_KEY}"
    if len(text) > _METADATA_BYTES:
        raise FormatError(f"{where}: {len(text):,} characters, allowed {_METADATA_BYTES:,}")
    value = loads(text.encode(), where, Limits())
    layers = value.get("layers") if isinstance(value, dict) else None
    if not isinstance(layers, dict):
        raise FormatError(f"{where}: expected an object with an object 'layers'")
    version = str(value.get("format_version", "1"))
    if not _VERSION.fullmatch(version[:200]):
        ledger.note(
            f"{where}: format_version {version!r:.40} is not known; read as 1.0, as ComfyUI does"
        )
    return layers


def _mark(about: Any, where: str, layer: str, stored: Stored | None) -> Mark:
    name = about.get("format", "") if isinstance(about, dict) else None
    if not isinstance(name, str):
        raise FormatError(f"{where}: layer {layer!r}: expected an object whose 'format' is text")
    rotated = about.get("convrot") or name.startswith("convrot") or name == "asym_w4a8_int8"
    size = about.get("convrot_groupsize", _ROTATION) if rotated else 0
    if type(size) is not int or size < 0:
        raise FormatError(f"{where}: layer {layer!r}: convrot_groupsize {size!r:.40}")
    group = about.get("group_size", _GROUP)
    empty = name in _DENSE and not size
    return Mark(name, stored, size, group if type(group) is int else 0, about, empty)
