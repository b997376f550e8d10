"""torchao's own layouts: Int4Tensor, and block scales in the tiles that Blackwell's GPUs read.

Int4Tensor:

| part | stored | content |
|---|---|---|
| `payload` | I8 `[rows, columns / 2]` | two's complement, element 2k in the low half |
| `scale` | BF16, F16 or F32 `[groups, rows]` | one for each group of neighbours in a row |
| `zero_point` | the same | added, a number like the weights |

    value = code * scale + zero_point       product and sum each float32, rounded once to BF16

Tiles hold the scales of 128 rows and 4 blocks each, in 512 bytes: those of row `32 * j + i` at
`16 * i + 4 * j`. Tiles follow one another along the columns first, and are filled up at both ends.
Sources: torchao 0.18 quantization/quantize_/workflows/int4/int4_tensor.py, prototype/gptq/api.py
(`_int4_row_dequantize_zp`), prototype/mx_formats/utils.py (`to_blocked`); mslk/quantize/shuffle.py
(`pack_int4`); https://docs.nvidia.com/cuda/cublas/ "1D Block Scaling Factors Layout".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, fp4, fp8
from anamnesis.kernels._codes import read_scales
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Params, Views, Wholes

TILE_ROWS, TILE_BLOCKS = 128, 4
_WORDS = 32  # of a tile, four bytes each, in one of its four columns
_int4 = kernel("torchao:int4")


def decode_int4(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows `window` from uint8 `[rows, columns / 2]` and, of the numbers, `[groups, bytes]`.

    `params`: `group_size` and `scale_dtype`. Raises ValueError for arrays that do not fit one
    another.
    """
    payload, dtype, size = blocks["payload"], params["scale_dtype"], params["group_size"]
    scales, zeros = (read_scales(dtype, blocks[name]) for name in ("scale", "zero_point"))
    rows, half = payload.shape
    fits = scales.shape == zeros.shape and scales.shape[0] * size == 2 * half
    if not fits or scales.shape[1] != rows or size % 2 or out.shape != (rows * 2 * half,):
        raise ValueError(
            f"payload {payload.shape}, scale {scales.shape}, zero_point {zeros.shape}, out "
            f"{out.shape}: {window} in groups of {size}"
        )
    codes = payload.reshape(-1)
    _int4(codes, size, scales, zeros, out)


def prepare_tiles(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """As `fp8.prepare`, of E8M0 scales in tiles: those of all stacked matrices, row after row."""
    stored, (matrices, rows, columns) = wholes["scale"], scalars["grid"]
    flat = untile(stored.array.reshape(-1).view(np.uint8), matrices * rows, columns)
    return fp8.prepare(scalars, {"scale": stored._replace(array=flat)})


# With the scales in their order the codes are as any others.
decode_tiled_e4m3, decode_tiled_e5m2 = fp8.decode_e4m3, fp8.decode_e5m2


def decode_tiled_mx(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """MXFP4 with scales in tiles: units of 128 rows, the last maybe short.

    `params`: `in_features`. Raises ValueError for arrays that do not fit one another.
    """
    parts, _ = _rows(blocks, params, window, out, 32)
    fp4.decode_mx(parts, params, window, out)


def decode_tiled_nv(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """NVFP4, the same; `params` are those of `fp4.prepare_nv` besides.

    With `high_first` (ComfyUI) element 2k is in the high half of a byte.
    """
    parts, rows = _rows(blocks, params, window, out, 16)
    if params.get("high_first"):
        parts["payload"] = parts["payload"] << np.uint8(4) | parts["payload"] >> np.uint8(4)
    fp4.decode_nv(parts, params, rows, out)


def _rows(
    blocks: Views, params: Params, window: Window, out: Array, block: int
) -> tuple[dict[str, Any], Window]:
    """Codes and scales row by row, and which rows they are."""
    columns = params["in_features"]
    rows, rest = divmod(out.shape[0], max(1, columns))
    units = window.stop - window.start
    if rest or not (units - 1) * TILE_ROWS < rows <= units * TILE_ROWS:
        raise ValueError(f"out {out.shape} for units {window} of {TILE_ROWS} x {columns}")
    payload = blocks["payload"].reshape(-1)
    if payload.size < rows * columns // 2:
        raise ValueError(f"payload: {payload.size} bytes for {rows} rows of {columns}")
    scale = untile(blocks["scale"].reshape(-1), rows, columns // block)
    first = window.start * TILE_ROWS
    codes = payload[: rows * columns // 2].reshape(rows, columns // 2)
    return {"payload": codes, "scale": scale}, Window(first, first + rows)


def untile(data: Array, rows: int, blocks: int) -> Array:
    """uint8 `[rows, blocks]` of the scales in tiles; raises ValueError for other sizes."""
    down, across = -(-rows // TILE_ROWS), -(-blocks // TILE_BLOCKS)
    if data.size < down * across * TILE_ROWS * TILE_BLOCKS:
        raise ValueError(f"scale: {data.size} bytes for {down} x {across} tiles")
    words = data[: down * across * TILE_ROWS * TILE_BLOCKS].view(np.uint32)
    lines = words.reshape(down, across, _WORDS, TILE_ROWS // _WORDS).transpose(0, 3, 2, 1)
    plain = np.ascontiguousarray(lines).view(np.uint8)
    plain = plain.reshape(down * TILE_ROWS, across * TILE_BLOCKS)[:rows, :blocks]
    return np.ascontiguousarray(plain)
