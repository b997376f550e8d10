"""Make the BitBLAS layouts in this folder.

    cd / && PYTHONPATH=GPTQModel:BITBLAS python …/tests/data/layouts/make_bitblas.py

Needs GPTQModel 7.7.0 and bitblas 0.1.0.post1 (both from PyPI, unpacked), torch 2.13.0 (CPU) and
safetensors. GPTQ's layers of random codes are repacked by GPTQModel's `repack_from_gptq` with
BitBLAS's own `QuantCompress` and `LOP3Permutate`, which run on the CPU, put together as its
`Matmul` does it; the values are those of GPTQModel's `TorchLinear.dequantize_weight` before, in
float32, and in F16 for `reference`. BitBLAS links libraries of CUDA, none of which is called, and
asks for a device as it is imported: without one, empty libraries and the answer below do.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import torch
from layout_files import HERE, Tensors, bf16_bits, write
from safetensors.torch import save_file

_PLACES = (Path(place or ".", "bitblas/3rdparty/tvm/python") for place in sys.path)
_TVM = next(str(place.resolve()) for place in _PLACES if place.is_dir())
os.environ |= {"TVM_IMPORT_PYTHON_PATH": _TVM, "TVM_TARGET": "cuda -arch=sm_80"}
sys.path.insert(0, _TVM)
import tvm  # noqa: E402 - BitBLAS's own, before it asks for a device

tvm.runtime.cuda = lambda _: types.SimpleNamespace(
    exist=True,
    max_shared_memory_per_block=49152,
    multi_processor_count=108,
    warp_size=32,
    compute_version="8.0",
)
from bitblas.ops.lop3_permutate import LOP3Permutate, LOP3PermutateConfig  # noqa: E402
from bitblas.ops.quant_compress import QuantCompress, QuantCompressConfig  # noqa: E402
from gptqmodel.nn_modules.qlinear.bitblas import (  # noqa: E402
    BitblasLinear,
    BitblasQuantizationConfig,
)
from gptqmodel.nn_modules.qlinear.torch import TorchLinear  # noqa: E402


def transform(outputs: int, inputs: int, bits: int, dtype: torch.dtype) -> Any:
    """`Matmul.weight_transform` of a layer that computes in `dtype`."""
    host, steps = tvm.target.Target("llvm"), []
    shape = {"M": outputs, "N": inputs, "dequantize_bits": bits, "storage_dtype": "int8"}
    steps.append(QuantCompress(QuantCompressConfig(input_dtype="int8", **shape), target=host))
    if dtype == torch.float16:  # `fast_decoding`
        steps.append(LOP3Permutate(LOP3PermutateConfig(datatype="float16", **shape), target=host))

    def apply(codes: torch.Tensor) -> torch.Tensor:
        for step in steps:
            codes = step.forward(codes.clone())
        return codes

    return apply


def layer(bits: int, sym: bool, dtype: torch.dtype, outputs: int, inputs: int, size: int) -> Any:
    """A layer as BitBLAS has it, its values, and those in the dtype of its scales."""
    about = {"bits": bits, "group_size": size, "sym": sym, "desc_act": False}
    plain = TorchLinear(
        in_features=inputs, out_features=outputs, bias=False, pack_dtype=torch.int32, **about
    )
    words = torch.iinfo(torch.int32)
    plain.qweight = torch.randint(words.min, words.max, plain.qweight.shape, dtype=torch.int32)
    zeros = torch.randint(words.min, words.max, plain.qzeros.shape, dtype=torch.int32)
    if sym:
        middle = sum(1 << (bits - 1) << shift for shift in range(0, 32, bits))
        zeros = torch.full_like(zeros, middle - (1 << 32) if middle >> 31 else middle)
    plain.qzeros = zeros
    plain.scales = (torch.rand(plain.scales.shape) * 0.1).to(dtype)
    plain.qzero_format(2)
    plain.post_init()
    own = BitblasLinear.__new__(BitblasLinear)
    torch.nn.Module.__init__(own)
    own.bits, own.bias = bits, None
    own.TORCH_DTYPE = dtype
    own.quant_config = BitblasQuantizationConfig(bits, size, False, sym, torch_dtype=dtype)
    own.bitblas_matmul = types.SimpleNamespace(
        weight_transform=transform(outputs, inputs, bits, dtype)
    )
    own._buffer_device = lambda: torch.device("cpu")
    own.repack_from_gptq(plain)
    stored = {name: own._buffers[name] for name in ("qweight", "scales", "qzeros")}
    narrow = plain.dequantize_weight().T
    plain.scales = plain.scales.float()
    return stored, plain.dequantize_weight().T, narrow


def make(folder: str, *, bits: int, sym: bool, dtype: torch.dtype = torch.float16) -> Tensors:
    stored, values, narrow = layer(bits, sym, dtype, 48, 128, 32)
    assert values.dtype == torch.float32
    block = {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": False, "sym": sym}
    block |= {"format": "bitblas", "checkpoint_format": "bitblas"}
    named = {f"a.{name}": tensor for name, tensor in stored.items()}
    write(f"bitblas/{folder}", named, {"a.weight": values}, {"quantization_config": block})
    return {folder: narrow}


if __name__ == "__main__":
    torch.manual_seed(18)
    values = make("4-bits", bits=4, sym=False)
    values |= make("4-bits-symmetric", bits=4, sym=True)
    values |= make("4-bits-bf16", bits=4, sym=False, dtype=torch.bfloat16)
    values |= make("2-bits", bits=2, sym=False)
    halves = {name: bf16_bits(value) for name, value in values.items() if "bf16" not in name}
    save_file(halves, HERE / "bitblas" / "reference.safetensors")
