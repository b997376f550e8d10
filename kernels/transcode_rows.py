"""Codes of a byte whose scales are numbers beside them: FP8, and bitsandbytes' INT8.

Codes are copied. The scales of a window are the run of the grid that its part says, in a dtype that
has all of them. A grid that is longer than the weight (`stored_grid`) is cut to what is used.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.fp8 import used_blocks
from anamnesis.kernels.transcode_ints import exactly
from anamnesis.kernels.types import Array, Bytes, Outputs, Params, Views


class Rows(NamedTuple):
    """Codes, bytes in any shape, and all scales of the tensor, or of the window, flat."""

    codes: Bytes
    scales: Array


def read_fp8(views: Views, params: Params, window: Window) -> Rows:
    """E4M3 codes under a grid."""
    scale = params["wholes"]["scale"]
    grid = used_blocks(params, scale.array)
    if scale.dtype not in ("U8", "F8_E8M0"):
        grid = to_float32(scale.dtype, grid)
    return Rows(views["payload"].reshape(-1), np.ascontiguousarray(grid).reshape(-1))


def write_fp8(found: Rows, params: Params, out: Outputs) -> None:
    """The same codes, and the window's scales."""
    first, last = params["spans"]["scale"]
    scales = found.scales[first:last]
    if scales.dtype == np.uint8:
        out["scale"].view(np.uint8)[:] = scales
    else:
        out["scale"][:] = exactly(scales, params["scale_dtype"], "a scale")
    out["weight"].view(np.uint8)[:] = found.codes


def read_bnb_int8(views: Views, params: Params, window: Window) -> Rows:
    """INT8 rows with a number each."""
    return Rows(views["payload"].reshape(-1), views["SCB"].reshape(-1).view("<f4"))


def write_bnb_int8(found: Rows, params: Params, out: Outputs) -> None:
    """The same."""
    out["scale"][:] = found.scales
    out["weight"].view(np.uint8)[:] = found.codes
