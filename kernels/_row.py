"""What a row of the table of encodings holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

# The headings of benchmarks, in the order they are shown.
FAMILIES = (
    "FP8",
    "GGUF",
    "bitsandbytes",
    "GPTQ and AWQ",
    "compressed-tensors",
    "FP4 and FP6",
    "AQLM",
    "EXL3",
    "VPTQ",
    "ModelOpt and ComfyUI INT4",
    "torchao",
    "MLX",
    "HQQ, Quanto and BitNet",
    "Dense",
)


class Bench(NamedTuple):
    """A layer that kernels are measured and tested on.

    `layer`, a "module:function" inside benchmarks, makes it of `(*arguments, rows, columns)`.
    `target` is what another implementation, or a prototype of this one, reached on a machine like
    the one in docs/performance-experiments.md: million elements a second on one thread.
    `passthrough` is the dtype that dense tensors are cast to.
    """

    name: str
    layer: str
    arguments: tuple[Any, ...] = ()
    target: int = 0
    passthrough: str = ""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A row of the table.

    `goal` is the part of a plain copy's speed that the kernel should reach: about 0.2 where it
    looks up a grid, 0.35 for a table of values, 0.6 for arithmetic alone; 0 is none.
    """

    target: str  # "module:function" inside anamnesis.kernels
    family: str  # one of FAMILIES
    cases: tuple[Bench, ...]
    prepare: str = ""  # "module:function" that turns whole components into kernel arguments
    stack: str = ""  # "module:function" with the parameters of alike tensors as one
    block_elems: int = 0
    block_bytes: int = 0
    row_meta: int = 0  # bytes before the blocks of each row
    ggml_type: int = -1
    scales: str = ""  # role of the component that holds the scales, of blocks that do not
    sections: str = ""  # "module:callable" inside anamnesis.analytics.scan; none: bytes alone
    goal: float = 0.0
