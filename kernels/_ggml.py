"""What ggml's encoders share: its roundings, in float32 and in ggml's own order, and block glue.

Sums run from the first element to the last, as C compiled without `-ffast-math` has it; a product
and a sum are two roundings, as in a build without fused multiply-add (libggml-python's). Source:
https://github.com/ggml-org/ggml, src/ggml-quants.c.
"""

from __future__ import annotations

from typing import Any

from anamnesis.kernels import ENCODINGS
from anamnesis.kernels.encoders import Form, Part, Settings, Shape, matrix_of


def form_blocks(encoding: str, name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """One part: the rows as blocks of a ggml type, as bytes."""
    row = ENCODINGS[encoding]
    _, columns = matrix_of(shape, row.block_elems)
    kind = encoding.removeprefix("gguf-").replace("-", "_").upper()
    part = Part("blocks", name, kind, shape, 1, columns, row.block_elems, row.block_bytes)
    return Form(columns, (part,))


def run_blocks(kernel: Any, values: Any, encoding: str, out: Any) -> None:
    """Call `kernel(values, out)` on flat float32 values and the bytes of their blocks."""
    row = ENCODINGS[encoding]
    if len(values) // row.block_elems * row.block_bytes != len(out):
        raise ValueError(f"{len(values)} values do not fill {len(out)} bytes of {encoding}")
    kernel(values, out)


def run_groups(kernel: Any, values: Any, group: int, encoding: str, out: Any) -> None:
    """Call `kernel(values, groups, out)`, where `groups` are the values, `group` of them a row."""
    groups = values.reshape(-1, group)
    run_blocks(lambda flat, blocks: kernel(flat, groups, blocks), values, encoding, out)
