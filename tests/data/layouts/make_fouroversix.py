"""Make the Four Over Six layouts in this folder, by the package's own code on a CPU.

    cd / && PYTHONPATH=fouroversix/src python …/tests/data/layouts/make_fouroversix.py

Needs https://github.com/mit-han-lab/fouroversix (dadfad6, version 1.0.5), torch 2.13.0 (CPU) and
safetensors. Tensors are quantised by its PyTorch backend and stored as its linear layer registers
them; the values that are expected are its `dequantize` with `intermediate_dtype` float32.
"""

from __future__ import annotations

import torch
from fouroversix import dequantize, quantize
from fouroversix.quantize import QuantizationConfig
from fouroversix.utils import DataType, QuantizeBackend, ScaleRule
from layout_files import write

torch.manual_seed(46)
CPU = QuantizeBackend.pytorch


def make(dtype: str, rule: str, rows: int, columns: int) -> None:
    weight = (torch.randn(rows, columns) * torch.rand(rows, 1)).bfloat16()
    config = QuantizationConfig(dtype=DataType(dtype), scale_rule=ScaleRule(rule), backend=CPU)
    q = quantize(weight, config)
    about = [*q.original_shape, *q.padded_shape, 1, int(q.scale_factors_are_in_blackwell_layout)]
    stored = {
        "a.quantized_weight_values": q.values,
        "a.quantized_weight_scale_factors": q.scale_factors,
        "a.quantized_weight_amax": q.amax,
        "a.quantized_weight_metadata": torch.tensor(about),
    }
    values = dequantize(q, torch.float32, backend=CPU, intermediate_dtype=torch.float32)
    block = {"quant_method": "fouroversix", "dtype": dtype, "scale_rule": rule}
    folder = f"fouroversix/{dtype}-{rule}".replace("_", "-")
    write(folder, stored, {"a.weight": values}, {"quantization_config": block})


if __name__ == "__main__":
    make("nvfp4", "mse", 130, 100)
    make("nvfp4", "static_6", 64, 64)
    make("nvfp4", "static_4", 64, 64)
    make("mxfp4", "static_6", 64, 96)
    make("nvint4", "static_6", 64, 64)
    make("if4", "mae", 130, 80)
