"""Layers of ModelOpt, ComfyUI, ONNX Runtime, AQLM, ExLlamaV3 and VPTQ; see `layers.py`."""

from __future__ import annotations

import json

import numpy as np

from anamnesis.kernels import ENCODINGS
from anamnesis.readers.gguf_types import encoding_of, type_named
from benchmarks.layers import GROUP, _bytes, _packed, _small, _weight
from benchmarks.models import Entry, Layer

_MODELOPT = {"quantization_config": {"quant_method": "modelopt"}}


def nvfp4_awq(rows: int, columns: int) -> Layer:
    """A factor for each column besides."""
    codes = _bytes(rows, columns // 2)
    return Layer(
        [
            _weight("U8", codes, codes.shape),
            Entry("weight_scale", "F8_E4M3", (rows, columns // 16), codes[:, ::8] % 8 + 0x38),
            Entry("weight_scale_2", "F32", (), _small(1)),
            Entry("pre_quant_scale", "F32", (columns,), _small(columns)),
        ],
        config=_MODELOPT,
    )


def modelopt_int4(rows: int, columns: int) -> Layer:
    codes, scale = _bytes(rows // 2, columns), _small(rows, columns // GROUP)
    return Layer(
        [_weight("U8", codes, codes.shape), Entry("weight_scale", "F32", scale.shape, scale)],
        config=_MODELOPT,
    )


def nvfp4_pairs(rows: int, columns: int) -> Layer:
    """Experts of Llama-4 as ModelOpt packs them: `rows` are of one expert, its inputs."""
    codes = _bytes(rows // 2, columns)
    scale, shape = codes[::8] % 8 + 0x38, (1, rows // 2, columns)
    return Layer(
        [
            Entry("down_proj", "U8", shape, codes),
            Entry("down_proj_weight_scale", "F8_E4M3", (1, rows // 16, columns), scale),
            Entry("down_proj_weight_scale_2", "F32", (), np.array(0.01, np.float32)),
        ]
    )


def onnx_nbits(rows: int, columns: int) -> Layer:
    """Of onnxruntime's `MatMulNBits`, four bits with zero points."""
    blocks = columns // 32
    codes, scales = _bytes(rows, blocks, 16), _small(rows, blocks)
    zeros = _bytes(rows, -(-blocks // 2))
    return Layer(
        [
            Entry("weight_Q4", "U8", codes.shape, codes),
            Entry("weight_scales", "F32", scales.shape, scales),
            Entry("weight_zero_points", "U8", zeros.shape, zeros),
        ],
        container="onnx",
        node={"K": columns, "N": rows, "bits": 4, "block_size": 32},
    )


def onnx_linear(kind: str, rows: int, columns: int) -> Layer:
    """Of `DequantizeLinear`: a scale and a zero point a column, or blocks of 32 along the rows."""
    if kind == "U8":
        codes, scales, zeros = _bytes(rows, columns), _small(columns), _bytes(columns)
        about = {"axis": 1}
        shape, grid = codes.shape, scales.shape
    else:
        codes, scales = _bytes(rows, columns // 2), _small(rows, columns // 32)
        zeros, about = _bytes(rows, columns // 64), {"axis": 1, "block_size": 32}
        shape, grid = (rows, columns), scales.shape
    return Layer(
        [
            Entry("weight_quantized", kind, shape, codes),
            Entry("weight_scale", "F32", grid, scales),
            Entry("weight_zero_point", kind, grid, zeros),
        ],
        container="onnx",
        operator="DequantizeLinear",
        node=about,
    )


def comfy_int4(rows: int, columns: int) -> Layer:
    """Without a rotation, which is another encoding's."""
    codes = _bytes(rows, columns // 2)
    mark = json.dumps({"format": "convrot_w4a4", "convrot_groupsize": 0}).encode()
    return Layer(
        [
            _weight("I8", codes, codes.shape),
            Entry("weight_scale", "F32", (rows,), _small(rows)),
            Entry("comfy_quant", "U8", (len(mark),), np.frombuffer(mark, np.uint8)),
        ]
    )


def comfy_w4a8(rows: int, columns: int) -> Layer:
    """In groups of 16, without a rotation."""
    codes = _bytes(rows, columns // 2)
    about = {"format": "asym_w4a8_int8", "group_size": 16, "convrot_groupsize": 0}
    mark = json.dumps(about).encode()
    relative = codes[:, ::8] % 8 + np.uint8(0x48)
    return Layer(
        [
            _weight("I8", codes, codes.shape),
            Entry("weight_s_rel", "F8_E4M3", (rows, columns // 16), relative),
            Entry("weight_s_channel", "F32", (rows,), _small(rows)),
            Entry("comfy_quant", "U8", (len(mark),), np.frombuffer(mark, np.uint8)),
        ]
    )


def aqlm(rows: int, columns: int) -> Layer:
    """Two books of 256 vectors of 8 columns."""
    books = (_small(2, 256, 1, 8) - np.float32(2.0**-7)).astype("<f2")
    return Layer(
        [
            Entry("codes", "I8", (rows, columns // 8, 2), _bytes(rows, columns // 8, 2)),
            Entry("codebooks", "F16", books.shape, books),
            Entry("scales", "F16", (rows, 1, 1, 1), np.full(rows, 1.5, "<f2")),
        ]
    )


def exl2(rows: int, columns: int) -> Layer:
    """A half of the inputs in groups of 128 with 5 bits, the other with 4."""
    rows, count = -(-rows // 8) * 8, columns // 128
    lines = np.where(np.arange(count) < count // 2, 5, 4) * 4
    groups = np.stack([lines // 4, np.cumsum(lines) - lines], 1).astype("<u2")
    order = np.random.default_rng(5).permutation(columns).astype("<i4")
    return Layer(
        [
            _packed("q_weight", int(lines.sum()), rows),
            Entry("q_groups", "I16", (2 * count,), groups),
            _packed("q_scale", count, rows // 8),
            Entry("q_scale_max", "F16", (count,), np.full(count, 1.5, "<f2")),
            Entry("q_invperm", "I32", (columns,), order),
        ]
    )


def exl3(bits: int, codebook: str, rows: int, columns: int) -> Layer:
    """Whole groups of 128 outputs."""
    rows = -(-rows // 128) * 128
    tile = (columns // 16, rows // 16, 16 * bits)
    entries = [
        Entry("trellis", "I16", tile, _bytes(*tile[:2], 32 * bits)),
        Entry("suh", "F16", (columns,), np.full(columns, -1.5, "<f2")),
        Entry("svh", "F16", (rows,), np.full(rows, 0.0625, "<f2")),
    ]
    if codebook == "mul1":
        entries.append(Entry("mul1", "I32", (), np.array(0x83DCD12D, "<u4")))
    return Layer(entries)


def spqr(rows: int, columns: int) -> Layer:
    """Two outliers in every row."""
    tiles = columns // 16
    words = _bytes(rows * tiles, 8).view("<u8")[:, 0] & np.uint64((1 << 54) - 1)
    # Four numbers of a tile, in its sixteen words: scales of 1/64 and 1, zeros of 8.5 and 3.5.
    tile = np.array([2.0**-6, 1, 8.5, 3.5], "<f2").view(np.uint8).repeat(2).astype("<u8")
    words |= np.tile(tile << np.uint64(54), rows // 16 * tiles)
    columns_of, halves = np.arange(2 * rows) % columns, np.full(2 * rows, 0.5, "<f2").view("<u2")
    outliers = columns_of.astype("<u4") | halves.astype("<u4") << 16
    order = np.random.default_rng(6).permutation(columns).astype("<u2")
    return Layer(
        [
            Entry("dense_weights", "I64", words.shape, words),
            Entry("row_offsets", "I32", (rows + 1,), np.arange(0, 2 * rows + 1, 2, dtype="<i4")),
            Entry("col_vals", "I32", outliers.shape, outliers),
            Entry("in_perm", "I32", (columns // 2,), order.view("<i4")),
        ]
    )


def squeezellm(rows: int, columns: int) -> Layer:
    """Two outliers in every row, and the last one kept whole."""
    tables = np.linspace(-1, 1, 16 * rows, dtype=np.float32).reshape(rows, 16)
    columns_of, offsets = np.arange(2 * rows) % columns, np.arange(0, 2 * rows + 1, 2)
    return Layer(
        [
            _packed("qweight", columns // 8, rows),
            Entry("lookup_table", "F32", tables.shape, tables),
            Entry("rows", "I32", offsets.shape, offsets.astype("<i4")),
            Entry("cols", "I32", columns_of.shape, columns_of.astype("<i4")),
            Entry("vals", "F32", columns_of.shape, _small(2 * rows)),
            Entry("full_rows", "F32", (columns, 1), _small(columns, 1)),
            Entry("full_row_indices", "I32", (1,), np.array([rows - 1], "<i4")),
        ]
    )


def repacked(kind: str, together: int, rows: int, columns: int) -> Layer:
    """Rows of one of ik_llama.cpp's types; a repacked block begins with the scale of each row."""
    plain = ENCODINGS[encoding_of(kind)]
    groups, blocks = rows // together, columns // plain.block_elems
    data = _bytes(groups * blocks, together * plain.block_bytes)
    scales = np.resize(_small(4099), (groups * blocks, together)).astype("<f2")
    data[:, : 2 * together] = scales.view(np.uint8)
    return Layer([_weight(f"{kind}_R{together}", data, (rows, columns))], container="gguf")


def iq1_rows(kind: str, rows: int, columns: int) -> Layer:
    """Four rows together: their scales, then blocks of 32 of each."""
    found = type_named(kind)
    assert found is not None
    groups, size = rows // 4, 4 * found[1].block_bytes
    data = _bytes(groups, 8 + columns // 32 * size)
    data[:, :8] = np.resize(_small(4099), (groups, 4)).astype("<f2").view(np.uint8)
    return Layer([_weight(kind, data, (rows, columns))], container="gguf")


def comfy_awq(rows: int, columns: int) -> Layer:
    """In groups of 64."""
    codes = _bytes(rows, columns // 2)
    numbers = np.full((columns // 64, rows), 1.5, "<f2")
    mark = json.dumps({"format": "awq_w4a16", "group_size": 64}).encode()
    return Layer(
        [
            _weight("I8", codes, codes.shape),
            Entry("weight_scale", "F16", numbers.shape, numbers),
            Entry("weight_zero", "F16", numbers.shape, numbers),
            Entry("comfy_quant", "U8", (len(mark),), np.frombuffer(mark, np.uint8)),
        ]
    )


def comfy_svdquant(rows: int, columns: int) -> Layer:
    """Of rank 16, not in tiles."""
    rank, codes = 16, _bytes(rows, columns // 2)
    scale, up = np.full((columns // 64, rows), 1.5, "<f2"), np.full((rows, rank), 0.25, "<f2")
    mark = json.dumps({"format": "svdquant_w4a4"}).encode()
    return Layer(
        [
            _weight("I8", codes, codes.shape),
            Entry("weight_scale", "F16", scale.shape, scale),
            Entry("smooth_factor", "F16", (columns,), np.full(columns, 1.5, "<f2")),
            Entry("proj_down", "F16", (columns, rank), np.full((columns, rank), 0.25, "<f2")),
            Entry("proj_up", "F16", up.shape, up),
            Entry("comfy_quant", "U8", (len(mark),), np.frombuffer(mark, np.uint8)),
        ]
    )


def nunchaku(fp4: bool, rows: int, columns: int) -> Layer:
    """Of rank 32, in INT4 or NVFP4; whole tiles of 128 rows."""
    rows = -(-rows // 128) * 128
    rank, codes = 32, _bytes(rows, columns // 2)
    scale = Entry(
        "wscales", "F16", (columns // 64, rows), np.full(rows * columns // 64, 1.5, "<f2")
    )
    if fp4:
        numbers = codes.reshape(-1)[: rows * columns // 16] % 8 + 0x38
        scale = Entry("wscales", "F8_E4M3", (columns // 16, rows), numbers)
    low = {"proj_down": columns, "proj_up": rows}
    return Layer(
        [
            Entry("qweight", "I8", codes.shape, codes),
            scale,
            Entry("smooth_factor", "F16", (columns,), np.full(columns, 1.5, "<f2")),
            *(Entry(n, "F16", (k, rank), np.full((k, rank), 0.25, "<f2")) for n, k in low.items()),
        ]
    )


def vptq(rows: int, columns: int) -> Layer:
    """Vectors of 8 outputs, of two books of 256, scaled and shifted."""
    books = (_small(2, 1, 256 * 8) - np.float32(2.0**-7)).astype("<f2")
    about = {"vector_lens": [-1, 8], "num_centroids": [-1, 256], "num_res_centroids": [-1, 256]}
    return Layer(
        [
            Entry("indices", "I32", (1, rows // 8, columns // 2), _bytes(rows // 8, columns * 2)),
            Entry("centroids.weight", "F16", books[0].shape, books[0]),
            Entry("res_centroids.weight", "F16", books[1].shape, books[1]),
            Entry("weight_scale", "F16", (columns,), np.full(columns, 1.5, "<f2")),
            Entry("weight_bias", "F16", (columns,), np.full(columns, 0.0625, "<f2")),
        ],
        config={"quantization_config": {"quant_method": "vptq", **about}},
    )


def fp8_divided(rows: int, columns: int) -> Layer:
    """GPTQModel's: a scale a row that is an inverse."""
    codes, scale = _bytes(rows, columns), np.full(rows, 3.0, "<f4")
    codes[codes & 0x7F == 0x7F] = 0x38  # no code that is no number
    about = {"quant_method": "fp8", "weight_scale_semantics": "inverse"}
    return Layer(
        [_weight("F8_E4M3", codes, codes.shape), Entry("weight_scale_inv", "F32", (rows,), scale)],
        config={"quantization_config": about},
    )


def fouroversix(rows: int, columns: int) -> Layer:
    """NVFP4 with scales in tiles; whole tiles of 128 rows."""
    rows = -(-rows // 128) * 128
    codes = _bytes(rows, columns // 2)
    scales = _bytes(rows * columns // 16) % 0x78
    about = np.array([rows, columns, rows, columns, 1, 1])
    return Layer(
        [
            Entry("quantized_weight_values", "U8", codes.shape, codes),
            Entry("quantized_weight_scale_factors", "F8_E4M3", scales.shape, scales),
            Entry("quantized_weight_amax", "F32", (1,), np.ones(1, np.float32)),
            Entry("quantized_weight_metadata", "I64", (6,), about),
        ],
        config={"quantization_config": {"quant_method": "fouroversix", "dtype": "nvfp4"}},
    )


def ct_sparse(rows: int, columns: int) -> Layer:
    """FP8 of which every first and third of four is kept, with a scale a row."""
    codes, mask = _bytes(rows, columns // 2) % 0x78, np.full((rows, columns // 8), 0x55, np.uint8)
    return Layer(
        [
            Entry("compressed", "F8_E4M3", codes.shape, codes),
            Entry("bitmask", "U8", mask.shape, mask),
            Entry("weight_scale", "F32", (rows, 1), _small(rows)),
        ],
        config={"quantization_config": {"quant_method": "compressed-tensors"}},
    )


def i2_s(rows: int, columns: int) -> Layer:
    """bitnet.cpp's ternary weights, with their scale behind them."""
    data = _bytes(rows * columns // 128 + 1, 32)
    data[-1, :4] = _small(1).view(np.uint8)
    return Layer([_weight("I2_S", data, (rows, columns))], container="gguf")
