"""Write tests/data/torchao/tiles*: INT4 in tiles of NVIDIA's and of AMD's GPUs, and its values.

    INT4MM=…/int4mm.cu python make_tiles.py nvidia    with torchao 0.18.0
    INT4MM=…/int4mm.cu python make_tiles.py amd       with torchao 0.18.0
    INT4MM=…/int4mm.cu python make_tiles.py pickled   with torchao 0.9.0

and torch 2.13.0 (CPU), safetensors 0.8, g++. `int4mm.cu` is aten/src/ATen/native/cuda/int4mm.cu of
https://github.com/pytorch/pytorch at 05f814fecfca7d2a17f28cbe7e1cb2d8d4c13230: its
`matrix_to_m16n8k16_Bint4_layout` is compiled for the CPU, thread by thread, and stands for
`_convert_weight_to_int4pack`, which torchao calls. torchao quantises, by itself or by HQQ.
`expected` holds the BF16 bits (U16) of `_dequantize_affine_tinygemm` in float32, times
`act_pre_scale` in float32 where there is one.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torchao.quantization import quant_primitives as primitives

FOLDER = Path(__file__).parent
SHIM = """
#include <cstdint>
#define __global__
static struct { int x, y; } blockIdx, threadIdx;
constexpr bool isPowerOf2(int n) { return (n & (n - 1)) == 0; }
constexpr int kWarpSize = WARP;
namespace at {
struct RestrictPtrTraits {};
template <class T, int D, class P> struct PackedTensorAccessor32 {
    T* p; const long* sizes;
    long size(int i) const { return sizes[i]; }
    T* data() const { return p; }
    auto operator[](long i) const {
        long step = 1;
        for (int d = 1; d < D; d++) step *= sizes[d];
        if constexpr (D == 1) return (T&) p[i];
        else return PackedTensorAccessor32<T, D - 1, P>{p + i * step, sizes + 1};
    }
};
template <class T, class P> struct PackedTensorAccessor32<T, 1, P> {
    T* p; const long* sizes;
    T& operator[](long i) const { return p[i]; }
};
}
"""
CALL = """
template <int K> void run(uint8_t* in, const long* is, int32_t* out, const long* os) {
    const int tile = WARP / 4;
    for (blockIdx.y = 0; blockIdx.y * tile < is[0]; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < os[1]; blockIdx.x++)
    for (threadIdx.x = 0; threadIdx.x < WARP; threadIdx.x++)
        matrix_to_m16n8k16_Bint4_layout<K>({in, is}, {out, os});
}
extern "C" void pack(uint8_t* in, const long* is, int32_t* out, const long* os, int k) {
    k == 2 ? run<2>(in, is, out, os) : k == 4 ? run<4>(in, is, out, os) : run<8>(in, is, out, os);
}
"""
generator = torch.Generator().manual_seed(11)
Kept = dict[str, Any]


def compiled(amd: bool) -> Any:
    """PyTorch's kernel, as a function of a library."""
    text = Path(os.environ["INT4MM"]).read_text()
    found = re.search(
        r"template <int InnerKTiles>\n__global__ void matrix_to_m16n8k16_Bint4.*?\n}\n", text, re.S
    )
    assert found is not None
    folder = Path(tempfile.mkdtemp())
    (folder / "pack.cpp").write_text(SHIM + found[0] + CALL)
    flags = ["-DWARP=64", "-DUSE_ROCM"] if amd else ["-DWARP=32"]
    call = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", *flags, "pack.cpp", "-o", "pack.so"]
    subprocess.run(call, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "pack.so")).pack


