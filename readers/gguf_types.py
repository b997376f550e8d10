"""ggml's tensor types as GGUF numbers them: block geometry, and names for those not read.

Numbers and names: https://github.com/ggml-org/ggml/blob/master/include/ggml.h, `enum ggml_type`.
Geometry of the quantised types comes from the table of encodings, so a new row there is enough.

FP8 E4M3 is 43 of ggml, the last of its types in llama.cpp as npm's @wllama/wllama 3.13.0 (November
2026) has it compiled: one byte an element, no quantised type; the ggml 0.25.3 of llama-cpp-python
0.3.36 ends at 42. 44 is stable-diffusion.cpp's E5M2 (include/stable-diffusion.h at commit 3f8527a,
`sd_type_t`, whose 43 is the same E4M3), of one byte too. Forks of llama.cpp use 43 for
blocks that hold a scale too; those take more room, so the rule that tensors lie side by side tells
them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.kernels import ENCODINGS
from anamnesis.readers.dtypes import DTYPES

Q2_0, Q2_0_G128, I2_S = "Q2_0", "Q2_0_G128", "I2_S"


class GgmlType(NamedTuple):
    """`block_elems` elements of a row take `block_bytes`; a row begins with `row_meta` bytes.

    Of `rows` rows the bits are in one another's places, and apart they are of the type `plain`, if
    there is one. Where a tensor ends with a `tail` of bytes, its blocks go on from row to row.
    """

    name: str
    block_elems: int
    block_bytes: int
    row_meta: int = 0
    rows: int = 1
    plain: str = ""
    tail: int = 0


class KeyValue(NamedTuple):
    """A typed value of a header; of an array `value` is a list, and `item_type` its items' type."""

    type_id: int
    value: Any
    item_type: int = -1


FLOAT32, BOOL, STRING, ARRAY = 6, 7, 8, 9
# Types of values that are numbers: name, and code of `struct`.
NUMBERS: dict[int, tuple[str, str]] = {
    0: ("uint8", "B"),
    1: ("int8", "b"),
    2: ("uint16", "H"),
    3: ("int16", "h"),
    4: ("uint32", "I"),
    5: ("int32", "i"),
    6: ("float32", "f"),
    7: ("bool", "B"),
    10: ("uint64", "Q"),
    11: ("int64", "q"),
    12: ("float64", "d"),
}


def encoding_of(dtype: str) -> str:
    """The name that the table of encodings has for a quantised type: Q4_K is `gguf-q4-k`."""
    return "gguf-" + dtype.lower().replace("_", "-")


FP8 = {43: "F8_E4M3", 44: "F8_E5M2"}
_PLAIN = {
    0: "F32",
    1: "F16",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    30: "BF16",
    **FP8,
}

_QUANTISED = {
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
    42: Q2_0,
    133: "Q6_0",
    134: "IQ1_BN",
    135: "IQ2_BN",
    137: "IQ2_K",
    138: "IQ3_K",
    139: "IQ4_K",
    140: "IQ5_K",
    141: "IQ6_K",
    144: "IQ4_KS",
    145: "IQ2_KS",
    146: "IQ4_KSS",
    152: "IQ5_KS",
    153: "IQ2_KT",
    154: "IQ3_KT",
    155: "IQ4_KT",
    156: "IQ3_KS",
    157: "IQ2_KL",
    158: "IQ1_KT",
}

