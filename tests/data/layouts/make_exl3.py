"""Make the EXL3 layouts in this folder.

    cd / && PYTHONPATH=GPTQModel EXL3_DQ=…/exl3_dq.cuh python …/tests/data/layouts/make_exl3.py

Needs GPTQModel 7.7.0 (unpacked, on the module path), torch 2.13.0 (CPU), scipy and safetensors, and
for half bits g++ and exllamav3 1.6.5's `exllamav3_ext/quant/exl3_dq.cuh`, of which the functions
that find a tile's states are compiled for the CPU.
States, their order in a tile and the codebooks are GPTQModel's `ExllamaV3TorchLinear`; its numbers
of a codebook are rounded to binary16 here, as exllamav3's `codebook.cuh` has them, which runs on
GPUs alone. The rotation is scipy's Hadamard matrix in double. Trellises are random: any is valid.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from gptqmodel.nn_modules import exllamav3_torch
from safetensors.torch import save_file
from scipy.linalg import hadamard

HERE = Path(__file__).resolve().parent / "exllamav3"
MULTIPLIERS = {"mcg": 0xCBAC1FED, "mul1": 0x83DCD12D}
torch.manual_seed(23)
in_float32 = exllamav3_torch._codebook_lut


def in_binary16(kind: str, device: str, index: int | None) -> torch.Tensor:
    """The codebook as exllamav3's kernels have it."""
    if kind == "mul1":  # a fused multiply-add: one rounding
        sums = (torch.arange(1 << 16) * MULTIPLIERS[kind] & 0xFFFFFFFF)[:, None]
        total = (sums >> torch.tensor([0, 8, 16, 24]) & 0xFF).sum(1) + 0x6400
        halves = total.to(torch.uint16).view(torch.float16).double()
        scale, bias = exllamav3_torch._EXL3_MUL1_INV, exllamav3_torch._EXL3_MUL1_BIAS
        return (halves * scale + bias).half().float()
    return in_float32(kind, device, index).half().float()


exllamav3_torch._codebook_lut = in_binary16

SHIM = """#include <cstdint>
#define __device__
#define __forceinline__ inline
struct half2 { uint32_t x, y; };
struct FragB { half2 v[2]; half2& operator[](int i) { return v[i]; } };
template <int cb> half2 decode_3inst_2(uint32_t x, uint32_t y) { return {x, y}; }
"""
CALL = """extern "C" void states(const uint32_t* words, uint32_t* out) {
    for (int lane = 0; lane < 32; lane++) {
        FragB f[2];
        dq8_half<WHOLE, 2>(words, lane * 8, f[0], f[1]);
        for (int i = 0; i < 8; i++)
            out[lane * 8 + i] = i % 2 ? f[i / 4][i / 2 % 2].y : f[i / 4][i / 2 % 2].x;
    }
}
"""


def half_states(trellis: torch.Tensor, whole: int) -> torch.Tensor:
    """The states of all tiles of `whole` and a half bits, by exllamav3's `dq8_half`."""
    text = Path(os.environ["EXL3_DQ"]).read_text()
    shift = text[text.index("__device__ __forceinline__ uint32_t fshift") :]
    states = text[text.index("template <int KA, int cb>") :]
    source = SHIM + shift[: shift.index("template")] + states[: states.index("template", 9)] + CALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "states.cpp"
        path.write_text(source)
        command = ["g++", "-O1", "-std=c++17", "-shared", "-fPIC", f"-DWHOLE={whole}", str(path)]
        subprocess.run([*command, "-o", str(path.with_suffix(".so"))], check=True)
        library: Any = ctypes.CDLL(str(path.with_suffix(".so")))
        found = torch.empty((*trellis.shape[:2], 256), dtype=torch.int32)
        for tile, out in zip(trellis.flatten(0, 1), found.flatten(0, 1), strict=True):
            library.states(ctypes.c_void_p(tile.data_ptr()), ctypes.c_void_p(out.data_ptr()))
    return found.long()


def make(folder: str, bits: float, kind: str, inputs: int, outputs: int, packed: bool) -> None:
    """One layer `a`; `packed` signs are those of older files."""
    tile = (inputs // 16, outputs // 16, int(16 * bits))
    trellis = torch.randint(-(1 << 15), 1 << 15, tile, dtype=torch.int16)
    stored = {"trellis": trellis}
    if packed:
        for name, count in (("su", inputs), ("sv", outputs)):
            stored[name] = torch.randint(-(1 << 15), 1 << 15, (count // 16,), dtype=torch.int16)
        suh, svh = (
            torch.where((stored[name].int()[:, None] >> torch.arange(16) & 1) > 0, -1.0, 1.0)
            .flatten()
            .double()
            for name in ("su", "sv")
        )
    else:
        stored["suh"] = torch.randn(inputs).half()
        stored["svh"] = (torch.randn(outputs) / 64).half()
        suh, svh = stored["suh"].double(), stored["svh"].double()
    if kind in MULTIPLIERS:
        stored[kind] = torch.tensor(MULTIPLIERS[kind], dtype=torch.uint32).view(torch.int32)
    layer = exllamav3_torch.ExllamaV3TorchLinear.from_tensors(
        in_features=inputs, out_features=outputs, name="a", tensors=stored
    )
    if bits % 1:
        states = half_states(trellis, int(bits))
        layer._unpack_indices = lambda first=0, last=None: states[:, first:last]
    turn = torch.tensor(hadamard(128)).double()
    inner = layer._decode_inner_weight().double().view(-1, 128, outputs // 128, 128)
    mixed = torch.einsum("ij,ajbk,kl->aibl", turn, inner, turn).reshape(inputs, outputs) / 128
    weight = (mixed * suh[:, None] * svh[None, :]).T.float()
    path = HERE / folder
    path.mkdir(parents=True, exist_ok=True)
    named = {f"a.{name}": value.contiguous() for name, value in stored.items()}
    save_file(named, path / "model.safetensors", {"format": "pt"})
    expected = weight.to(torch.bfloat16).contiguous().view(torch.uint16)
    save_file({"a.weight": expected}, path / "expected.safetensors")
    config = {
        "quantization_config": {"quant_method": "exl3", "bits": bits, "checkpoint_format": "exl3"}
    }
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    make("3-bits", 3, "3inst", 256, 128, packed=False)
    make("4-bits-mcg", 4, "mcg", 128, 256, packed=False)
    make("5-bits-mul1", 5, "mul1", 128, 128, packed=False)
    make("1-bit-signs", 1, "3inst", 128, 256, packed=True)
    make("1-and-a-half-bits", 1.5, "mul1", 128, 256, packed=False)
    make("3-and-a-half-bits", 3.5, "mul1", 128, 128, packed=False)
    make("2-and-a-half-bits", 2.5, "mul1", 256, 128, packed=False)
