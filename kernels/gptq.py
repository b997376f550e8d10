"""GPTQ, and AutoRound's packings that share its bytes: 2 to 8 bits along the inputs.

| tensor | stored | code |
|---|---|---|
| `qweight` | words `[in * b / 32, out]` | a stream of `b` bits down each column, lowest bit first |
| `qzeros` | words `[groups, out * b / 32]` | the same along each row |
| `scales` | F16, BF16 or F32 `[groups, out]` | |
| `g_idx` | I32 `[in]` | group of each input; all zeros, or no tensor: `i // group_size` |

    zero  = (stored + 1) & (2**b - 1)      checkpoint format v1 ("gptq"); v2: as stored
    zero  = 2**(b - 1)                     symmetric layers without `qzeros`
    value = (code - zero) * scale          float32, rounded once to BF16

Words are of 32 bits; 8 and 16 (`pack_dtype`) give the same streams. GPTQModel writes the zeros of
v1 by subtracting 1 from every field of a word at once, so that a zero of 0 borrows from the next
field; `zero_carry` undoes that. Output is `nn.Linear`'s `[out, in]`.

Sources: https://github.com/ModelCloud/GPTQModel nn_modules/qlinear/__init__.py
(`dequantize_weight`), utils/model.py (`convert_gptq_v1_to_v2_format_module`);
https://github.com/AutoGPTQ/AutoGPTQ nn_modules/qlinear/qlinear_cuda_old.py;
https://github.com/intel/auto-round auto_round/utils/bit_packing.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._affine import Affine, Groups, check_index, decode_columns, index_of
from anamnesis.kernels._codes import read_scales, read_zeros
from anamnesis.kernels._native import variants
from anamnesis.kernels._packed import block_inputs, room_for_scattered
from anamnesis.kernels.types import Array, Bytes, Params, Views, Wholes

_SHORT_RUN = 16  # inputs a group, on average, from which on runs pay
decode_scattered = variants("_packed:decode_scattered")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`affine`, and `groups_of` the inputs, each on its own (`index`) for act-order.

    `scalars`: `bits`, `in_features`, `groups`, `group_size`, `scale_dtype`, `rounding`;
    `wholes["g_idx"]` is the stored index, if there is one. Raises ValueError for a group that does
    not exist.
    """
    inputs, groups, size = scalars["in_features"], scalars["groups"], scalars["group_size"]
    index = index_of(inputs, size)
    if "g_idx" in wholes:
        stored = wholes["g_idx"].array.reshape(-1).astype(np.int64)
        if stored.shape != (inputs,):
            raise ValueError(f"g_idx: {stored.shape[0]:,} entries for {inputs:,} inputs")
        # All 0 of several groups is what tools write that have no order.
        if groups == 1 or stored.any():
            index = stored
    check_index(index, groups, "g_idx", "input")
    found = Groups.of(index, block_inputs(scalars["bits"], False))
    if found.of_run.size * _SHORT_RUN > inputs:
        # Short runs cost more than a zero and a scale for each input.
        found = Groups(found.starts, found.of_run, index)
    return {"affine": Affine.of(scalars), "groups_of": found}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Output rows `window`, from uint8 `[lines, bytes]` of their columns; whole words of zeros.

    `params`: `in_features`, `word_bits` (of a stored word), `zero_offset` (1 for v1, 0 for v2),
    `zero_carry`, and what `prepare` made.
    """
    affine, groups = params["affine"], params["groups_of"]
    bits, inputs, rows = affine.bits, params["in_features"], window.stop - window.start
    words = _words(blocks["qweight"], params["word_bits"])
    scales = read_scales(affine.scale_dtype, blocks["scales"])
    if words.shape[0] * 32 < inputs * bits or words.shape[1] != rows:
        raise ValueError(f"qweight: words {words.shape} for {inputs} inputs and rows {window}")
    if scales.shape[1] != rows or out.shape != (rows * inputs,):
        raise ValueError(f"scales {scales.shape}, out {out.shape}: rows {window} of {inputs}")
    zeros = _zeros(blocks.get("qzeros"), params, scales.shape)
    if groups.index is None:
        decode_columns(affine, groups, words, zeros, scales, out)
    else:
        narrow = affine.scale_dtype != "F32"
        room, kind = room_for_scattered(bits, narrow, scales), affine.last(out)
        decode_scattered(bits, narrow)(words, groups.index, zeros, scales, kind, room, out)


def _zeros(stored: Bytes | None, params: Params, shape: tuple[int, int]) -> Array:
    """Zero points as float32 `[groups, rows]`."""
    bits = params["affine"].bits
    if stored is None:
        return np.full(shape, np.float32(params["affine"].middle))
    carry = params["word_bits"] // bits if params["zero_carry"] else 0
    return read_zeros(stored, bits, params["zero_offset"], carry, False, shape)


def _words(columns: Array, word_bits: int) -> Array:
    """Columns of words as uint32 `[words, columns]`; narrower words are joined."""
    words = columns.view(f"<u{word_bits // 8}")
    if word_bits < 32:
        per = 32 // word_bits
        joined = np.zeros((-(-words.shape[0] // per), words.shape[1]), np.uint32)
        for part in range(per):
            some = words[part::per]
            # Little-endian: the first of the narrow words is the lowest part of the wide one.
            joined[: len(some)] |= some.astype(np.uint32) << np.uint32(word_bits * part)
        words = joined
    return words
