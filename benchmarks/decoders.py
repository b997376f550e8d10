"""Other people's decoders, each bound to one layer; `peers.py` has the table of them.

A function takes a `Problem` and gives a call without arguments that decodes it, or raises
AttributeError, KeyError or ValueError for a type that its library does not have.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from anamnesis.kernels import ENCODINGS
from benchmarks.models import Layer

ROOT = Path(__file__).resolve().parents[1]
Call = Callable[[], Any]
_FLOAT8 = {
    "fp8-e4m3": "float8_e4m3fn",
    "fp8-e4m3fnuz": "float8_e4m3fnuz",
    "fp8-e5m2": "float8_e5m2",
    "fp8-e5m2fnuz": "float8_e5m2fnuz",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A layer of an encoding as its tool stores it, and its decoded shape."""

    encoding: str
    layer: Layer
    shape: tuple[int, int]

    def __getitem__(self, suffix: str) -> Any:
        return next(e.array for e in self.layer.entries if e.suffix == suffix)

    def has(self, suffix: str) -> bool:
        return any(e.suffix == suffix for e in self.layer.entries)


def gguf_py(problem: Problem) -> Call:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType(_ggml_type(problem))
    blocks = problem["weight"]

    def call() -> Any:
        with np.errstate(all="ignore"):
            return dequantize(blocks, kind)

    return call


def libggml(problem: Problem) -> Call:
    library = libggml_base()
    library.ggml_type_name.restype = ctypes.c_char_p
    name = library.ggml_type_name(_ggml_type(problem)).decode()
    decode = getattr(library, f"dequantize_row_{name}")
    decode.argtypes, decode.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    blocks, out = problem["weight"], np.empty(problem.shape, np.float32)

    def call() -> Any:
        decode(blocks.ctypes.data, out.ctypes.data, out.size)
        return out

    return call


def ml_dtypes_numpy(problem: Problem) -> Call:
    kind = getattr(ml_dtypes, _FLOAT8[problem.encoding])
    codes, scale = problem["weight"].view(kind), _scale(problem)

    def call() -> Any:
        values = _blocks(codes.astype(np.float32), scale) * _beside(scale)
        return values.astype(ml_dtypes.bfloat16)

    return call


def torch_ops(problem: Problem) -> Call:
    import torch

    encoding = problem.encoding
    if encoding in ("bf16", "f16", "f32", "f64"):
        stored = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
        weight = torch.from_numpy(problem["weight"]).view(stored.get(encoding, torch.float64))
        to = torch.float32 if encoding == "bf16" else torch.bfloat16
        return lambda: weight.to(to)
    if encoding == "bnb-int8":
        codes, scb = torch.from_numpy(problem["weight"].view(np.int8)), problem["SCB"]
        rows = torch.from_numpy(scb / np.float32(127))[:, None]
        return lambda: (codes.to(torch.float32) * rows).to(torch.bfloat16)
    kind = getattr(torch, _FLOAT8[encoding])
    codes = torch.from_numpy(problem["weight"]).view(kind)
    scale = torch.from_numpy(_scale(problem))

    def call() -> Any:
        return (_blocks(codes.to(torch.float32), scale) * _beside(scale)).to(torch.bfloat16)

    return call


def bitsandbytes(problem: Problem) -> Call:
    import torch
    from bitsandbytes import functional as bnb

    if problem.encoding == "bnb-int8":
        codes = torch.from_numpy(problem["weight"].view(np.int8))
        scb = torch.from_numpy(problem["SCB"])
        return lambda: bnb.int8_vectorwise_dequant(codes, scb)
    stored = {
        e.suffix: torch.from_numpy(np.array(e.array))
        for e in problem.layer.entries
        if e.suffix != "weight"
    }
    state = bnb.QuantState.from_dict(stored, device=torch.device("cpu"))
    packed = torch.from_numpy(problem["weight"].reshape(-1, 1))
    return lambda: bnb.dequantize_4bit(packed, state)


def autoawq(problem: Problem) -> Call:
    dequantize = _unpacked("awq.utils.packing_utils").dequantize_gemm
    stored = [_words(problem, n) for n in ("qweight", "qzeros")]
    scales = _words(problem, "scales")
    return lambda: dequantize(*stored, scales, 4, 128).T


def gptqmodel(problem: Problem) -> Call:
    import torch

    linear = _unpacked("gptqmodel.nn_modules.qlinear.torch").TorchLinear
    correct = _unpacked("gptqmodel.utils.model_dequant")._correct_gptq_v1_qzeros
    outputs, inputs = problem.shape
    bits = problem["qweight"].shape[0] * 32 // inputs
    index = problem["g_idx"]
    shuffled = bool((np.diff(index) < 0).any())
    module = linear(bits, 128, False, shuffled, inputs, outputs, pack_dtype=torch.int32)
    module.train()  # the plain path of `dequantize_weight`, without its caches
    module.qweight, module.scales = _words(problem, "qweight"), _words(problem, "scales")
    module.qzeros = correct(_words(problem, "qzeros"), bits)
    module.g_idx = torch.from_numpy(index)
    module.post_init()
    return lambda: module.dequantize_weight().T


def packages() -> Path:
    """Where libraries lie that are used without what they depend on."""
    return Path(os.environ.get("ANAMNESIS_ORACLES", ROOT / ".venv")) / "packages"


def _unpacked(name: str) -> Any:
    """A module of theirs, by the loader that the tests use."""
    os.environ.setdefault("ANAMNESIS_ORACLES", str(packages().parent))
    folder = str(ROOT / "tests" / "oracles")
    if folder not in sys.path:
        sys.path.append(folder)
    with contextlib.redirect_stdout(io.StringIO()):  # banners
        return importlib.import_module("packed_libraries").load(name)


@cache
def libggml_base() -> Any:
    """libggml-python's library; KeyError without it."""
    spec = importlib.util.find_spec("libggml")
    if spec is None or spec.origin is None:
        raise KeyError("libggml")
    return ctypes.CDLL(str(Path(spec.origin).parent / "lib64" / "libggml-base.so"))


def _ggml_type(problem: Problem) -> int:
    number = ENCODINGS[problem.encoding].ggml_type
    if not 0 <= number < 133:  # ik_llama.cpp's are not in it
        raise KeyError(problem.encoding)
    return number


def _scale(problem: Problem) -> Any:
    name = "weight_scale_inv" if problem.has("weight_scale_inv") else "weight_scale"
    scale = np.ascontiguousarray(problem[name], np.float32)
    return scale.reshape(1, 1) if scale.size == 1 else scale


def _blocks(values: Any, scale: Any) -> Any:
    """`[rows, columns]` as `[block rows, rows, block columns, columns]`."""
    (rows, columns), (high, wide) = values.shape, scale.shape
    return values.reshape(high, rows // high, wide, columns // wide)


def _beside(scale: Any) -> Any:
    return scale[:, None, :, None]


def _words(problem: Problem, name: str) -> Any:
    import torch

    entry = next(e for e in problem.layer.entries if e.suffix == name)
    kind = {"I32": np.int32, "F16": np.float16}[entry.dtype]
    return torch.from_numpy(entry.array.view(kind).reshape(entry.shape))
