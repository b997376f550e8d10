"""Make the SpQR layouts in this folder.

    cd / && SPQR=…/SpQR/inference_lib/src/spqr_quant python …/tests/data/layouts/make_spqr.py

Needs https://github.com/Vahe1994/SpQR (543d10e), g++ for x86 with F16C, torch 2.13.0 (CPU) and
safetensors. Layers are packed by its `tensor_compress_interleaved`, with `merge_col_val` and
`init_ptcsr`, and recovered by its `dequantize_compressed`, which run on the host and are compiled
here without CUDA and PyTorch. In one build they compute in binary16 as they are written
(`reference.safetensors`), in the other in float, for the values that are expected. The order of the
inputs is undone as `spqr_quantized_matvec_fused` applies it: stored column `k` is of the input
`in_perm[k]`. Codes are random: any are valid.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layout_files import HERE, Tensors, bf16_bits, write
from safetensors.torch import save_file

SOURCES = Path(os.environ.get("SPQR", ""))
SHIM = """#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <immintrin.h>
#include <vector>
#define __host__
#define __device__
#define __forceinline__ inline
struct half {
    uint16_t bits;
    explicit operator int() const { return (int) _cvtsh_ss(bits); }
};
typedef half __half;
struct half2 { half x, y; };
static inline float __half2float(half h) { return _cvtsh_ss(h.bits); }
static inline half __float2half_rn(float v) { return {_cvtss_sh(v, 0)}; }
static inline half __float2half_rd(float v) { return {_cvtss_sh(v, 1)}; }
static inline half operator-(half a, half b) {
    return __float2half_rn(__half2float(a) - __half2float(b));
}
static inline half operator*(half a, half b) {
    return __float2half_rn(__half2float(a) * __half2float(b));
}
struct wide {
    float v;
    wide() = default;
    wide(float v) : v(v) {}
    wide(half h) : v(__half2float(h)) {}
    explicit operator int() const { return (int) v; }
};
static inline wide operator-(wide a, wide b) { return a.v - b.v; }
static inline wide operator*(wide a, wide b) { return a.v * b.v; }
static inline float __half2float(wide w) { return w.v; }
static inline wide kept(float v) { return v; }
namespace torch {
enum Kind { kChar, kHalf, kInt };
struct Tensor {
    void* p; long n; Kind kind;
    void* data_ptr() const { return p; }
    template <class T> T* data_ptr() const { return static_cast<T*>(p); }
    std::vector<long> sizes() const { return {n}; }
    Kind dtype() const { return kind; }
};
}
#define TORCH_CHECK(condition, text) if (!(condition)) throw text;
"""
CALLS = """
using torch::Tensor; using torch::kChar; using torch::kHalf; using torch::kInt;
extern "C" void dequantize(int m, int n, void* w, void* rows, int count, void* vals, int nnz,
    void* out) {
    dequantize_compressed(m, n, 3, 16, 16, Tensor{w}, Tensor{rows, count}, Tensor{vals}, nnz,
        Tensor{out});
}
extern "C" void compress(int m, int n, int by_tile, void** p) {
    tensor_compress_interleaved(m, n, 3, Tensor{p[0], 0, kChar}, 16, 16, Tensor{p[1], 0, kChar},
        Tensor{p[2], 0, kChar}, Tensor{p[3], 0, kHalf}, Tensor{p[4], 0, kHalf},
        Tensor{p[5], 0, kHalf}, Tensor{p[6], 0, kHalf}, Tensor{p[7]}, Tensor{p[8]}, Tensor{p[9]},
        Tensor{p[10]}, by_tile, Tensor{p[11]});
}
"""


def compiled(folder: Path, narrow: bool) -> Any:
    """The library with SpQR's functions of the host, in binary16 or in float."""
    common = (SOURCES / "inference_kernels/common.cuh").read_text()
    common = common[: common.index("#define CHECK_CUDA")].replace("#include <cuda", "//")
    text = (SOURCES / "inference_kernels/spqr_cuda.cpp").read_text()
    ends = ("// Function to convert an integer", "void torch_mul_timer(")
    computed = text[slice(*map(text.index, ends))]
    ends = ("void dequantize_compressed(", "void spqr_mul_timer(int m")
    computed += text[slice(*map(text.index, ends))]
    ends = ("enum class Sparse", "void spqr_mul_fused(")
    packed = text[slice(*map(text.index, ends))]
    if not narrow:
        start = computed.index("template<class Bit_t")
        wide = re.sub(r"\bhalf\b", "wide", computed[start:]).replace("__float2half_rn", "kept")
        computed = computed[:start] + wide
    source = folder / f"kernel_{narrow}.cpp"
    source.write_text(SHIM + common.replace("#pragma once", "") + computed + packed + CALLS)
    library = source.with_suffix(".so")
    options = ["-O1", "-std=c++20", "-mf16c", "-shared", "-fPIC", "-fpermissive", "-w"]
    command = ["g++", *options, "-ffp-contract=off", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def sparse_util() -> Any:
    """SpQR's module of that name, whose package imports its kernels."""
    spec = importlib.util.spec_from_file_location("sparse_util", SOURCES / "sparse_util.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def layer(library: Any, rows: int, inputs: int, by_tile: bool, density: float) -> Tensors:
    """What `QuantizedLinear.from_legacy` stores of a layer of random parts."""
    tiles = rows // 16 * (inputs // 16)
    counts = rows * inputs, tiles * 16, tiles * 16
    codes = [torch.randint(0, 8, (count,)).char() for count in counts]
    parts = [torch.rand(tiles) * most for most in (0.02, 7, 1, 7)]
    # Outliers of a row in the order of their columns; one row has none.
    chosen = torch.rand(rows, inputs) < density
    chosen[3] = False
    offsets = torch.cat([torch.zeros(1), chosen.sum(1).cumsum(0)]).int()
    columns = torch.where(chosen)[1].short()
    util = sparse_util()
    values = util.merge_col_val(columns, torch.randn(len(columns)).half())
    kept, room = util.init_ptcsr(offsets) if by_tile else (offsets, values)
    dense = torch.zeros(tiles * 16, dtype=torch.int64)
    arrays = [*codes, *(part.half() for part in parts), offsets, kept, values, room, dense]
    pointers = (ctypes.c_void_p * len(arrays))(*(array.data_ptr() for array in arrays))
    library.compress(rows, inputs, int(by_tile), pointers)
    order = torch.from_numpy(torch.randperm(inputs).numpy().astype(np.uint16).view(np.int32))
    return {"dense_weights": dense, "row_offsets": kept, "col_vals": room, "in_perm": order}


def recovered(library: Any, stored: Tensors, rows: int, inputs: int, narrow: bool) -> torch.Tensor:
    out = torch.zeros(rows, inputs, dtype=torch.float16 if narrow else torch.float32)
    dense, offsets, values = (stored[k] for k in ("dense_weights", "row_offsets", "col_vals"))
    library.dequantize(
        rows, inputs, pointer(dense), pointer(offsets), len(offsets), pointer(values), len(values),
        pointer(out),
    )  # fmt: skip
    back = torch.empty_like(out)
    back[:, torch.from_numpy(stored["in_perm"].numpy().view(np.uint16).astype(np.int64))] = out
    return back


def make(folder: str, rows: int, inputs: int, by_tile: bool, density: float = 0.02) -> Tensors:
    """Write a layer; what it is in SpQR's own roundings."""
    with tempfile.TemporaryDirectory() as place:
        exact, half = (compiled(Path(place), narrow) for narrow in (False, True))
        stored = layer(half, rows, inputs, by_tile, density)
        values = recovered(exact, stored, rows, inputs, narrow=False)
        narrow = recovered(half, stored, rows, inputs, narrow=True)
    shapes = {f"a.{name}.shape": len(tensor) for name, tensor in stored.items()}
    block = {"quant_method": "spqr", "bits": 3, "beta1": 16, "beta2": 16, "shapes": shapes}
    named = {f"a.{name}": tensor for name, tensor in stored.items()}
    write(f"spqr/{folder}", named, {"a.weight": values}, {"quantization_config": block})
    return {folder: narrow}


if __name__ == "__main__":
    torch.manual_seed(47)
    values = make("csr", 48, 160, by_tile=False)
    values |= make("ptcsr", 64, 96, by_tile=True, density=0.05)
    values |= make("no-outliers", 32, 64, by_tile=False, density=0.0)
    bits = {name: bf16_bits(value) for name, value in values.items()}
    save_file(bits, HERE / "spqr" / "reference.safetensors")
