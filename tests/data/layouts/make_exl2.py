"""Make the EXL2 layouts in this folder.

    cd / && EXLLAMAV2_EXT=…/exllamav2/exllamav2_ext python …/tests/data/layouts/make_exl2.py

Needs the sources of PyPI exllamav2 0.3.2, g++ for x86 with F16C, torch 2.13.0 (CPU), safetensors.
ExLlamaV2 runs on GPUs alone: its `reconstruct_kernel` is compiled for the CPU here, thread by
thread, with the readings of codes that its `config.h` has beside the shuffled ones. Its numbers are
floats in one build, for the values that are expected, and rounded to binary16 after every operation
in the other, as on a GPU: `reference.safetensors`. Codes are random: any are valid.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from layout_files import HERE, Tensors, bf16_bits, write
from safetensors.torch import save_file

EXTENSION = Path(os.environ.get("EXLLAMAV2_EXT", ""))
SHIM = """#pragma once
#include <algorithm>
#include <cstdint>
#include <immintrin.h>
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
using std::min;
struct half { float v; };
struct half2 { half x, y; };
struct dim3_ { int x, y; };
static dim3_ threadIdx, blockIdx;
static inline float rounded(float v) {
#ifdef NARROW
    return _cvtsh_ss(_cvtss_sh(v, 0));
#else
    return v;
#endif
}
static inline void __syncthreads() {}
static inline half __int2half_rn(int v) { return {rounded((float) v)}; }
static inline half __float2half_rn(float v) { return {rounded(v)}; }
static inline half __hmul(half a, half b) { return {rounded(a.v * b.v)}; }
static inline half2 __halves2half2(half a, half b) { return {a, b}; }
static inline half2 __half2half2(half a) { return {a, a}; }
static inline half2 __hmul2(half2 a, half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
static inline half2 __hadd2(half2 a, half2 b) {
    return {{rounded(a.x.v + b.x.v)}, {rounded(a.y.v + b.y.v)}};
}
static inline half2 __hfma2(half2 a, half2 b, half2 c) { return __hadd2(__hmul2(a, b), c); }
static inline half __low2half(half2 a) { return a.x; }
static inline half __high2half(half2 a) { return a.y; }
static inline float __half2float(half a) { return a.v; }
static inline uint32_t __funnelshift_rc(uint32_t lo, uint32_t hi, int shift) {
    return (uint32_t) ((((uint64_t) hi << 32) | lo) >> shift);
}
"""
CALL = """
extern "C" void reconstruct(const uint32_t* w, const uint16_t* perm, const uint32_t* scale,
    const float* most, const uint16_t* map, int k, int n, int groups, float* out, const int* r) {
    for (blockIdx.y = 0; blockIdx.y * 128 < k; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x * 128 < n; blockIdx.x++)
    for (int columns = 0; columns <= n; columns += n)  // first fill what threads share
    for (threadIdx.x = 0; threadIdx.x < 128; threadIdx.x++)
        reconstruct_kernel(w, perm, scale, (const half*) most, map, k, columns, groups, (half*) out,
            r[0], r[1], r[2], r[3], r[4], r[5], 0, k);
}
"""


def compiled(folder: Path, narrow: bool) -> Any:
    """The library with ExLlamaV2's kernel, rounding to binary16 or not."""
    (folder / "cuda/quant").mkdir(parents=True, exist_ok=True)
    for name in ("cuda_runtime.h", "cuda_fp16.h"):
        (folder / name).write_text('#include "shim.h"\n')
    (folder / "shim.h").write_text(SHIM)
    settings = (EXTENSION / "config.h").read_text()
    (folder / "config.h").write_text(re.sub(r"(QMODE_\dBIT) 1", r"\1 0", settings))
    for path in (*(EXTENSION / "cuda/quant").glob("qdq_*.cuh"), EXTENSION / "cuda/matrix_view.cuh"):
        (folder / path.relative_to(EXTENSION)).write_text(path.read_text())
    text = (EXTENSION / "cuda/q_matrix.cu").read_text()
    kernel = text[text.index("// Reconstruct b[k,n]\n\n") : text.index("void QMatrix::reconstruct")]
    parts = [f"quant/qdq_{bits}.cuh" for bits in (2, 3, 4, 5, 6, 8)]
    includes = "".join(f'#include "{name}"\n' for name in ("../shim.h", "matrix_view.cuh", *parts))
    source = folder / "cuda" / f"kernel_{narrow}.cpp"
    source.write_text(f"{includes}#define BLOCK_KN_SIZE 128\n{kernel}{CALL}")
    options = [
        "-O1",
        "-std=c++17",
        "-mf16c",
        "-shared",
        "-fPIC",
        "-fpermissive",
        "-w",
        f"-I{folder}",
    ]
    options += ["-ffp-contract=off", *(["-DNARROW"] if narrow else [])]
    library = source.with_suffix(".so")
    subprocess.run(["g++", *options, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def reconstructed(library: Any, stored: Tensors, counts: list[tuple[int, int]], most: Any) -> Any:
    """What the kernel makes of a layer, float32 `[in, out]`."""
    inputs, outputs = len(stored["q_invperm"]), stored["q_weight"].shape[1]
    perm = torch.argsort(stored["q_invperm"]).to(torch.int16)  # as ExLlamaV2 loads it
    group_map: list[int] = []
    for number, (_, rows) in enumerate(counts):
        for row in range(rows):
            group_map += [number, rows - row]
    ends, total = [], 0
    for width in (8, 6, 5, 4, 3, 2):
        total += sum(rows for bits, rows in counts if bits == width)
        ends.append(total)
    out = torch.zeros(inputs, outputs)
    arrays = [stored["q_weight"], perm, stored["q_scale"], most.float().contiguous()]
    arrays += [torch.tensor(group_map, dtype=torch.int16)]
    pointers = [ctypes.c_void_p(array.data_ptr()) for array in arrays]
    library.reconstruct(
        *pointers, inputs, outputs, len(counts), ctypes.c_void_p(out.data_ptr()),
        (ctypes.c_int * 6)(*ends),
    )  # fmt: skip
    return out


def make(folder: str, counts: list[tuple[int, int]], outputs: int, scale: float) -> Tensors:
    """A layer of groups, each `(bits, rows)`, the widest first; the reference's values of it."""
    inputs = sum(rows for _, rows in counts)
    lines = [bits * rows // 32 for bits, rows in counts]
    starts = [sum(lines[:number]) for number in range(len(lines))]
    words = (sum(lines), outputs)
    stored = {
        "q_weight": torch.randint(-(1 << 31), 1 << 31, words).int(),
        "q_groups": torch.tensor(
            [
                number
                for (bits, _), start in zip(counts, starts, strict=True)
                for number in (bits, start)
            ]
        ).short(),
        "q_scale": torch.randint(-(1 << 31), 1 << 31, (len(counts), outputs // 8)).int(),
        "q_scale_max": (torch.rand(len(counts)) * scale).half(),
        "q_invperm": torch.randperm(inputs).int(),
    }
    with tempfile.TemporaryDirectory() as place:
        exact, narrow = (compiled(Path(place), kind) for kind in (False, True))
        most = stored["q_scale_max"].float() / 256
        wide = reconstructed(exact, stored, counts, most)
        half = reconstructed(narrow, stored, counts, most.half())
    about = {"quantization_config": {"quant_method": "exl2", "version": "0.3.2", "bits": 4.0}}
    named = {f"a.{name}": value for name, value in stored.items()}
    write(f"exllamav2/{folder}", named, {"a.weight": wide.T}, about)
    return {folder: half.T}


if __name__ == "__main__":
    torch.manual_seed(31)
    every = [(8, 32), (6, 64), (5, 32), (4, 64), (4, 32), (3, 32), (2, 64)]
    values = make("every-width", every, 136, 4.0)
    values |= make("4-and-2-bits", [(4, 128), (4, 128), (2, 48)], 64, 0.001)
    bits = {name: bf16_bits(value) for name, value in values.items()}
    save_file(bits, HERE / "exllamav2" / "reference.safetensors")
    print(json.dumps({name: list(value.shape) for name, value in values.items()}))