_REFUSED = {
    4: "Q4_2, removed from ggml",
    5: "Q4_3, removed from ggml",
    9: "Q8_1, a type of activations that is never stored",
    15: "Q8_K, a type of activations that is never stored",
    31: "Q4_0_4_4, removed from ggml",
    32: "Q4_0_4_8, removed from ggml",
    33: "Q4_0_8_8, removed from ggml",
    37: "IQ4_NL_4_8, removed from ggml",
    38: "IQ4_NL_8_8, removed from ggml",
    51: "FP8 E4M3 of a fork of llama.cpp, with scales in blocks of 32 or beside the tensor",
    52: "FP8 E5M2 of a fork of llama.cpp, with scales in blocks of 32",
    142: "PQ2_0 of PrismML, or IQ2_TN of ik_llama.cpp",
    143: "PTQ1_0 of PrismML, or IQ1_TN of ik_llama.cpp",
    255: "FP8 E4M3 of a fork of llama.cpp, whose layout no release of it says",
}
# Where numbers of 16 bits lie in the blocks of big-endian files; gguf-py's gguf_convert_endian.py
# (0.19) swaps the bytes of these types and of no others.
BYTE_SWAPPED: dict[str, tuple[int, ...]] = {
    "MXFP4": (),
    "NVFP4": (),
    "Q4_0": (0,),
    "Q4_K": (0, 2),
    "Q6_K": (208,),
    "Q8_0": (0,),
}
_PRIVATE = range(133, 400)  # ik_llama.cpp's own
# Of those, with four or eight rows repacked together: the plain type, and how many rows.
_REPACKED: dict[int, tuple[str, int]] = {
    202: ("Q4_0", 8),
    206: ("Q5_0", 4),
    208: ("Q8_0", 8),
    210: ("Q2_K", 4),
    211: ("Q3_K", 4),
    212: ("Q4_K", 4),
    213: ("Q5_K", 4),
    214: ("Q6_K", 4),
    216: ("IQ2_XXS", 4),
    217: ("IQ2_XS", 4),
    218: ("IQ3_XXS", 4),
    220: ("IQ4_NL", 4),
    221: ("IQ3_S", 4),
    222: ("IQ2_S", 4),
    223: ("IQ4_XS", 8),
    233: ("Q6_0", 4),
    335: ("IQ2_BN", 4),
    337: ("IQ2_K", 4),
    338: ("IQ3_K", 4),
    339: ("IQ4_K", 4),
    340: ("IQ5_K", 4),
    344: ("IQ4_KS", 4),
    352: ("IQ5_KS", 4),
    353: ("MXFP4", 8),
}
# Those that no row of the table of encodings has for itself.
_OTHERS: dict[int, GgmlType] = {
    36: GgmlType(I2_S, 128, 32, tail=32),  # bitnet.cpp's; ggml never wrote its own IQ4_NL_4_4
    # Four rows together in blocks of 32, of no plain type.
    219: GgmlType("IQ1_S_R4", 32, 6, 2, rows=4),
    229: GgmlType("IQ1_M_R4", 32, 7, 2, rows=4),
}
_INTERLEAVED = range(202, 400)  # other such types
_PRIVATE_NAMES = {
    151: "Q8_KV, a type of caches,",
    230: "BF16_R16, sixteen rows repacked together,",
    397: "Q8_K_R16, a type of repacked activations,",
    398: "Q8_KV_R8, a type of repacked caches,",
    399: "Q8_K_R8, whose blocks are others than Q8_K has,",
}


def _table() -> dict[int, GgmlType]:
    table = {i: GgmlType(name, 1, DTYPES[name].bits // 8) for i, name in _PLAIN.items()}
    for type_id, name in _QUANTISED.items():
        row = ENCODINGS.get(encoding_of(name))
        if row is not None and row.ggml_type == type_id:
            table[type_id] = GgmlType(name, row.block_elems, row.block_bytes, row.row_meta)
    geometry = {row.name: row for row in table.values()}
    for type_id, (name, rows) in _REPACKED.items():
        if name in geometry:
            repacked = f"{name}_R{rows}"
            table[type_id] = geometry[name]._replace(name=repacked, rows=rows, plain=name)
    return table | _OTHERS


GGML_TYPES: dict[int, GgmlType] = _table()


_NUMBERS_OF = {row.name: type_id for type_id, row in GGML_TYPES.items()}


def type_named(name: str) -> tuple[int, GgmlType] | None:
    """Number and geometry of the type of that name, if there is one that is read."""
    number = _NUMBERS_OF.get(name)
    return None if number is None else (number, GGML_TYPES[number])


def ggml_type(type_id: int, where: str) -> GgmlType:
    """The type of that number; `where` names file and tensor in errors.

    Raises UnsupportedError for a type that ggml or a fork has, FormatError for any other number.
    """
    row = GGML_TYPES.get(type_id)
    if row is not None:
        return row
    name = _REFUSED.get(type_id) or _QUANTISED.get(type_id)
    if name is None and type_id in _PRIVATE:
        plain = "rows repacked together" if type_id in _INTERLEAVED else "a type"
        name = f"{_PRIVATE_NAMES.get(type_id, plain)} of ik_llama.cpp"
    if name is None:
        raise FormatError(f"{where}: type {type_id:,} is none that ggml has")
    readable = ", ".join(sorted(t.name for t in GGML_TYPES.values()))
    raise UnsupportedError(f"{where}: type {type_id} ({name}) is not read; these are: {readable}")


def q2_0_group_128() -> GgmlType | None:
    """The early Q2_0 of PrismML: same number, but 128 elements in 34 bytes; None without a row."""
    row = ENCODINGS.get(encoding_of(Q2_0_G128))
    return None if row is None else GgmlType(Q2_0_G128, row.block_elems, row.block_bytes)
