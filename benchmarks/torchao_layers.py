"""Layers of torchao: tensors of a class, which the file's metadata describes.

As `layers.py` has those of others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.layers import GROUP, _bf16, _bytes, _small
from benchmarks.models import Entry, Layer


def _torchao(kind: str, parts: dict[str, tuple[str, Any]], **about: Any) -> Layer:
    entries = [
        Entry(f"_weight_{role}", dtype, array.shape, array)
        for role, (dtype, array) in parts.items()
    ]
    about = {"_type": kind, "_data": about, "_tensor_data_names": list(parts)}
    return Layer(entries, described=about)


def int4(rows: int, columns: int) -> Layer:
    scale = "BF16", _bf16(_small(columns // GROUP, rows))
    parts = {"qdata": ("I8", _bytes(rows, columns // 2)), "scale": scale, "zero_point": scale}
    return _torchao("Int4Tensor", parts, block_size=[1, GROUP], shape=[rows, columns])


def int4_plain(rows: int, columns: int) -> Layer:
    """As an XPU stores it."""
    codes, groups = _bytes(rows, columns // 2).view("<i4"), columns // GROUP
    zeros = (_bytes(groups, rows) % 16).astype(np.int8)
    scale = "BF16", _bf16(_small(groups, rows))
    parts = {"qdata": ("I32", codes), "scale": scale, "zero_point": ("I8", zeros)}
    return _torchao("Int4PlainInt32Tensor", parts, block_size=[1, GROUP], shape=[rows, columns])


def int4_tiles(rows: int, columns: int) -> Layer:
    """In NVIDIA's tiles, whose groups have codes 0 and 15, as these are told from AMD's by."""
    codes = _bytes(rows // 8, columns // 128, 32, 16)
    # Words of lane 4 r: one in each run of 32 inputs of row r.
    codes[:, :, ::4, ::4] = 0xF0
    numbers = _bf16(_small(columns // GROUP, 2 * rows)).reshape(columns // GROUP, rows, 2)
    parts = {"qdata": ("I32", codes.view(np.int32)), "scale_and_zero": ("BF16", numbers)}
    about = {"block_size": [1, GROUP], "shape": [rows, columns]}
    return _torchao("Int4TilePackedTo4dTensor", parts, **about)


def tiles(kind: str, rows: int, columns: int) -> Layer:
    """MXFP8, MXFP4 or NVFP4 with scales in tiles of 128 rows and 4 blocks."""
    size = 16 if kind == "nvfp4" else 32
    codes = _bytes(rows, columns if kind.startswith("mxfp8") else columns // 2)
    if kind.startswith("mxfp8"):
        codes[(codes & 0x7F) >= 0x7C] = 0
    scale = _bytes(32 * -(-rows // 128), 16 * -(-columns // size // 4)) % 8
    if kind == "nvfp4":
        parts = {"qdata": ("U8", codes), "scale": ("F8_E4M3", scale + np.uint8(0x38))}
        return _torchao("NVFP4Tensor", parts, block_size=size, is_swizzled_scales=True)
    dtypes = {"mxfp8-e4m3": ("F8_E4M3", "float8_e4m3fn"), "mxfp8-e5m2": ("F8_E5M2", "float8_e5m2")}
    dtype, element = dtypes.get(kind, ("U8", "float4_e2m1fn_x2"))
    return _torchao(
        "MXTensor",
        {"qdata": (dtype, codes), "scale": ("F8_E8M0", scale + np.uint8(116))},
        elem_dtype={"_type": "torch.dtype", "_data": element},
        block_size=size,
        is_swizzled_scales=True,
    )
