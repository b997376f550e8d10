"""Make `sglang/w4afp8` by the functions that SGLang's own test holds its kernel against.

    cd / && python …/tests/data/layouts/make_w4afp8.py test_cutlass_w4a8_moe.py

The file is python/sglang/test/test_cutlass_w4a8_moe.py of https://github.com/sgl-project/sglang,
commit 8704aa6 (later in test/manual/quant); of it `pack_int4_values_to_int8` and `ref` are run,
with torch 2.13.0 on a CPU. Expected values are the weights that `ref` multiplies by.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any, Optional
from unittest import mock

import torch
from layout_files import write

NAMES = ("pack_int4_values_to_int8", "ref")


def functions(file: str) -> dict[str, Any]:
    """Those of `NAMES`, without the imports of the rest, which need a GPU."""
    tree = ast.parse(Path(file).read_text())
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in NAMES]
    space: dict[str, Any] = {"torch": torch, "Optional": Optional}
    exec(compile(ast.Module(found, []), file, "exec"), space)  # noqa: S102 - a file that we chose
    return space


def main(file: str) -> None:
    torch.manual_seed(3)
    theirs = functions(file)
    width, inputs = 128, 256
    codes = [torch.randint(-8, 8, s) for s in ((1, 2 * width, inputs), (1, inputs, width))]
    scales = [torch.randn(*c.shape[:2], c.shape[2] // 128).bfloat16() * 0.005 for c in codes]
    one, tokens = torch.ones(1), torch.zeros(1, inputs).bfloat16()
    with mock.patch.object(torch, "matmul", side_effect=torch.matmul) as product:
        theirs["ref"](
            *(tokens, 1, torch.ones(1, 1), torch.zeros(1, 1), *codes, *scales),
            pre_quant_scale_1=one,
            pre_quant_scale_2=one,
            alpha_1=one,
            alpha_2=one,
        )
    up, down = (call.args[1].T for call in product.call_args_list)
    packed = [theirs["pack_int4_values_to_int8"](c)[0] for c in codes]
    prefix, stored, expected = "model.layers.3.mlp.experts.0.", {}, {}
    parts = {  # the stored scales are F32 or BF16
        "gate_proj": (packed[0][:width], scales[0][0, :width].float(), up[:width]),
        "up_proj": (packed[0][width:], scales[0][0, width:], up[width:]),
        "down_proj": (packed[1], scales[1][0].float(), down),
    }
    for name, (data, scale, weight) in parts.items():
        stored[f"{prefix}{name}.weight"] = data
        stored[f"{prefix}{name}.weight_scale_inv"] = scale
        stored[f"{prefix}{name}.input_scale"] = torch.ones(1).bfloat16()
        expected[f"{prefix}{name}.weight"] = weight
    config = {"quant_method": "w4afp8", "activation_scheme": "dynamic"}
    write("sglang/w4afp8", stored, expected, {"quantization_config": config})


if __name__ == "__main__":
    main(sys.argv[1])
