"""Make the layouts of GPTQ-for-LLaMa's first version, by its own packing on a CPU.

    cd / && PYTHONPATH=GPTQ-for-LLaMa python …/tests/data/layouts/make_gptq_for_llama.py

Needs https://github.com/qwopqwop200/GPTQ-for-LLaMa at e226c61 (2023-03-09), torch 2.13.0 (CPU) and
safetensors. Its kernel's `scale * code - zero`, each step rounded to float32, is what is expected.
"""

from __future__ import annotations

import torch
from layout_files import write
from quant import QuantLinear

torch.manual_seed(3)


def make(bits: int) -> None:
    inputs, outputs = 256, 24
    codes = torch.randint(0, 2**bits, (outputs, inputs)).float()
    scales = torch.rand(outputs, 1) * 0.05 + 0.01
    points = torch.randint(0, 2**bits, (outputs, 1)).float()
    linear = torch.nn.Linear(inputs, outputs)
    linear.weight.data = scales * (codes - points)
    layer = QuantLinear(bits, inputs, outputs)
    layer.pack(linear, scales, points)
    stored = {f"a.{name}": part for name, part in layer.state_dict().items()}
    stored |= {"a.qweight": layer.qweight, "a.zeros": layer.zeros, "a.scales": layer.scales}
    expected = layer.scales * codes - layer.zeros
    folder = f"gptq-for-llama/{bits}-bits"
    write(folder, stored, {"a.weight": expected}, {"quantization_config": {"bits": bits}})


if __name__ == "__main__":
    for width in (2, 3, 4, 8):
        make(width)
