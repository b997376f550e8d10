"""GPTQModel, AutoAWQ and AutoRound, driven to pack and to dequantise; torch on the CPU.

The packages are unpacked, without what they depend on, into the folder `packages` under
`$ANAMNESIS_ORACLES` (`make test-oracles` does it):

    pip install --no-deps --target $ANAMNESIS_ORACLES/packages gptqmodel==7.7.0 logbar==0.4.15 \
        pypcre==0.6.4 device-smi==0.5.7 tokenicer==0.0.14 defuser==0.0.28 threadpoolctl==3.8.0 \
        accelerate==1.15.0 pillow==13.0.0 autoawq==0.2.7.post3 auto-round==0.16.1

A case is what a checkpoint stores for one layer, its config, and two readings of the library's:
`exact`, with the scales made float32 first and the result rounded once, and `reference`, in
the library's own dtypes. Both are BF16 bits, `[out, in]`.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # every layer would be compiled for itself

import torch

# These only import the rest of their library, and its dependencies with it.
_BARE = [
    *("awq", "awq.utils", "awq.modules", "awq.modules.linear"),
    *("auto_round", "auto_round.utils", "auto_round_extension", "auto_round_extension.torch"),
    *("auto_round.export", "auto_round.export.export_to_awq"),
]


@dataclass
class Case:
    stored: dict[str, torch.Tensor]
    config: dict[str, Any]
    exact: torch.Tensor
    reference: torch.Tensor
    note: dict[str, Any] = field(default_factory=dict)


def load(name: str) -> Any:
    """A module of one of the libraries."""
    folder = Path(os.environ["ANAMNESIS_ORACLES"]) / "packages"
    if str(folder) not in sys.path:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: not there; `make test-oracles` fills it")
        sys.path.append(str(folder))
        for bare in _BARE:
            module = types.ModuleType(bare)
            module.__path__ = [str(folder / bare.replace(".", "/"))]
            sys.modules[bare] = module
        sys.modules["auto_round.utils"].get_packing_device = lambda device: "cpu"  # type: ignore[attr-defined]
    return importlib.import_module(name)


def bits(values: torch.Tensor) -> torch.Tensor:
    """BF16 bits of `[in, out]` values, as `[out, in]`."""
    return values.T.to(torch.bfloat16).contiguous().view(torch.uint16)


def words(rng: np.random.Generator, shape: Any, dtype: torch.dtype) -> torch.Tensor:
    rows, columns = shape
    size = torch.empty(0, dtype=dtype).element_size()
    raw = rng.integers(0, 256, (rows, columns * size), dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype)


def scales(rng: np.random.Generator, groups: int, outputs: int, dtype: torch.dtype) -> torch.Tensor:
    """Random scales, with a few that are large, subnormal, zero or negative."""
    values = rng.standard_normal((groups, outputs)) * 0.01
    odd = [0.0, -0.0, 6e4, -1e-7, 6e-5, 2.0**-24]
    values.reshape(-1)[: len(odd)] = odd[: values.size]
    return torch.from_numpy(values).to(dtype)


def gptq(
    bit: int,
    inputs: int,
    outputs: int,
    group: int,
    *,
    seed: int = 0,
    v2: bool = False,
    order: str = "none",
    scale_dtype: torch.dtype = torch.float16,
    pack_dtype: torch.dtype = torch.int32,
    carry: bool = False,
) -> Case:
    """A layer of random words, as GPTQModel's TorchLinear reads it.

    `order`: none, or shuffled (act-order), or zeros (a g_idx that says nothing). With `carry`, the
    zeros of v1 go through the runtime's conversion, on whole words; else field by field.
    """
    linear = load("gptqmodel.nn_modules.qlinear.torch").TorchLinear
    dequant = load("gptqmodel.utils.model_dequant")
    model = load("gptqmodel.utils.model")
    rng = np.random.default_rng(seed)
    module = linear(bit, group, False, order == "shuffled", inputs, outputs, pack_dtype=pack_dtype)
    module.train()  # the plain path of `dequantize_weight`, without its caches
    groups = module.scales.shape[0]
    module.qweight = words(rng, module.qweight.shape, pack_dtype)
    module.qzeros = words(rng, module.qzeros.shape, pack_dtype)
    module.scales = scales(rng, groups, outputs, scale_dtype)
    if order == "shuffled":
        module.g_idx = torch.from_numpy(rng.permutation(module.g_idx.numpy()))
    stored = {
        "qweight": module.qweight.clone(),
        "qzeros": module.qzeros.clone(),
        "scales": module.scales.clone(),
        "g_idx": module.g_idx.clone(),
    }
    if order == "zeros":
        stored["g_idx"] = torch.zeros_like(module.g_idx)
    if not v2:
        if carry:
            model.convert_gptq_v1_to_v2_format_module(module, bit, pack_dtype)
        else:
            module.qzeros = dequant._correct_gptq_v1_qzeros(module.qzeros, bit)
    module.post_init()
    reference = module.dequantize_weight()
    module.scales = module.scales.float()
    config = {
        "quant_method": "gptq",
        "bits": bit,
        "group_size": group,
        "desc_act": order == "shuffled",
        "sym": False,
        "checkpoint_format": "gptq_v2" if v2 else "gptq",
    }
    if carry:
        config["meta"] = {"quantizer": ["gptqmodel:7.7.0"]}
    return Case(stored, config, bits(module.dequantize_weight()), bits(reference))


def auto_round(
    bit: int, inputs: int, outputs: int, group: int, *, packing: str, seed: int = 0
) -> Case:
    """A layer of random words: the weights that AutoRound's own QuantLinear multiplies by."""
    plain = packing in ("auto_round", "auto_round:gptqmodel")
    name = "qlinear_torch" if plain else "qlinear_torch_zp"
    linear = load(f"auto_round_extension.torch.{name}").QuantLinear
    pack = load("auto_round.utils.bit_packing").pack_bitstream
    rng = np.random.default_rng(seed)
    module = linear(bit, group, inputs, outputs, False, g_idx="gptqmodel" in packing)
    groups = module.scales.shape[0]
    module.qweight = words(rng, module.qweight.shape, torch.int32)
    # The writer clamps, so that a stored zero plus one never passes the largest code.
    zeros = torch.from_numpy(rng.integers(0, 2**bit - (not plain), (groups, outputs)))
    module.qzeros = pack(zeros, bit)
    module.scales = scales(rng, groups, outputs, torch.float16)
    stored = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    stored |= {name: getattr(module, name).clone() for name in ("qweight", "qzeros", "scales")}
    found = []
    for dtype in (torch.float16, torch.float32):
        module.scales = module.scales.to(dtype)
        with mock.patch.object(torch, "matmul", side_effect=torch.matmul) as product:
            module(torch.zeros(1, inputs, dtype=dtype))
        found.append(product.call_args.args[1])
    reference, exact = found
    config = {
        "quant_method": "auto-round",
        "bits": bit,
        "group_size": group,
        "sym": not plain,
        "packing_format": packing,
    }
    return Case(stored, config, bits(exact), bits(reference))


