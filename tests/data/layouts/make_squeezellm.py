"""Make the SqueezeLLM layouts in this folder, as its `pack.py` saves them.

    cd / && SQUEEZELLM=…/SqueezeLLM/squeezellm python …/tests/data/layouts/make_squeezellm.py

Needs https://github.com/SqueezeAILab/SqueezeLLM (a5fd71f), g++, torch 2.13.0 (CPU), numpy and
safetensors. Layers are packed by its `QuantLinearLUT.pack2`. Its kernels are for GPUs: they are
compiled for the CPU here, thread by thread, and what they make of unit vectors are the values that
are expected. Channels that a hybrid layer keeps whole no packer of it writes: random ones are put
where `QuantLinearLUT` registers them.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
from layout_files import HERE, Tensors, bf16_bits
from safetensors.torch import save_file

SOURCES = Path(os.environ.get("SQUEEZELLM", ""))
SIZE = 128  # of a block of the kernels: both sides of a layer are multiples
SHIM = """
#define __global__
#define __device__
#define __shared__ static
struct dim3_ { int x, y; };
static dim3_ threadIdx, blockIdx, blockDim;
static bool filling;  // what threads share, in a first round
static void __syncthreads() {}
static void atomicAdd(float* to, float value) { if (!filling) *to += value; }
"""
# Rows of words or of inputs to a block's height.
CALLS = """
template <class F> static void launch(int down, int across, F run) {
    blockDim = {BLOCKWIDTH, 1};
    for (blockIdx.x = 0; blockIdx.x < down; blockIdx.x++)
    for (blockIdx.y = 0; blockIdx.y < across; blockIdx.y++)
    for (int round = 0; round < 2; round++) {
        filling = !round;
        for (threadIdx.x = 0; threadIdx.x < BLOCKWIDTH; threadIdx.x++) run();
    }
}
extern "C" void codes(int bits, const float* x, const int* mat, float* y, const float* table, int h,
    int w) {
    if (bits == 3) launch(h / BLOCKHEIGHT3, w / BLOCKWIDTH, [&] {
        VecQuant3MatMulKernelNUQPerChannel(x, mat, y, table, h, w); });
    else launch(h / BLOCKHEIGHT4, w / BLOCKWIDTH, [&] {
        VecQuant4MatMulKernelNUQPerChannel(x, mat, y, table, h, w); });
}
extern "C" void sparse(const int* rows, const int* cols, const float* vals, const float* x,
    float* y, int n) {
    launch(n / BLOCKWIDTH, 1, [&] { SPMV_ATOMIC<float>(rows, cols, vals, x, y, n); });
}
extern "C" void whole(const float* x, const float* full, const int* indices, float* y, int h,
    int w) {
    launch(h / BLOCKWIDTH, 1, [&] { DenseMatVecKernel(x, full, indices, y, h, w); });
}
"""


def compiled(folder: Path) -> Any:
    """The library with SqueezeLLM's kernels."""
    text = (SOURCES / "quant_cuda_kernel.cu").read_text()
    names = ("VecQuant3MatMulKernelNUQPerChannel", "VecQuant4MatMulKernelNUQPerChannel")
    parts = [text[text.index("const int BLOCKWIDTH") : text.index("__device__ inline int as_int")]]
    for name in (*names, "SPMV_ATOMIC", "DenseMatVecKernel"):
        start = text.rindex(f"__global__ void {name}(\n")  # declarations stand before
        end = text.find("__global__", start + 1)
        end = text.rfind("}\n", start, end) + 2
        template = "template <typename scalar_t>\n" if name == "SPMV_ATOMIC" else ""
        parts.append(template + text[start:end])
    source = folder / "kernel.cpp"
    source.write_text(SHIM + "".join(parts) + CALLS)
    library = source.with_suffix(".so")
    options = ["-O1", "-shared", "-fPIC", "-w", "-ffp-contract=off"]
    subprocess.run(["g++", *options, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def recovered(library: Any, bits: int, stored: Tensors) -> torch.Tensor:
    """The layer's product with every unit vector, float32 `[out, in]`."""
    lines, outputs = stored["qweight"].shape
    inputs = lines * 32 // bits
    products = torch.zeros(inputs, outputs)
    table = stored["lookup_table"]
    for x, y in zip(torch.eye(inputs), products, strict=True):
        library.codes(
            bits, pointer(x), pointer(stored["qweight"]), pointer(y), pointer(table), lines, outputs
        )
        if "rows" in stored:
            sparse = [pointer(stored[name]) for name in ("rows", "cols", "vals")]
            library.sparse(*sparse, pointer(x), pointer(y), outputs)
        if "full_rows" in stored:
            full, indices = stored["full_rows"], stored["full_row_indices"]
            width = full.shape[1]
            library.whole(pointer(x), pointer(full), pointer(indices), pointer(y), inputs, width)
    return products.T


def layer(bits: int, outputs: int, inputs: int, sparse: bool, balanced: bool) -> Any:
    """A `QuantLinearLUT` of random codes, tables and outliers."""
    from quant import QuantLinearLUT

    module = QuantLinearLUT(bits, inputs, outputs, True, sparse, balanced=balanced)
    linear = torch.nn.Linear(inputs, outputs)
    tables = [torch.randn(2**bits).sort().values.numpy() for _ in range(outputs)]
    codes = torch.randint(0, 2**bits, (outputs, inputs)).numpy()
    lut = [[pair] for pair in zip(tables, codes, strict=True)]
    outliers = torch.randn(outputs, inputs) * (torch.rand(outputs, inputs) < 0.02)
    outliers[5] = 0
    module.pack2(linear, (lut, outliers.to_sparse()), sparse, num_nonzero_per_thread=10)
    return module


def make(folder: str, bits: int, outputs: int, inputs: int, *, kind: str) -> None:
    """Write a layer; `kind` is dense, sparse, balanced or hybrid."""
    module = layer(bits, outputs, inputs, kind != "dense", kind == "balanced")
    stored = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    if kind == "hybrid":
        stored["full_rows"] = torch.randn(inputs, 3)
        stored["full_row_indices"] = torch.tensor([7, 0, outputs - 1]).int()
    with tempfile.TemporaryDirectory() as place:
        values = recovered(compiled(Path(place)), bits, stored)
    saved: dict[str, Any] = {f"a.{name}": tensor for name, tensor in stored.items()}
    if kind != "dense":
        saved["sparse_threshold.a"] = stored["vals"].shape[-1]
    path = HERE / "squeezellm" / folder
    path.mkdir(parents=True, exist_ok=True)
    torch.save(saved, path / "model.pt")
    (path / "quant_config.json").write_text(json.dumps({"wbits": bits}, indent=4))
    bits_of = {"a.weight": bf16_bits(values), "a.bias": bf16_bits(stored["bias"])}
    save_file(bits_of, path / "expected.safetensors")


if __name__ == "__main__":
    sys.modules["quant_cuda"] = types.ModuleType("quant_cuda")  # its kernels, for a GPU
    sys.path.insert(0, str(SOURCES))
    torch.manual_seed(48)
    make("w3-dense", 3, SIZE, 2 * SIZE, kind="dense")
    make("w3-balanced", 3, SIZE, SIZE, kind="balanced")
    make("w4-sparse", 4, SIZE, SIZE, kind="sparse")
    make("w4-hybrid", 4, SIZE, SIZE, kind="hybrid")
