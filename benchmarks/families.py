"""The groups that tables and plots show kernels in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# In the order they are shown; what no beginning fits is dense.
FAMILIES = {
    "FP8": ("fp8",),
    "GGUF": ("gguf",),
    "bitsandbytes": ("bnb",),
    "GPTQ and AWQ": ("gptq", "awq", "quark"),
    "compressed-tensors": ("ct ",),
    "FP4 and FP6": ("mxfp", "nvfp4"),
    "AQLM": ("aqlm",),
    "ModelOpt and ComfyUI INT4": ("modelopt", "comfy"),
    "torchao": ("torchao",),
    "MLX": ("mlx",),
    "HQQ, Quanto and BitNet": ("hqq", "quanto", "bitnet"),
    "Dense": ("",),
}


def family(name: str) -> str:
    """Of a case."""
    return next(f for f, beginnings in FAMILIES.items() if name.startswith(beginnings))


def by_family(
    cases: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Families with their cases, the fastest on a whole matrix first."""
    for name in FAMILIES:
        members = [case for case in cases if family(case["name"]) == name]
        if members:
            yield name, sorted(members, key=lambda c: -c["matrix"]["mel_s"])
