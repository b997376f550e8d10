"""Stored number formats: width in bits, and the numpy dtype that holds the raw numbers.

Names are those of safetensors (https://github.com/huggingface/safetensors, `Dtype` in
tensor.rs). A format without a numpy dtype of its own is held as unsigned bits.
"""

from __future__ import annotations

from typing import NamedTuple


class Dtype(NamedTuple):
    """`bits` an element; `numpy` the type string of the raw numbers, "" when packed."""

    bits: int
    numpy: str
    kind: str  # "float", "int", "bool", "complex", or "code" for numbers that need a scale


DTYPES: dict[str, Dtype] = {
    "BF16": Dtype(16, "<u2", "float"),
    "BOOL": Dtype(8, "|u1", "bool"),
    "C128": Dtype(128, "<c16", "complex"),
    "C64": Dtype(64, "<c8", "complex"),
    "F16": Dtype(16, "<f2", "float"),
    "F32": Dtype(32, "<f4", "float"),
    "F4": Dtype(4, "", "code"),
    "F64": Dtype(64, "<f8", "float"),
    "F6_E2M3": Dtype(6, "", "code"),
    "F6_E3M2": Dtype(6, "", "code"),
    "F8_E4M3": Dtype(8, "|u1", "code"),
    "F8_E4M3FNUZ": Dtype(8, "|u1", "code"),
    "F8_E5M2": Dtype(8, "|u1", "code"),
    "F8_E5M2FNUZ": Dtype(8, "|u1", "code"),
    "F8_E8M0": Dtype(8, "|u1", "code"),
    "I16": Dtype(16, "<i2", "int"),
    "I32": Dtype(32, "<i4", "int"),
    "I64": Dtype(64, "<i8", "int"),
    "I8": Dtype(8, "|i1", "int"),
    "U16": Dtype(16, "<u2", "int"),
    "U32": Dtype(32, "<u4", "int"),
    "U64": Dtype(64, "<u8", "int"),
    "U8": Dtype(8, "|u1", "int"),
}
