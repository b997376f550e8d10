"""What kernels should reach on one thread."""

from __future__ import annotations

# What another implementation reached on a machine like the one in docs/performance-experiments.md,
# or a prototype of this one.
TARGETS = {
    "awq int4 g128": 1150,
    "bnb nf4": 1240,
    "bnb int8": 3400,
    "fp8-e4m3 block": 3000,
    "gguf-iq1-m": 1120,
    "gguf-iq1-s": 1200,
    "gguf-iq2-s": 1000,
    "gguf-iq2-xs": 1000,
    "gguf-iq2-xxs": 1000,
    "gguf-iq3-s": 1000,
    "gguf-iq3-xxs": 1000,
    "gguf-iq4-nl": 1880,
    "gguf-iq4-xs": 1770,
    "gguf-mxfp4": 1900,
    "gguf-q2-k": 945,
    "gguf-q3-k": 2300,
    "gguf-q4-0": 3600,
    "gguf-q4-k": 3450,
    "gguf-q5-0": 3000,
    "gguf-q5-1": 3100,
    "gguf-q5-k": 2000,
    "gguf-q6-k": 2760,
    "gguf-q8-0": 6000,
    "gguf-tq1-0": 2600,
    "gguf-tq2-0": 3450,
    "gptq int4 g128": 1860,
    "gptq int8 g128": 1690,
}

_TABLES = frozenset(
    "awq-gemm awq-gemv awq-gemv-fast bnb-4bit ct-packed fp4-mx fp4-mx-columns fp4-nv "
    "gguf-iq4-nl gguf-iq4-xs gguf-mxfp4 gguf-nvfp4 gguf-q2-k gguf-q3-k gguf-tq1-0 gptq "
    "hqq-axis0 hqq-axis1 mlx-affine quanto-bits quark-int4 torchao-int4 torchao-mxfp4-tiles "
    "torchao-nvfp4-tiles".split()
)


def goal(encoding: str) -> float:
    """The part of a copy's speed: by what decoding takes, a grid, a table, or arithmetic."""
    if encoding.startswith(("gguf-iq1", "gguf-iq2", "gguf-iq3")):
        return 0.2
    if encoding == "f64":
        return 0.0  # which reads four times what the copy does
    return 0.35 if encoding in _TABLES else 0.6
