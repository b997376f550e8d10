"""The table of encoders: how numbers become the stored tensors of a quantised layout.

An encoder is the way back of a row in `ENCODINGS`. Its row names a module and X, which has:

- `form_X(name, shape, dtype, settings)` says, from the shape alone, which tensors are stored (their
  names, dtypes and shapes) and which windows of the matrix can be encoded by themselves. It raises
  `Unfit` with the reason when the layout cannot hold a tensor of that shape;
- `encode_X(values, params, out)` fills `out`, which maps a part's role to a contiguous 1-D array of
  its elements for one window. `values` are the window's float32 numbers, flat; `params` holds the
  settings, `dtype` (`BF16`, `F16` or `F32`: what the numbers were stored as, in which libraries
  round their scales), `columns` (the row length), `first` (the window's first unit), and the
  whole-tensor statistics that the form asked for. `weights` is None, or a function that gives what
  the columns of a matrix of the stack count, as float32;
- `blocks_X(parts, facts)` gives what `encode_X` filled to the decoder (`readback`);
- `ends_X(parts, facts)` says how far the codes of each group reach (`ends`);
- `config_X(settings, kept, dtype)` is what `config.json` says of a model of it (`config`);
- `files_X(settings, modules)`, where a loader reads others: JSON by the name of a file.

Blocks of ggml's types are laid out and read back by their size alone, and files say what they are:
these have only `encode_X` and `ends_X`.
What is written is, bit for bit, what the library named in the row's module writes.
One row a target, sorted by name; the module is imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from typing import Any, Literal, NamedTuple

from anamnesis.kernels import ENCODINGS

Setting = int | bool | str
Settings = Mapping[str, Setting]


class Unfit(ValueError):  # noqa: N818 - a reason more than an error
    """A layout cannot hold a tensor of this shape; the message says why."""


class Part(NamedTuple):
    """A stored tensor: every `units` units of the matrix make `elems` elements of it.

    With `units` 0 it does not grow with the matrix, and the window that starts at 0 fills all of
    it. `dtype` is the safetensors name, or ggml's of a type of blocks, `block_elems` elements in
    `block_bytes` bytes.
    """

    role: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    units: int = 0
    elems: int = 0
    block_elems: int = 0
    block_bytes: int = 0

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """The elements `[first, last)` that the window of units `[start, stop)` fills."""
        total = math.prod(self.shape)
        if not self.units:
            return (0, total) if start == 0 else (0, 0)
        first = start // self.units * self.elems
        return first, min(-(-stop // self.units) * self.elems, total)

    def room(self, start: int, stop: int) -> int:
        """Elements of the array that holds that window: of blocks, bytes."""
        first, last = self.span(start, stop)
        return (last - first) // (self.block_elems or 1) * (self.block_bytes or 1)


@dataclass(frozen=True, slots=True)
class Form:
    """How a tensor of one shape is stored.

    The matrix is units of `unit_elems` elements, flat in row-major order (the last may be short);
    windows start at multiples of `multiple` units, and do not go from one matrix of a stack, of
    `matrix_units` units, to the next (0: there is one). With `transposed` the matrix is that of the
    tensor, or each of a stack, transposed: units are its columns. `statistics` names what has to be
    known of the whole tensor before its first window: `extent` (`least`, `most`), `absmax_mean`.
    """

    unit_elems: int
    parts: tuple[Part, ...]
    multiple: int = 1
    matrix_units: int = 0
    statistics: tuple[str, ...] = ()
    transposed: bool = False


class Key(NamedTuple):
    """A setting of an encoder: its default, and the values that are allowed.

    Without `allowed` it is a multiple of `step`, and not 0; any whole number where that is 0.
    """

    default: Setting
    allowed: tuple[Setting, ...] = ()
    step: int = 0

    def holds(self, value: int) -> bool:
        """Whether a number of no list is one of the allowed."""
        return bool(self.allowed) or not self.step or (value > 0 and value % self.step == 0)

    @property
    def numbers(self) -> str:
        """The allowed values in words, for a setting that is a number."""
        if self.allowed:
            return ", ".join(map(str, self.allowed))
        if not self.step:
            return "a whole number"
        return f"a multiple of {self.step}" if self.step > 1 else "a whole number above 0"


@dataclass(frozen=True, slots=True)
class Encoder:
    """A row: where the functions are, what decodes what is written, and its settings.

    `weights` of columns, from an importance matrix, are taken; wanted, where a tool refuses to
    write all but embeddings and outputs without them; or needed by the encoder. With `bf16`,
    numbers that are stored as BF16 can be given as they are, as uint16, where there are no weights.
    """

    target: str  # "module:X" inside anamnesis.kernels
    reads_back: str  # the row of ENCODINGS that decodes it
    keys: Mapping[str, Key] = field(default_factory=dict)
    weights: Literal["", "taken", "wanted", "needed"] = ""
    bf16: bool = False


Shape = tuple[int, ...]
FormOf = Callable[[str, Shape, str, Settings], Form]
Encode = Callable[[Any, Mapping[str, Any], Mapping[str, Any]], None]

_BITS = (2, 3, 4, 5, 6, 7, 8)
_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_FOUR_BITS = {"block": Key(64, _BLOCKS), "nested": Key(False, (False, True))}
_CT = "compressed-tensors"
_ACTIVATIONS = Key("none", ("dynamic", "none"))  # whether a loader quantises what goes in
_SCALED = {"activations": _ACTIVATIONS, "style": Key(_CT, (_CT,))}
_MLX = {"style": Key("mlx", ("mlx",))}

ENCODERS: dict[str, Encoder] = {
    "awq": Encoder(
        "encode_gptq:awq",
        "awq-gemm",
        {"bits": Key(4, (4,)), "group": Key(128, step=32), "sym": Key(False, (False, True))},
    ),
    "bnb-fp4": Encoder("encode_bnb:fp4", "bnb-4bit", _FOUR_BITS, bf16=True),
    "bnb-int8": Encoder("encode_bnb:int8", "bnb-int8", bf16=True),
    "bnb-nf4": Encoder("encode_bnb:nf4", "bnb-4bit", _FOUR_BITS, bf16=True),
    "ct-int-quantized": Encoder(
        "encode_ints:bytes",
        "ct-int8",
        {
            "activations": _ACTIVATIONS,
            "bits": Key(8, _BITS),
            "group": Key(0),
            "sym": Key(True, (False, True)),
        },
        bf16=True,
    ),
    "ct-pack-quantized": Encoder(
        "encode_ints:packed",
        "ct-packed",
        {"bits": Key(4, _BITS), "group": Key(128), "sym": Key(True, (False, True))},
        bf16=True,
    ),
    "fp8-block": Encoder(
        "encode_fp8:block",
        "fp8-e4m3",
        {"block": Key(128, step=1), "style": Key("deepseek", (_CT, "deepseek", "transformers"))},
        bf16=True,
    ),
    "fp8-channel": Encoder("encode_fp8:channel", "fp8-e4m3", _SCALED, bf16=True),
    "fp8-tensor": Encoder("encode_fp8:tensor", "fp8-e4m3", _SCALED, bf16=True),
    "gguf-iq1-m": Encoder("encode_gguf_iq1:iq1_m", "gguf-iq1-m", weights="wanted"),
    "gguf-iq1-s": Encoder("encode_gguf_iq1:iq1_s", "gguf-iq1-s", weights="needed"),
    "gguf-iq2-s": Encoder("encode_gguf_iq2:iq2_s", "gguf-iq2-s", weights="wanted"),
    "gguf-iq2-xs": Encoder("encode_gguf_iq2:iq2_xs", "gguf-iq2-xs", weights="needed"),
    "gguf-iq2-xxs": Encoder("encode_gguf_iq2:iq2_xxs", "gguf-iq2-xxs", weights="needed"),
    "gguf-iq3-s": Encoder("encode_gguf_iq3:iq3_s", "gguf-iq3-s", weights="taken"),
    "gguf-iq3-xxs": Encoder("encode_gguf_iq3:iq3_xxs", "gguf-iq3-xxs", weights="wanted"),
    "gguf-iq4-nl": Encoder("encode_gguf_iq4:iq4_nl", "gguf-iq4-nl", weights="taken"),
    "gguf-iq4-xs": Encoder("encode_gguf_iq4:iq4_xs", "gguf-iq4-xs", weights="taken"),
    "gguf-mxfp4": Encoder("encode_gguf_fp4:mxfp4", "gguf-mxfp4", bf16=True),
    "gguf-nvfp4": Encoder("encode_gguf_fp4:nvfp4", "gguf-nvfp4", bf16=True),
    "gguf-q1-0": Encoder("encode_gguf_bits:q1_0", "gguf-q1-0"),
    "gguf-q2-0": Encoder("encode_gguf_bits:q2_0", "gguf-q2-0", bf16=True),
    "gguf-q2-k": Encoder("encode_gguf_k:q2_k", "gguf-q2-k", weights="taken"),
    "gguf-q3-k": Encoder("encode_gguf_k:q3_k", "gguf-q3-k", weights="taken"),
    "gguf-q4-0": Encoder("encode_gguf_legacy:q4_0", "gguf-q4-0", weights="taken", bf16=True),
    "gguf-q4-1": Encoder("encode_gguf_legacy:q4_1", "gguf-q4-1", weights="taken", bf16=True),
    "gguf-q4-k": Encoder("encode_gguf_k:q4_k", "gguf-q4-k", weights="taken"),
    "gguf-q5-0": Encoder("encode_gguf_legacy:q5_0", "gguf-q5-0", weights="taken", bf16=True),
    "gguf-q5-1": Encoder("encode_gguf_legacy:q5_1", "gguf-q5-1", weights="taken", bf16=True),
    "gguf-q5-k": Encoder("encode_gguf_k:q5_k", "gguf-q5-k", weights="taken"),
    "gguf-q6-k": Encoder("encode_gguf_k:q6_k", "gguf-q6-k", weights="taken"),
    "gguf-q8-0": Encoder("encode_gguf_legacy:q8_0", "gguf-q8-0", bf16=True),
    "gguf-tq1-0": Encoder("encode_gguf_bits:tq1_0", "gguf-tq1-0", bf16=True),
    "gguf-tq2-0": Encoder("encode_gguf_bits:tq2_0", "gguf-tq2-0", bf16=True),
    "gptq": Encoder(
        "encode_gptq:gptq",
        "gptq",
        {
            "bits": Key(4, (2, 3, 4, 8)),
            "group": Key(128, step=32),
            "sym": Key(True, (False, True)),
            "version": Key(1, (1, 2)),
        },
    ),
    "mlx-affine": Encoder(
        "encode_mlx:affine",
        "mlx-affine",
        {"bits": Key(4, (2, 3, 4, 5, 6, 8)), "group": Key(64, (32, 64, 128))},
        bf16=True,
    ),
    "mlx-mxfp4": Encoder("encode_fp4:mxfp4", "fp4-mx", _MLX, bf16=True),
    "mlx-mxfp8": Encoder("encode_fp8:mxfp8", "fp8-e4m3", _MLX, bf16=True),
    "mlx-nvfp4": Encoder("encode_fp4:nvfp4", "fp4-nv", _MLX, bf16=True),
    "mxfp4": Encoder(
        "encode_fp4:mxfp4", "fp4-mx", {"style": Key(_CT, (_CT, "gpt-oss", "mlx"))}, bf16=True
    ),
    "mxfp8": Encoder("encode_fp8:mxfp8", "fp8-e4m3", {"style": Key(_CT, (_CT, "mlx"))}, bf16=True),
    "nvfp4": Encoder(
        "encode_fp4:nvfp4",
        "fp4-nv",
        {"shared": Key(False, (False, True)), "style": Key(_CT, (_CT, "mlx", "modelopt"))},
        bf16=True,
    ),
    "quanto": Encoder(
        "encode_quanto:bytes",
        "quanto-bytes",
        {"type": Key("qint8", ("qfloat8", "qint8"))},
        bf16=True,
    ),
}


@cache
def function_of(name: str, kind: str) -> Callable[..., Any]:
    """A function of a row: `form`, `encode`, `blocks`, `ends`, `config`, `files` or `codes`.

    Imports its module on first use. The form and the blocks of ggml's types are those of any.
    """
    row = ENCODERS[name]
    module, _, target = row.target.partition(":")
    if kind in ("form", "blocks") and ENCODINGS[row.reads_back].ggml_type >= 0:
        of_any = getattr(import_module("anamnesis.kernels._ggml"), f"{kind}_ggml")
        return partial(of_any, row.reads_back)
    found: Callable[..., Any] = getattr(
        import_module(f"anamnesis.kernels.{module}"), f"{kind}_{target}"
    )
    return found


@cache
def has(name: str, kind: str) -> bool:
    """Whether the file of a row has such a function: those of `codes` and `files` are for some."""
    module, _, target = ENCODERS[name].target.partition(":")
    return hasattr(import_module(f"anamnesis.kernels.{module}"), f"{kind}_{target}")


def former(name: str) -> FormOf:
    """The function that lays an encoder's parts out."""
    return function_of(name, "form")


def encoder(name: str) -> Encode:
    """The function that encodes a window."""
    return function_of(name, "encode")


def matrix_of(shape: Shape, group: int = 1) -> tuple[int, int]:
    """Rows and columns of a matrix, or of a stack of them as one.

    Raises `Unfit` for a vector, and for rows that are no whole number of groups.
    """
    if len(shape) < 2 or not math.prod(shape):
        raise Unfit(f"it has the shape {list(shape)}, and no rows")
    if shape[-1] % group:
        raise Unfit(f"its rows of {shape[-1]} elements are no whole number of groups of {group}")
    return math.prod(shape[:-1]), shape[-1]


def sibling(name: str, suffix: str) -> str:
    """The name of a tensor beside `X.weight`, as libraries name it: `X.` and the suffix."""
    return name.removesuffix("weight") + suffix if name.endswith(".weight") else f"{name}_{suffix}"


def sibling_of_mlx(name: str, suffix: str) -> str:
    """As `sibling`; raises `Unfit` for a name that no quantised layer of MLX has."""
    if not name.endswith(".weight"):
        raise Unfit("MLX's quantised layers have a weight, and scales beside it")
    return sibling(name, suffix)
