"""Codes of 1 to 8 bits as a dense little-endian stream: code k is bits [k * b, (k + 1) * b)."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._native import variants
from anamnesis.kernels.types import Array, Bytes

_packer = variants("_pack:packer")


def pack(codes: Bytes, bits: int, out: Array) -> None:
    """Pack a flat uint8 array of a multiple of eight codes into `bits / 8` bytes each."""
    _packer(bits)(codes, out)


def pack_rows(codes: Bytes, bits: int) -> Array:
    """Codes `[rows, columns]` as int32 words `[rows, ceil(columns * bits / 32)]`, rows apart."""
    rows, columns = codes.shape
    words = -(-columns * bits // 32)
    wide = -(-columns // 32) * 32
    if wide != columns:
        padded = np.zeros((rows, wide), np.uint8)
        padded[:, :columns] = codes
        codes = padded
    out = np.empty(codes.size * bits // 8, np.uint8)
    pack(np.ascontiguousarray(codes).reshape(-1), bits, out)
    return out.view("<i4").reshape(rows, -1)[:, :words]
