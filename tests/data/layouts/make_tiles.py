"""Make the layouts of Marlin 2:4 and QQQ in this folder, by the packages' own code on a CPU.

    cd / && PYTHONPATH=ct094 python …/tests/data/layouts/make_tiles.py marlin-24
    cd / && PYTHONPATH=gptqmodel python …/tests/data/layouts/make_tiles.py qqq

Needs compressed-tensors 0.9.4, gptqmodel 7.7.0 (each unpacked, on the module path), transformers
5.23, torch 2.13.0 (CPU) and safetensors. Values that are expected are the packages' own
`dequantize` in float32.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from layout_files import write


def marlin_24(bits: int, group: int | None, inputs: int, outputs: int) -> None:
    """By `Marlin24Compressor`, of a layer of which two of four numbers are 0, and more."""
    from compressed_tensors.compressors.sparse_quantized_compressors.marlin_24 import (
        Marlin24Compressor,
    )
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    from compressed_tensors.utils import mask_creator

    weight = torch.randn(outputs, inputs)
    weight = (weight * mask_creator(weight) * (torch.rand_like(weight) > 0.1)).half()
    strategy = "channel" if group is None else "group"
    args = QuantizationArgs(num_bits=bits, symmetric=True, strategy=strategy, group_size=group)
    size = group or inputs
    peak = weight.reshape(outputs, -1, size).abs().amax(-1)
    scale = (peak.float() / (2 ** (bits - 1) - 0.5)).half()
    state = {"a.weight": weight, "a.weight_scale": scale}
    stored = Marlin24Compressor().compress(state, {"a": args})
    codes = quantize(x=weight, scale=scale, zero_point=None, args=args)
    whole = codes.to(torch.int8).float()  # integers have one 0
    expected = dequantize(whole, scale.float(), args=args)
    name = f"compressed-tensors/marlin-24-{bits}-{group or 'channel'}-{inputs}"
    config: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "format": "marlin-24",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": bits,
                    "type": "int",
                    "symmetric": True,
                    "strategy": strategy,
                    "group_size": group,
                },
            }
        },
    }
    write(name, stored, {"a.weight": expected}, {"quantization_config": config})


def qqq(group: int, inputs: int, outputs: int) -> None:
    """By GPTQModel's `QQQTorchLinear`: packed, and then dequantised for a CPU."""
    from gptqmodel.nn_modules.qlinear.qqq import QQQTorchLinear

    whole = group == -1
    layer = QQQTorchLinear(
        bits=4, group_size=group, desc_act=False, sym=True, in_features=inputs,
        out_features=outputs, bias=False, register_buffers=False,
    )  # fmt: skip
    linear = torch.nn.Linear(inputs, outputs, bias=False)
    scales = torch.rand(outputs, 1 if whole else inputs // group) * 0.1 + 0.02
    each = scales.repeat_interleave(inputs // scales.shape[1], 1)
    linear.weight.data = torch.randint(-7 if whole else -8, 8, (outputs, inputs)) * each
    extra = None if whole else torch.rand(outputs) * 0.002 + 0.002
    layer.pack(linear, scales, extra)
    stored = {f"a.{name}": getattr(layer, name) for name in ("B", "s_channel", "s_group")}
    weight, channel = layer._dequantize_weight_for_torch()
    config = {"quant_method": "qqq", "bits": 4, "group_size": group, "sym": True, "format": "qqq"}
    name = f"gptqmodel/qqq-{'channel' if whole else group}"
    write(name, stored, {"a.weight": (weight * channel).t()}, {"quantization_config": config})


if __name__ == "__main__":
    torch.manual_seed(24)
    if "marlin-24" in sys.argv:
        marlin_24(4, 128, 512, 128)
        marlin_24(4, 128, 256, 64)
        marlin_24(8, None, 256, 192)
    if "qqq" in sys.argv:
        qqq(128, 256, 128)
        qqq(-1, 128, 256)
