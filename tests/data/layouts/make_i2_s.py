"""Make the I2_S layout in this folder.

    cd / && BITNET=…/BitNet python …/tests/data/layouts/make_i2_s.py

Needs https://github.com/microsoft/BitNet (16da220), torch 2.13.0 (CPU) and safetensors 0.8. Weights
are packed by both of its functions `quantize_to_i2_s`; the values are what these were given: codes
and a scale, or what `weight_quant` of the model makes, a scale times its codes.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layout_files import HERE
from make_codes import Gguf

UTILS = Path(os.environ.get("BITNET", "")) / "utils"
I2_S = 36


def quantizer(script: str) -> Any:
    """The function of a script, which asks for much when it is imported whole."""
    tree = ast.parse((UTILS / script).read_text())
    found = [node for node in tree.body if getattr(node, "name", "") == "quantize_to_i2_s"]
    names: dict[str, Any] = {"np": np}
    exec(compile(ast.Module(found, []), script, "exec"), names)  # noqa: S102
    return names["quantize_to_i2_s"]


def main() -> None:
    rng = np.random.default_rng(19)
    models, embeddings = (
        quantizer(f"convert-{name}.py")
        for name in ("hf-to-gguf-bitnet", "bitnet-embedding-to-gguf")
    )
    file, expected = Gguf(), {}

    def add(name: str, codes: Any, scale: float, raw: Any) -> None:
        file.add(name, I2_S, codes.shape, raw)
        expected[name] = torch.from_numpy(codes) * torch.tensor(scale, dtype=torch.float32)

    for name, shape in (("stored", (6, 384)), ("rows", (16, 72))):  # blocks go on from row to row
        codes = rng.integers(-1, 2, shape).astype(np.float32)
        add(f"{name}.weight", codes, 0.7129, models(codes, override_scale=0.7129))
    codes = rng.integers(-1, 2, (4, 256)).astype(np.float32)
    add("scaled.weight", codes, 1.375, models(codes * np.float32(1.375)))
    weight = rng.standard_normal((8, 128)).astype(np.float32)
    scale = np.mean(np.abs(weight))
    codes = np.round(weight * (1.0 / scale)).clip(-1, 1) + 0.0  # no -0
    add("embedding.weight", codes, float(scale), embeddings(weight))
    file.write(HERE / "gguf" / "bitnet-i2-s", expected)


if __name__ == "__main__":
    main()
