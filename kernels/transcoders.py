"""The table of transcoders: codes and scales of one layout, moved to another as they are.

A row is a source (of `ENCODINGS`) or a target (of `ENCODERS`), with the family of its numbers. Any
source of a family goes to any target of it, over a form that both understand:

| family | what a window becomes on the way |
|---|---|
| `integers` | `Integers`: a byte a code, scales, and zero points or biases |
| `mx` | `Micro`: pairs of E2M1 codes, an E8M0 byte for each 32 |
| `nv` | `Micro`: pairs of E2M1 codes, an E4M3 byte for each 16, and the tensor's number |
| `fp8` | E4M3 codes, and a grid of scales |
| `bnb-4bit`, `bnb-int8` | bitsandbytes' own, as they are |
| `blocks` | ggml's blocks, bytes |

`read_X(views, params, window)` makes that form of a window as its reader has it, and
`write_X(found, params, out)` fills an encoder's parts. Both raise `Inexact` where the numbers in
the window are none that the target has; `misfit` says, from parameters alone, which never can be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from anamnesis.kernels import ENCODINGS, Window
from anamnesis.kernels.encoders import ENCODERS, Setting, Settings
from anamnesis.kernels.types import Bytes, Floats, Params, Views

if TYPE_CHECKING:
    import numpy as np


class Inexact(ValueError):  # noqa: N818 - a reason more than an error
    """A target does not have the numbers of a tensor; the message says which."""


class Source(NamedTuple):
    """What is known of a quantised tensor before it is read.

    `parts` maps the roles of its components to dtypes; `windowed` are those read by window.
    """

    encoding: str
    scheme: str
    shape: tuple[int, ...]
    params: Params
    parts: Mapping[str, str]
    windowed: frozenset[str]


Read = Callable[[Mapping[str, Any], Mapping[str, Any], Any], Any]
Write = Callable[[Any, Mapping[str, Any], Mapping[str, Any]], None]

SOURCES: dict[str, tuple[str, str]] = {
    "awq-gemm": ("integers", "transcode_ints:awq"),
    "bnb-4bit": ("bnb-4bit", "transcode_bnb:four"),
    "bnb-int8": ("bnb-int8", "transcode_rows:bnb_int8"),
    "ct-int8": ("integers", "transcode_ints:ct_bytes"),
    "ct-packed": ("integers", "transcode_ints:ct_packed"),
    "fp4-mx": ("mx", "transcode_fp4:micro"),
    "fp4-nv": ("nv", "transcode_fp4:micro"),
    "fp8-e4m3": ("fp8", "transcode_rows:fp8"),
    "gguf-mxfp4": ("mx", "transcode_fp4:gguf_mxfp4"),
    "gguf-nvfp4": ("nv", "transcode_fp4:gguf_nvfp4"),
    "gguf-q4-0": ("integers", "transcode_ggml:q4_0"),
    "gguf-q4-1": ("integers", "transcode_ggml:q4_1"),
    "gguf-q5-0": ("integers", "transcode_ggml:q5_0"),
    "gguf-q5-1": ("integers", "transcode_ggml:q5_1"),
    "gguf-q8-0": ("integers", "transcode_ggml:q8_0"),
    "gptq": ("integers", "transcode_ints:gptq"),
    "mlx-affine": ("integers", "transcode_ints:mlx"),
}
TARGETS: dict[str, tuple[str, str]] = {
    "bnb-fp4": ("bnb-4bit", "transcode_bnb:four"),
    "bnb-int8": ("bnb-int8", "transcode_rows:bnb_int8"),
    "bnb-nf4": ("bnb-4bit", "transcode_bnb:four"),
    "ct-int-quantized": ("integers", "transcode_ints:ct_bytes"),
    "ct-pack-quantized": ("integers", "transcode_ints:ct_packed"),
    "fp8-block": ("fp8", "transcode_rows:fp8"),
    "fp8-channel": ("fp8", "transcode_rows:fp8"),
    "fp8-tensor": ("fp8", "transcode_rows:fp8"),
    "gguf-mxfp4": ("mx", "transcode_fp4:gguf_mxfp4"),
    "gguf-nvfp4": ("nv", "transcode_fp4:gguf_nvfp4"),
    "gguf-q4-0": ("integers", "transcode_ggml:q4_0"),
    "gguf-q4-1": ("integers", "transcode_ggml:q4_1"),
    "gguf-q5-0": ("integers", "transcode_ggml:q5_0"),
    "gguf-q5-1": ("integers", "transcode_ggml:q5_1"),
    "gguf-q8-0": ("integers", "transcode_ggml:q8_0"),
    "mlx-affine": ("integers", "transcode_ints:mlx"),
    "mlx-mxfp4": ("mx", "transcode_fp4:micro"),
    "mlx-mxfp8": ("fp8", "transcode_rows:fp8"),
    "mlx-nvfp4": ("nv", "transcode_fp4:micro"),
    "mxfp4": ("mx", "transcode_fp4:micro"),
    "mxfp8": ("fp8", "transcode_rows:fp8"),
    "nvfp4": ("nv", "transcode_fp4:micro"),
}
_BLOCKS = ("blocks", "transcode_ggml:blocks")
# Bits and group size of ggml's integers, and whether a bias makes up their zero.
LEGACY: dict[str, tuple[int, bool]] = {
    "gguf-q4-0": (4, False),
    "gguf-q4-1": (4, True),
    "gguf-q5-0": (5, False),
    "gguf-q5-1": (5, True),
    "gguf-q8-0": (8, False),
}
_FP8_KINDS = {"mlx-mxfp8": "mxfp8"}


def _rows(encoding: str, target: str) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """The rows of a source and of a target in one family; None where they have none in common."""
    if encoding == target and encoding.startswith("gguf-"):
        return _BLOCKS, _BLOCKS
    source, found = SOURCES.get(encoding), TARGETS.get(target)
    return (source, found) if source and found and source[0] == found[0] else None


def transcoder(encoding: str, target: str) -> tuple[Read, Write]:
    """The two functions that move windows of an encoding to a target that `misfit` has nothing on.

    Their modules are imported on first use.
    """
    rows = _rows(encoding, target)
    if rows is None:
        raise KeyError(f"{encoding} to {target}")
    (_, source), (_, found) = rows
    read: Read = _function("read", source)
    write: Write = _function("write", found)
    if rows[0] is _BLOCKS:
        read = partial(_read_blocks, read, ENCODINGS[encoding].block_elems)
    return read, write


def _read_blocks(read: Read, block: int, views: Views, params: Params, window: Window) -> Any:
    return read(views, {**params, "block": block}, window)


def _function(kind: str, row: str) -> Any:
    module, _, name = row.partition(":")
    return getattr(import_module(f"anamnesis.kernels.{module}"), f"{kind}_{name}")


def misfit(source: Source, target: str, settings: Settings) -> str:
    """Why a tensor cannot become a target with its numbers as they are; empty where it may."""
    if target in ("awq", "gptq"):
        return f"codes are not moved into the transposed words of {target}"
    if source.encoding == "derived":
        return "its numbers are rearranged on the way, and not by whole rows"
    rows = _rows(source.encoding, target)
    if rows is None:
        return f"{source.scheme} and {target} have no numbers in common"
    family = rows[0][0]
    if family == "integers":
        return _integers_misfit(source, target, settings)
    if family == "bnb-4bit":
        return _bnb_misfit(source, target, settings)
    if family == "fp8":
        kind = _FP8_KINDS.get(target, target)
        if source.scheme.removeprefix("mlx-") != kind:
            return f"the scales of {source.scheme} are not those of {kind}"
        if kind == "fp8-block":
            return _block_misfit(source, int(settings["block"]))
    if family == "blocks" and "scale" in source.parts:
        return "its blocks are under a scale of the tensor, which this target does not have"
    if source.params.get("quarters"):
        return "its codes are integers (MXINT4)"
    if family == "nv" and source.params.get("block_elems", 16) % 16:
        return f"a scale is for {source.params['block_elems']} elements"
    return ""


def _bnb_misfit(source: Source, target: str, settings: Settings) -> str:
    params, nested = source.params, "nested_offset" in source.params
    if source.scheme != target:
        return f"the codes of {source.scheme} are not those of {target}"
    if params["group_size"] != settings["block"]:
        return f"its blocks are of {params['group_size']} elements, and here of {settings['block']}"
    if nested != settings["nested"]:
        return f"its statistics are {'' if nested else 'not '}quantised"
    if params.get("nested_blocksize", 256) != 256:
        return f"its statistics are in blocks of {params['nested_blocksize']}, and here of 256"
    if params["absmax_dtype"] not in ("F32", "U8"):
        return f"its statistics are {params['absmax_dtype']}, and here F32"
    return ""


def _block_misfit(source: Source, block: int) -> str:
    high, wide = source.params["block"]
    rows, columns = source.shape[-2:]
    if (high, wide) != (min(block, rows), min(block, columns)):
        return f"a scale is for {high} x {wide} elements, and here for {block} x {block}"
    return ""


class Integers(NamedTuple):
    """Codes, uint8 `[rows, columns]` from 0 on, and numbers `[rows, groups]`, float32.

    A value is `(code - zero) * scale`, or `code * scale + bias`. Without either the zero is
    `2 ** (bits - 1)`. A group has `group` codes, the last of a row perhaps fewer.
    """

    codes: Bytes
    bits: int
    group: int
    scales: Floats
    zeros: Floats | None = None
    biases: Floats | None = None


class Micro(NamedTuple):
    """E2M1 codes as pairs, the first in the low half, uint8 `[rows, columns / 2]`, and scale bytes.

    `whole` is the number of the tensor, float32, and `divide` how the scales are under it.
    """

    codes: Bytes
    scales: Bytes
    whole: np.float32 | None = None
    divide: bool = False


class Facts(NamedTuple):
    """Bits, group size, and what a tensor of integers has: no zero points, `zeros` or `biases`."""

    bits: int
    group: int
    offset: str


def group_of(params: Params, columns: int) -> int:
    """Elements of a group: those of a row where parameters say 0 or less."""
    size = int(params["group_size"])
    return size if size > 0 else columns


def facts_of(source: Source) -> Facts:
    """The facts of a tensor of the family of integers."""
    if source.encoding in LEGACY:
        bits, biases = LEGACY[source.encoding]
        return Facts(bits, 32, "biases" if biases else "")
    params = source.params
    group = group_of(params, source.shape[-1])
    if source.encoding == "mlx-affine":
        return Facts(params["bits"], group, "biases")
    zeros = "qzeros" in source.parts if "qweight" in source.parts else bool(params["zero"])
    return Facts(params["bits"], group, "zeros" if zeros else "")


def _integers_misfit(source: Source, target: str, settings: Settings) -> str:
    params, columns = source.params, source.shape[-1]
    if params.get("act_order"):
        return "its inputs are in groups of their own choice (g_idx)"
    if params.get("word_bits", 32) != 32:
        return f"its words have {params['word_bits']} bits"
    if params.get("padded") and 32 % params["bits"]:
        return "its words are padded"
    if params.get("zero") == "float":
        return "its zero points are no integers"
    if "weight_scale" in source.parts and "weight_scale" not in source.windowed:
        return "a scale is for more than one row"
    facts = facts_of(source)
    bits = LEGACY[target][0] if target in LEGACY else int(settings["bits"])
    if facts.bits != bits:
        return f"its codes have {facts.bits} bits, and those of {target} {bits}"
    group = 32 if target in LEGACY else int(settings["group"]) or columns
    if columns % group:
        return f"its rows of {columns:,} elements are no whole number of groups of {group}"
    if facts.group % group:
        return f"its groups are of {facts.group} elements, and those of {target} of {group}"
    return ""


def suggested(source: Source, target: str, settings: Settings) -> dict[str, Setting]:
    """Settings of a target that hold the numbers of a tensor with as many bits; else nothing."""
    rows = _rows(source.encoding, target)
    if rows is None:
        return {}
    keys = ENCODERS[target].keys
    found: dict[str, Setting] = {}
    if rows[0][0] == "integers":
        facts = facts_of(source)
        if settings.get("bits") == facts.bits:
            group = facts.group if facts.group < source.shape[-1] else 0  # one a row
            sym = not facts.offset or bool(source.params.get("sym"))
            found = {"group": group, "sym": sym}
    elif rows[0][0] == "bnb-4bit":
        found = {"block": source.params["group_size"], "nested": "nested_offset" in source.params}
    elif target == "fp8-block" and "block" in source.params:
        found = {"block": max(source.params["block"])}
    return {
        key: value
        for key, value in found.items()
        if key in keys and (not keys[key].allowed or value in keys[key].allowed)
    }