def awq(
    inputs: int,
    outputs: int,
    group: int,
    *,
    seed: int = 0,
    scale_dtype: torch.dtype = torch.float16,
) -> Case:
    """A layer of random words, as AutoAWQ's `dequantize_gemm` reads it."""
    dequantize = load("awq.utils.packing_utils").dequantize_gemm
    rng = np.random.default_rng(seed)
    size = inputs if group == -1 else group
    parts = {
        "qweight": words(rng, (inputs, outputs // 8), torch.int32),
        "qzeros": words(rng, (inputs // size, outputs // 8), torch.int32),
        "scales": scales(rng, inputs // size, outputs, scale_dtype),
    }
    packed, zeros, scale = parts["qweight"], parts["qzeros"], parts["scales"]
    reference = dequantize(packed, zeros, scale, 4, size)
    exact = dequantize(packed, zeros, scale.float(), 4, size)
    config = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group,
        "version": "gemm",
        "zero_point": True,
    }
    return Case(parts, config, bits(exact), bits(reference))


def awq_stream(bit: int, inputs: int, outputs: int, group: int, *, seed: int = 0) -> Case:
    """A layer of random words of 5 to 7 bits, as AutoRound's `dequantize_gemm` reads it."""
    dequantize = load("auto_round.export.export_to_awq.utils").dequantize_gemm
    rng = np.random.default_rng(seed)
    size = inputs if group == -1 else group
    parts = {
        "qweight": words(rng, (inputs, outputs * bit // 32), torch.int32),
        "qzeros": words(rng, (inputs // size, outputs * bit // 32), torch.int32),
        "scales": scales(rng, inputs // size, outputs, torch.float16),
    }
    packed, zeros, scale = parts["qweight"], parts["qzeros"], parts["scales"]
    reference = dequantize(packed, zeros, scale, bit, size)
    exact = dequantize(packed, zeros, scale.float(), bit, size)
    config = {
        "quant_method": "auto-round",
        "bits": bit,
        "group_size": group,
        "sym": False,
        "packing_format": "auto_round:auto_awq",
    }
    return Case(parts, config, bits(exact), bits(reference))


def _awq_layer(
    inputs: int, outputs: int, group: int, seed: int
) -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer, and the scales, zero points and codes that it was made of."""
    rng = np.random.default_rng(seed)
    groups = inputs // group
    scale = torch.from_numpy(rng.uniform(0.01, 0.02, (outputs, groups))).half()
    zeros = torch.from_numpy(rng.integers(0, 16, (outputs, groups)))
    codes = torch.from_numpy(rng.integers(0, 16, (outputs, inputs)))
    linear = torch.nn.Linear(inputs, outputs, bias=False)
    each = [part.repeat_interleave(group, 1).float() for part in (scale, zeros)]
    linear.weight.data = (codes - each[1]) * each[0]
    return linear, scale, zeros, codes


def awq_gemv(inputs: int, outputs: int, group: int, *, seed: int = 0) -> Case:
    """A layer packed by AutoAWQ for GEMV, and its twin packed for GEMM, which it can read."""
    gemv = load("awq.modules.linear.gemv").WQLinear_GEMV
    gemm = load("awq.modules.linear.gemm").WQLinear_GEMM
    dequantize = load("awq.utils.packing_utils").dequantize_gemm
    linear, scale, zeros, _ = _awq_layer(inputs, outputs, group, seed)
    packed = gemv.from_linear(linear, 4, group, scales=scale, zeros=zeros)
    twin = gemm.from_linear(linear, 4, group, scales=scale.T, zeros=zeros.T)
    parts = {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}
    reference = dequantize(twin.qweight, twin.qzeros, twin.scales, 4, group)
    exact = dequantize(twin.qweight, twin.qzeros, twin.scales.float(), 4, group)
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemv"}
    return Case(parts, config, bits(exact), bits(reference))


def awq_gemv_fast(inputs: int, outputs: int, group: int, *, seed: int = 0) -> Case:
    """A layer packed by AutoAWQ for GEMV-fast, which nothing of it unpacks without a GPU.

    What its kernel computes, code * scale + zero with the zero as it packed it, is computed here
    from the codes.
    """
    linear, scale, zeros, codes = _awq_layer(inputs, outputs, group, seed)
    fast = load("awq.modules.linear.gemv_fast").WQLinear_GEMVFast
    packed = fast.from_linear(linear, 4, group, scales=scale, zeros=zeros)
    parts = {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}
    each = [
        parts[name][: inputs // group].T.repeat_interleave(group, 1).float()
        for name in ("scales", "qzeros")
    ]
    exact = (codes * each[0] + each[1]).T
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemv_fast"}
    return Case(parts, config, bits(exact), bits(exact.half()))
