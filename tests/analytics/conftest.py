from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from diff_models import (
    INPUTS,
    OUTPUTS,
    Write,
    awq,
    bf16,
    f32,
    gptq,
    numbers,
    quantised,
    raw,
    write_gguf,
)


@pytest.fixture
def weight() -> Any:
    return (np.random.default_rng(8).standard_normal((OUTPUTS, INPUTS)) * 0.02).astype(np.float32)


@pytest.fixture
def models(weight: Any, tmp_path: Path, write_safetensors: Write) -> dict[str, tuple[Path, Any]]:
    """One weight in six formats, with its values in each."""
    codes = quantised(weight)
    other = quantised(weight * np.float32(0.97))
    half = weight.astype(np.float16)
    found = {
        "f32": ({"l.weight": f32(weight)}, weight),
        "bf16": ({"l.weight": bf16(weight)}, weight.astype(ml_dtypes.bfloat16).astype(np.float32)),
        "f16": ({"l.weight": raw("F16", half)}, half.astype(np.float32)),
        "gptq": (gptq("l", *codes), numbers(*codes)),
        "awq": (awq("l", *other), numbers(*other)),
    }
    made = {}
    for name, (entries, values) in found.items():
        made[name] = write_safetensors(tmp_path / f"{name}.safetensors", entries), values
    for kind in ("Q8_0", "Q4_0"):
        ggml = gguf.GGMLQuantizationType[kind]
        data = gguf.quantize(weight, ggml)
        path = tmp_path / f"{kind}.gguf"
        write_gguf(path, {"l.weight": (data, ggml)})
        made[kind] = path, gguf.dequantize(data, ggml)
    return made
