"""Other people's decoders of the same layers, one thread, as their users call them.

A peer decodes to the dtype of its own choice; it is compared with ours to float32 when that is
float32, else with ours to BF16. What it allocates in its call is part of the call. Every result is
checked against ours first. Packages that are not installed are left out; `make bench-peers`
installs them.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
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
    library = _libggml()
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


@dataclass(frozen=True, slots=True)
class Peer:
    """`bind` makes a call that gives the decoded layer, or raises for a type it does not have."""

    name: str
    module: str  # whose absence leaves it out
    encodings: tuple[str, ...]  # beginnings of names
    out: str
    bind: Callable[[Problem], Call]


_DENSE = ("bf16", "f16", "f32", "f64")
PEERS = (
    Peer("AutoAWQ", "awq", ("awq-gemm",), "float16", autoawq),
    Peer("GPTQModel", "gptqmodel", ("gptq",), "float16", gptqmodel),
    Peer("bitsandbytes", "bitsandbytes", ("bnb-4bit",), "bfloat16", bitsandbytes),
    Peer("bitsandbytes", "bitsandbytes", ("bnb-int8",), "float32", bitsandbytes),
    Peer("gguf-py", "gguf", ("gguf-",), "float32", gguf_py),
    Peer("libggml", "libggml", ("gguf-",), "float32", libggml),
    Peer("numpy + ml_dtypes", "ml_dtypes", ("fp8-",), "bfloat16", ml_dtypes_numpy),
    Peer("torch", "torch", ("bf16",), "float32", torch_ops),
    Peer("torch", "torch", ("f16", "f32", "f64", "fp8-", "bnb-int8"), "bfloat16", torch_ops),
)


def calls(problem: Problem, ours: Any) -> Iterator[tuple[Peer, Call]]:
    """The peers that decode this layer, each checked against `ours`, float32 `[rows * columns]`."""
    with warnings.catch_warnings(action="ignore"):
        for peer in PEERS:
            if not problem.encoding.startswith(peer.encodings) or not available(peer.module):
                continue
            try:
                call = peer.bind(problem)
            except (AttributeError, KeyError, ValueError):
                continue  # a type that it does not have
            try:
                found = call()
            except NotImplementedError:
                continue
            if problem.encoding != "gguf-nvfp4":  # its scale of the tensor is not in the block
                _compare(peer, problem, found, ours)
            yield peer, call


def _compare(peer: Peer, problem: Problem, found: Any, ours: Any) -> None:
    if hasattr(found, "detach"):
        found = found.detach().float().numpy()
    theirs = np.asarray(found).astype(np.float32).reshape(-1)
    if not np.allclose(theirs, ours, rtol=0.02, atol=float(np.abs(ours).max()) * 2e-3):
        raise ArithmeticError(f"{peer.name} and {problem.encoding}: other numbers")


@cache
def available(module: str) -> bool:
    if module in ("awq", "gptqmodel"):
        return (_packages() / module).is_dir() and available("torch")
    if importlib.util.find_spec(module) is None:
        return False
    if module in ("bitsandbytes", "torch"):
        import torch

        torch.set_num_threads(1)
    return True


def installed() -> dict[str, str]:
    """The version of every peer that is there."""
    from importlib.metadata import distributions, version

    names = {"gguf-py": "gguf", "libggml": "libggml-python", "numpy + ml_dtypes": "ml_dtypes"}
    found = {}
    for peer in PEERS:
        if not available(peer.module):
            continue
        if peer.module in ("awq", "gptqmodel"):
            by_name = {d.name.lower(): d.version for d in distributions(path=[str(_packages())])}
            found[peer.name] = by_name[peer.name.lower()]
        else:
            found[peer.name] = version(names.get(peer.name, peer.name))
    return found


def _packages() -> Path:
    """Where libraries lie that are used without what they depend on."""
    return Path(os.environ.get("ANAMNESIS_ORACLES", ROOT / ".venv")) / "packages"


def _unpacked(name: str) -> Any:
    """A module of theirs, by the loader that the tests use."""
    os.environ.setdefault("ANAMNESIS_ORACLES", str(_packages().parent))
    folder = str(ROOT / "tests" / "oracles")
    if folder not in sys.path:
        sys.path.append(folder)
    with contextlib.redirect_stdout(io.StringIO()):  # banners
        return importlib.import_module("packed_libraries").load(name)


@cache
def _libggml() -> Any:
    spec = importlib.util.find_spec("libggml")
    if spec is None or spec.origin is None:
        raise KeyError("libggml")
    return ctypes.CDLL(str(Path(spec.origin).parent / "lib64" / "libggml-base.so"))


def _ggml_type(problem: Problem) -> int:
    number = ENCODINGS[problem.encoding].ggml_type
    if number < 0:
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
