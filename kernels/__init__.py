"""The table of encodings: how a block of raw bytes becomes numbers.

A kernel is a plain function `decode(blocks, params, window, out)`:

- `blocks` maps a component's role to a `uint8` array of shape `[units, unit_bytes]` (or
  `[lines, bytes]` for components stored in columns), read-only views over what was read;
- `params` holds the tensor's scalar parameters and what the row's `prepare` made of its
  whole-tensor components;
- `window` is the range of output units that `blocks` covers;
- `out` is a one-dimensional array of `window.stop - window.start` times `unit_elems`
  elements (the tensor's last window may be shorter), `uint16` BF16 bits or `float32`.

It fills `out`, allocates nothing that grows with the tensor, and holds no lock.
One row a format, sorted by name; the module is imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple


class Window(NamedTuple):
    """A range of a tensor's output units, `start` inclusive and `stop` exclusive."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Encoding:
    """A row: where the decoder is, and the block geometry where the format fixes one."""

    target: str  # "module:function" inside anamnesis.kernels
    prepare: str = ""  # "module:function" that turns whole components into kernel arguments
    block_elems: int = 0
    block_bytes: int = 0
    ggml_type: int = -1


Decode = Callable[[Mapping[str, Any], Mapping[str, Any], Window, Any], None]
Prepare = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]

