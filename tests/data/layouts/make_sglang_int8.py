"""Make `sglang/int8-blocks` and `sglang/int8-rows` by the function that SGLang decodes INT8 with.

    cd / && python …/tests/data/layouts/make_sglang_int8.py int8_utils.py

The file is sglang/srt/layers/quantization/int8_utils.py of the wheel of sglang 0.5.23; of it
`block_dequant` is run, with torch 2.13.0 on a CPU. A scale a row is a block of one row.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import torch
from layout_files import write


def function(file: str) -> Any:
    """`block_dequant`, without the imports of the rest, which need a GPU."""
    tree = ast.parse(Path(file).read_text())
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "block_dequant"]
    space: dict[str, Any] = {"torch": torch, "List": list}
    exec(compile(ast.Module(found, []), file, "exec"), space)  # noqa: S102 - a file that we chose
    return space["block_dequant"]


def main(file: str) -> None:
    torch.manual_seed(5)
    dequant, prefix = function(file), "model.layers.0."
    shapes = {"self_attn.kv_a_proj_with_mqa": (136, 160), "mlp.experts.0.up_proj": (128, 64)}
    size = 128
    for folder, block in (("int8-blocks", [size, size]), ("int8-rows", None)):
        stored, expected = {}, {}
        for name, (rows, columns) in shapes.items():
            codes = torch.randint(-128, 128, (rows, columns), dtype=torch.int8)
            height, width = block or (1, columns)
            scale = torch.rand(-(-rows // height), -(-columns // width)) * 0.02
            scale[0, 0] = 1e-40  # less than any normal float32
            part = "weight_scale" if block is None else "weight_scale_inv"
            stored[f"{prefix}{name}.weight"] = codes
            stored[f"{prefix}{name}.{part}"] = scale
            values = dequant(codes, scale, [height, width])
            expected[f"{prefix}{name}.weight"] = values
        config: dict[str, Any] = {"quant_method": "blockwise_int8" if block else "w8a8_int8"}
        if block:
            config |= {"activation_scheme": "dynamic", "weight_block_size": block}
        write(f"sglang/{folder}", stored, expected, {"quantization_config": config})


if __name__ == "__main__":
    main(sys.argv[1])