def use(amd: bool) -> None:
    """Have torchao pack as on such a GPU."""
    run = compiled(amd)

    def convert(codes: torch.Tensor, inner: int) -> torch.Tensor:
        rows, packed = codes.shape
        shape = (-(-rows // 8), 2 * packed // (16 * inner), 32, inner // 2)
        out = torch.zeros(shape, dtype=torch.int32)
        sizes, sides = (ctypes.c_long * 2)(*codes.shape), (ctypes.c_long * 4)(*shape)
        parts = (ctypes.c_void_p(t.data_ptr()) for t in (codes.contiguous(), out))
        source, target = parts
        run(source, sizes, target, sides, inner)
        return out

    torch.ops.aten._convert_weight_to_int4pack = convert
    torch.cuda.get_device_capability = lambda *_: (8, 0)
    if amd:
        torch.version.hip = "6.4"


def normal(*shape: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=generator) * 0.05
    return (values * torch.randn(*shape[:-1], 1, generator=generator).exp()).to(torch.bfloat16)


class Caught:
    """torchao's own codes and numbers, of which it keeps the packed ones alone."""

    def __init__(self, module: Any) -> None:
        self.module, self.parts = module, ()
        self.quantize = module._quantize_affine_tinygemm
        module._quantize_affine_tinygemm = self._plain
        self.hqq = module._choose_qparams_and_quantize_affine_hqq
        module._choose_qparams_and_quantize_affine_hqq = self._by_hqq

    def _plain(
        self, values: Any, block: Any, scale: Any, zero: Any, *rest: Any, **more: Any
    ) -> Any:
        codes = self.quantize(values, block, scale, zero, *rest, **more)
        self.parts = codes, scale, zero
        return codes

    def _by_hqq(self, *rest: Any, **more: Any) -> Any:
        found = self.hqq(*rest, **more)
        self.parts = found[:3]
        return found

    def values(self, shape: Any, block: Any) -> torch.Tensor:
        """What torchao makes of them in float32, without what fills up."""
        codes, scale, zero = self.parts
        found = primitives._dequantize_affine_tinygemm(
            codes.to(torch.int32), tuple(block), scale.float(), zero.float(), torch.int32, 0, 15,
            output_dtype=torch.float32,
        )  # fmt: skip
        return found[tuple(slice(side) for side in shape)]


def bits(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.bfloat16).contiguous().view(torch.uint16)


def tiled(amd: bool) -> None:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization.quantize_.workflows.int4 import int4_tile_packed_to_4d_tensor as ao

    use(amd)
    caught, state, expected = Caught(ao), Kept(), Kept()
    hqq = ao.Int4ChooseQParamsAlgorithm.HQQ
    for name, shape, size, algorithm in (
        ("plain", (24 if not amd else 32, 1024), 32, None),
        ("filled", (13, 640), 64, None),
        ("hqq", (16, 1024), 128, hqq),
        ("wide", (16, 2048), 256, None),
        ("experts", (2, 16, 1024), 32, None),
    ):
        block = [*([1] * (len(shape) - 1)), size]
        more = {} if algorithm is None else {"int4_choose_qparams_algorithm": algorithm}
        tensor = ao.Int4TilePackedTo4dTensor.from_hp(normal(*shape), block, **more)
        values = caught.values(shape, block)
        if name == "hqq":
            factor = torch.randn(shape[-1], generator=generator).exp().to(torch.bfloat16)
            tensor.act_pre_scale = factor
            values = values * factor.float()
        state[f"{name}.weight"], expected[f"{name}.weight"] = tensor, bits(values)
    data, metadata = flatten_tensor_state_dict(state)
    stem = "tiles-amd" if amd else "tiles"
    save_file(data, FOLDER / f"{stem}.safetensors", {**metadata, "format": "pt"})
    save_file(expected, FOLDER / f"{stem}-expected.safetensors")


def pickled() -> None:
    from torchao import quantization as ao
    from torchao.dtypes import TensorCoreTiledLayout, affine_quantized_tensor

    use(amd=False)
    caught, state, expected = _Older(affine_quantized_tensor), Kept(), Kept()
    for name, shape, size, tiles in (
        ("inner2", (16, 1024), 32, 2),
        ("inner4", (9, 1152), 128, 4),
        ("inner8", (24, 512), 64, 8),
    ):
        layer = torch.nn.Linear(shape[1], shape[0], bias=False).to(torch.bfloat16)
        layer.weight.data = normal(*shape)
        layout = TensorCoreTiledLayout(inner_k_tiles=tiles)
        ao.quantize_(layer, ao.int4_weight_only(group_size=size, layout=layout))
        state[f"{name}.weight"] = layer.weight
        expected[f"{name}.weight"] = bits(caught.values(shape))
    torch.save(state, FOLDER / "tiles.pt")
    save_file(expected, FOLDER / "tiles-pickled-expected.safetensors")


class _Older:
    """As `Caught`, of torchao 0.9, whose own function gives the values."""

    def __init__(self, module: Any) -> None:
        self.module, self.quantize = module, module.quantize_affine
        module.quantize_affine = self._plain

    def _plain(
        self, values: Any, block: Any, scale: Any, zero: Any, *rest: Any, **more: Any
    ) -> Any:
        codes = self.quantize(values, block, scale, zero, *rest, **more)
        self.parts = codes, tuple(block), scale.float(), zero.float()
        return codes

    def values(self, shape: Any) -> torch.Tensor:
        codes, block, scale, zero = self.parts
        found = primitives.dequantize_affine(
            codes, block, scale, zero, codes.dtype, 0, 15,
            zero_point_domain=primitives.ZeroPointDomain.FLOAT, output_dtype=torch.float32,
        )  # fmt: skip
        return found[tuple(slice(side) for side in shape)]


if __name__ == "__main__":
    kind = sys.argv[1]
    pickled() if kind == "pickled" else tiled(kind == "amd")
