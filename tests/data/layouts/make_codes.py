"""Make layouts of this folder by the code of the packages that write them: `COMMANDS` below.

    cd / && python …/tests/data/layouts/make_codes.py [LAYOUT …]

Needs, for all of them, auto-round 0.16.1, torch 2.13.0 (CPU) and safetensors 0.8; those versions
made the files that are here. Expected values are BF16 bits: the library's float32 result, rounded
once. Each layout has numbers of its own seed, so that making one leaves the others as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from layout_files import write


def nvfp4_e5m3() -> None:
    """Every byte of a scale but its NaN; as AutoRound's export names the format."""
    from auto_round.data_type.nvfp import e5m3_to_float_tensor
    from auto_round.experimental.qmodules.fp4_utils import unpack_fp4_from_uint8

    codes = torch.randint(0, 256, (32, 64), dtype=torch.uint8)
    scales = torch.arange(256).clamp(max=254).to(torch.uint8).reshape(32, 8)
    weight = unpack_fp4_from_uint8(codes, 32, 128, torch.float32)
    weight = weight * e5m3_to_float_tensor(scales).repeat_interleave(16, 1)
    config = {
        "quant_method": "auto-round",
        "bits": 4,
        "group_size": 16,
        "data_type": "nvfp4_v2",
        "packing_format": "auto_round:llm_compressor_nvfp4_e5m3",
    }
    stored = {"a.weight_packed": codes, "a.weight_scale": scales}
    write("auto-round/nvfp4-v2", stored, {"a.weight": weight}, {"quantization_config": config})


COMMANDS: dict[str, Callable[[], None]] = {
    "nvfp4-e5m3": nvfp4_e5m3,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or COMMANDS:
        torch.manual_seed(17)
        COMMANDS[name]()
