"""Models that differ, and their differences by numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
from gguf_files import finish

Entry = tuple[str, tuple[int, ...], bytes]
Write = Callable[[Path, Mapping[str, Entry]], Path]
INPUTS, OUTPUTS, GROUP = 256, 160, 64
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # element of each nibble, lowest first


def f32(values: Any) -> Entry:
    values = np.ascontiguousarray(values, np.float32)
    return "F32", values.shape, values.tobytes()


def bf16(values: Any) -> Entry:
    with np.errstate(all="ignore"):
        rounded = np.asarray(values, np.float32).astype(ml_dtypes.bfloat16)
    return "BF16", rounded.shape, rounded.tobytes()


def words(codes: Any) -> Any:
    """The last axis, eight codes of four bits, as one int32 each."""
    shifts = np.arange(0, 32, 4, dtype=np.uint64)
    packed = (codes.astype(np.uint64) << shifts).sum(-1).astype(np.uint32)
    return packed.view(np.int32)


def raw(dtype: str, values: Any) -> Entry:
    return dtype, values.shape, np.ascontiguousarray(values).tobytes()


def quantised(weight: Any) -> tuple[Any, Any, Any]:
    """Codes [in, out], zeros and scales [groups, out] of four bits, asymmetric."""
    groups = weight.T.reshape(INPUTS // GROUP, GROUP, OUTPUTS)
    low, high = groups.min(1), groups.max(1)
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.clip(np.round(-low / scales.astype(np.float32)), 1, 15)
    codes = np.clip(np.round(groups / scales[:, None].astype(np.float32)) + zeros[:, None], 0, 15)
    return codes.reshape(INPUTS, OUTPUTS).astype(np.int64), zeros.astype(np.int64), scales


def numbers(codes: Any, zeros: Any, scales: Any) -> Any:
    """What the codes mean, [out, in]."""
    whole = codes - np.repeat(zeros, GROUP, 0)
    return (whole.astype(np.float32) * np.repeat(scales, GROUP, 0).astype(np.float32)).T


def gptq(name: str, codes: Any, zeros: Any, scales: Any) -> dict[str, Entry]:
    down = words(codes.reshape(-1, 8, OUTPUTS).transpose(0, 2, 1))
    across = words((zeros - 1).reshape(len(zeros), -1, 8))
    index = (np.arange(INPUTS) // GROUP).astype(np.int32)
    parts = {"qweight": raw("I32", down), "qzeros": raw("I32", across)}
    parts |= {"scales": raw("F16", scales), "g_idx": raw("I32", index)}
    return {f"{name}.{part}": entry for part, entry in parts.items()}


def awq(name: str, codes: Any, zeros: Any, scales: Any) -> dict[str, Entry]:
    across = [words(n.reshape(len(n), -1, 8)[:, :, AWQ_ORDER]) for n in (codes, zeros)]
    parts = {"qweight": raw("I32", across[0]), "qzeros": raw("I32", across[1])}
    return {
        f"{name}.{part}": entry for part, entry in {**parts, "scales": raw("F16", scales)}.items()
    }


def write_gguf(path: Path, tensors: Mapping[str, tuple[Any, Any]], **numbers: int) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, number in numbers.items():
        writer.add_uint32(f"llama.attention.{key}", number)
    for name, (data, ggml) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=ggml)
    finish(writer)
    return path
