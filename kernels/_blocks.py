"""Glue of formats whose blocks hold all that they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anamnesis.kernels.types import Array


def run_blocks(
    kernel: Callable[..., Any], payload: Array, block_bytes: int, block_elems: int, out: Array
) -> None:
    """Call `kernel(bytes, out)` on `payload`, `uint8` of any shape, seen as flat bytes.

    Raises `ValueError` unless `payload` is whole blocks and `out` holds exactly their elements.
    """
    flat = payload.reshape(-1)
    blocks, rest = divmod(flat.shape[0], block_bytes)
    if rest or out.shape != (blocks * block_elems,):
        raise ValueError(
            f"{flat.shape[0]} bytes in blocks of {block_bytes} do not fill an output of shape"
            f" {out.shape} with {block_elems} elements each"
        )
    kernel(flat, out)
