"""One table of cases: for every row of the table of encodings, layers as a tool would store them.

The tensors of a case's layer are written to a model file and opened by the package itself, so a
kernel is measured, and tested, on what a reader hands to it. A row of the table of encodings whose
family is known here has its case without an edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from anamnesis.kernels import ENCODINGS
from benchmarks import layers, vendor_layers
from benchmarks.models import Layer
from benchmarks.targets import TARGETS, goal

_FP4 = {"fp6-mx": "mxfp6", "fp4-mx": "mxfp4", "fp4-mx-columns": "mxfp4 gpt-oss", "fp4-nv": "nvfp4"}


@dataclass(frozen=True, slots=True)
class Case:
    """`make(rows, columns)` gives a layer in `encoding`; `settings` go to the output's `Spec`.

    `goal` is the part of a plain copy's speed that the kernel should reach on a whole matrix, and
    `target` what another implementation did, million elements a second on one thread.
    """

    name: str
    encoding: str
    make: Callable[[int, int], Layer]
    settings: dict[str, Any] = field(default_factory=dict)
    goal: float = 0.0
    target: int = 0


def _of(name: str, encoding: str, make: Callable[..., Layer], *first: Any, **settings: Any) -> Case:
    return Case(
        name,
        encoding,
        lambda rows, columns: make(*first, rows, columns),
        settings,
        goal(encoding),
        TARGETS.get(name, 0),
    )


def _cases_of(encoding: str) -> Iterator[Case]:
    """The cases of one row of the table of encodings."""
    if encoding in layers.DENSE:
        dtype = "f32" if encoding == "bf16" else "bf16"
        yield _of(f"{encoding} to {dtype}", encoding, layers.dense, encoding, passthrough=dtype)
    elif encoding.startswith("fp8-"):
        for per in ("block", "channel", "tensor") if encoding == "fp8-e4m3" else ("block",):
            yield _of(f"{encoding} {per}", encoding, layers.fp8, encoding, per)
    elif encoding == "folded":
        yield _of("nvfp4 awq", encoding, vendor_layers.nvfp4_awq)
    elif encoding == "aqlm":
        yield _of("aqlm 2x8 g8", encoding, vendor_layers.aqlm)
    elif encoding == "int4-pairs":
        yield _of("modelopt int4 g128", encoding, vendor_layers.modelopt_int4)
    elif encoding == "int4-rows":
        yield _of("comfy int4", encoding, vendor_layers.comfy_int4)
    elif encoding in _FP4:
        yield _of(_FP4[encoding], encoding, layers.fp4, encoding)
    elif encoding.startswith("gguf-"):
        yield _of(encoding, encoding, layers.gguf, encoding)
    elif encoding == "bitnet":
        yield _of("bitnet", encoding, layers.bitnet)
    elif encoding == "bnb-4bit":
        yield _of("bnb nf4", encoding, layers.bnb_4bit, False)
        yield _of("bnb nf4 nested", encoding, layers.bnb_4bit, True)
    elif encoding == "bnb-int8":
        yield _of("bnb int8", encoding, layers.bnb_int8)
    elif encoding == "ct-int8":
        yield _of("ct int8", encoding, layers.ct_int8)
    elif encoding == "ct-packed":
        for bits in (4, 8, 3):
            yield _of(f"ct packed int{bits} g128", encoding, layers.ct_packed, bits, False)
        yield _of("ct packed int4 g128 asym", encoding, layers.ct_packed, 4, True)
    elif encoding.startswith("hqq"):
        axis = int(encoding[-1])
        for bits in (4, 8, 3, 2, 1):
            yield _of(f"hqq int{bits} axis {axis}", encoding, layers.hqq, bits, axis)
    elif encoding.startswith("quanto"):
        for kind in ("int8", "float8") if encoding == "quanto-bytes" else ("int4", "int2"):
            yield _of(f"quanto {kind}", encoding, layers.quanto, kind)
    elif encoding.startswith("gptq"):
        for bits in (4, 8, 3, 2):
            yield _of(f"gptq int{bits} g128", encoding, layers.gptq, bits, False)
        yield _of("gptq int4 act-order", encoding, layers.gptq, 4, True)
    elif encoding == "mlx-affine":
        for bits in (4, 8, 6, 5, 3, 2):
            yield _of(f"mlx int{bits} g{layers.MLX_GROUP}", encoding, layers.mlx, bits)
    elif encoding == "quark-int4":
        yield _of("quark int4 g128", encoding, layers.quark)
    elif encoding == "torchao-int4":
        yield _of("torchao int4 g128", encoding, layers.torchao_int4)
    elif encoding.startswith("torchao-"):
        kind = encoding.removeprefix("torchao-").removesuffix("-tiles")
        yield _of(f"torchao {kind} tiles", encoding, layers.torchao_tiles, kind)
    elif encoding.startswith("awq"):
        version = encoding.removeprefix("awq-").replace("-", "_")
        name = "" if version == "gemm" else f" {version.replace('_', '-')}"
        yield _of(f"awq int4 g128{name}", encoding, layers.awq, version)


CASES: dict[str, Case] = {c.name: c for encoding in ENCODINGS for c in _cases_of(encoding)}