ENCODINGS: dict[str, Encoding] = {
    "aqlm": Encoding("aqlm:decode", prepare="aqlm:prepare"),
    "awq-gemm": Encoding("awq:decode_gemm", prepare="awq:prepare"),
    "awq-gemv": Encoding("awq:decode_gemv", prepare="awq:prepare"),
    "awq-gemv-fast": Encoding("awq:decode_gemv_fast", prepare="awq:prepare"),
    "bf16": Encoding("dense:decode_bf16"),
    "bitnet": Encoding("bitnet:decode", prepare="bitnet:prepare"),
    "bnb-4bit": Encoding("bnb:decode_4bit", prepare="bnb:prepare_4bit"),
    "bnb-int8": Encoding("bnb:decode_int8"),
    "ct-int8": Encoding("ct:decode_int8", prepare="ct:prepare"),
    "ct-packed": Encoding("ct:decode_packed", prepare="ct:prepare"),
    "f16": Encoding("dense:decode_f16"),
    "f32": Encoding("dense:decode_f32"),
    "f64": Encoding("dense:decode_f64"),
    "folded": Encoding("folded:decode", prepare="folded:prepare"),
    "fp4-mx": Encoding("fp4:decode_mx"),
    "fp4-mx-columns": Encoding("fp4:decode_mx_columns"),
    "fp4-nv": Encoding("fp4:decode_nv", prepare="fp4:prepare_nv"),
    "fp6-mx": Encoding("fp6:decode_mx"),
    "fp8-e4m3": Encoding("fp8:decode_e4m3", prepare="fp8:prepare"),
    "fp8-e4m3fnuz": Encoding("fp8:decode_e4m3fnuz", prepare="fp8:prepare"),
    "fp8-e5m2": Encoding("fp8:decode_e5m2", prepare="fp8:prepare"),
    "fp8-e5m2fnuz": Encoding("fp8:decode_e5m2fnuz", prepare="fp8:prepare"),
    "gguf-iq1-m": Encoding("gguf_iq1:decode_iq1_m", block_elems=256, block_bytes=56, ggml_type=29),
    "gguf-iq1-s": Encoding("gguf_iq1:decode_iq1_s", block_elems=256, block_bytes=50, ggml_type=19),
    "gguf-iq2-s": Encoding("gguf_iq2:decode_iq2_s", block_elems=256, block_bytes=82, ggml_type=22),
    "gguf-iq2-xs": Encoding(
        "gguf_iq2:decode_iq2_xs", block_elems=256, block_bytes=74, ggml_type=17
    ),
    "gguf-iq2-xxs": Encoding(
        "gguf_iq2:decode_iq2_xxs", block_elems=256, block_bytes=66, ggml_type=16
    ),
    "gguf-iq3-s": Encoding("gguf_iq3:decode_iq3_s", block_elems=256, block_bytes=110, ggml_type=21),
    "gguf-iq3-xxs": Encoding(
        "gguf_iq3:decode_iq3_xxs", block_elems=256, block_bytes=98, ggml_type=18
    ),
    "gguf-iq4-nl": Encoding("gguf_iq4:decode_iq4_nl", block_elems=32, block_bytes=18, ggml_type=20),
    "gguf-iq4-xs": Encoding(
        "gguf_iq4:decode_iq4_xs", block_elems=256, block_bytes=136, ggml_type=23
    ),
    "gguf-mxfp4": Encoding("gguf_fp4:decode_mxfp4", block_elems=32, block_bytes=17, ggml_type=39),
    "gguf-nvfp4": Encoding(
        "gguf_fp4:decode_nvfp4",
        prepare="gguf_fp4:prepare_nvfp4",
        block_elems=64,
        block_bytes=36,
        ggml_type=40,
    ),
    "gguf-q1-0": Encoding("gguf_bits:decode_q1_0", block_elems=128, block_bytes=18, ggml_type=41),
    "gguf-q2-0": Encoding("gguf_bits:decode_q2_0", block_elems=64, block_bytes=18, ggml_type=42),
    "gguf-q2-0-g128": Encoding("gguf_bits:decode_q2_0_g128", block_elems=128, block_bytes=34),
    "gguf-q2-k": Encoding("gguf_k:decode_q2_k", block_elems=256, block_bytes=84, ggml_type=10),
    "gguf-q3-k": Encoding("gguf_k:decode_q3_k", block_elems=256, block_bytes=110, ggml_type=11),
    "gguf-q4-0": Encoding("gguf_legacy:decode_q4_0", block_elems=32, block_bytes=18, ggml_type=2),
    "gguf-q4-1": Encoding("gguf_legacy:decode_q4_1", block_elems=32, block_bytes=20, ggml_type=3),
    "gguf-q4-k": Encoding("gguf_k:decode_q4_k", block_elems=256, block_bytes=144, ggml_type=12),
    "gguf-q5-0": Encoding("gguf_legacy:decode_q5_0", block_elems=32, block_bytes=22, ggml_type=6),
    "gguf-q5-1": Encoding("gguf_legacy:decode_q5_1", block_elems=32, block_bytes=24, ggml_type=7),
    "gguf-q5-k": Encoding("gguf_k:decode_q5_k", block_elems=256, block_bytes=176, ggml_type=13),
    "gguf-q6-k": Encoding("gguf_k:decode_q6_k", block_elems=256, block_bytes=210, ggml_type=14),
    "gguf-q8-0": Encoding("gguf_legacy:decode_q8_0", block_elems=32, block_bytes=34, ggml_type=8),
    "gguf-tq1-0": Encoding("gguf_bits:decode_tq1_0", block_elems=256, block_bytes=54, ggml_type=34),
    "gguf-tq2-0": Encoding("gguf_bits:decode_tq2_0", block_elems=256, block_bytes=66, ggml_type=35),
    "gptq": Encoding("gptq:decode", prepare="gptq:prepare"),
    "hqq-axis0": Encoding("hqq:decode_axis0", prepare="hqq:prepare"),
    "hqq-axis1": Encoding("hqq:decode_axis1", prepare="hqq:prepare"),
    "int4-pairs": Encoding("int4:decode_pairs", prepare="ct:prepare"),
    "int4-rows": Encoding("int4:decode_rows", prepare="ct:prepare"),
    "mlx-affine": Encoding("mlx:decode_affine", prepare="mlx:prepare"),
    "quanto-bits": Encoding("quanto:decode_bits", prepare="quanto:prepare_bits"),
    "quanto-bytes": Encoding("quanto:decode_bytes", prepare="quanto:prepare_bytes"),
    "quark-int4": Encoding("quark:decode_int4", prepare="awq:prepare"),
    "torchao-int4": Encoding("torchao:decode_int4"),
    "torchao-mxfp4-tiles": Encoding("torchao:decode_tiled_mx"),
    "torchao-mxfp8-e4m3-tiles": Encoding(
        "torchao:decode_tiled_e4m3", prepare="torchao:prepare_tiles"
    ),
    "torchao-mxfp8-e5m2-tiles": Encoding(
        "torchao:decode_tiled_e5m2", prepare="torchao:prepare_tiles"
    ),
    "torchao-nvfp4-tiles": Encoding("torchao:decode_tiled_nv", prepare="fp4:prepare_nv"),
}


# Who is told the name of each kernel that has to be compiled, just before.
watchers: list[Callable[[str], None]] = []


@contextmanager
def compiling(tell: Callable[[str], None]) -> Iterator[None]:
    """Have `tell` called, in any thread, with the name of each kernel that has to be compiled.

    That is seconds of work, on the first use of a kernel on a machine.
    """
    watchers.append(tell)
    try:
        yield
    finally:
        watchers.remove(tell)


def _load(target: str) -> Any:
    module, _, function = target.partition(":")
    return getattr(import_module(f"anamnesis.kernels.{module}"), function)


def decoder(name: str) -> Decode:
    """The decode function of an encoding; imports its module (and numba) on first use."""
    decode: Decode = _load(ENCODINGS[name].target)
    return decode


def preparer(name: str) -> Prepare | None:
    """The function that prepares an encoding's whole-tensor parameters, if it has any."""
    row = ENCODINGS[name]
    return _load(row.prepare) if row.prepare else None
