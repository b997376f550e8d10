"""GGUF's first block types, 32 elements each: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

| type | scale d | code of an element |
|---|---|---|
| Q8_0 | greatest magnitude / 127 | `roundf(w / d)` |
| Q4_0, Q5_0 | the number of greatest magnitude / -8, -16 | `trunc(w / d + 8.5)`, `+ 16.5` |
| Q4_1, Q5_1 | (most - least) / 15, 31; m = least | `trunc((w - m) / d + 0.5)` |

where `w / d` is `w * (1 / d)`, of the float32 d that is then stored as binary16. With an importance
matrix d and m are searched for as those of Q6_K and Q4_K (`encode_gguf_k`), a block being a group,
with weights of the column times `sqrt(variance + w * w)`, the variance being the mean of `w * w` in
the row; Q8_0 has none. Layouts are in `gguf_legacy`. Source: ggml `src/ggml-quants.c`,
`quantize_row_q8_0_ref` and its neighbours, `quantize_row_q4_0_impl` to `quantize_row_q5_1_impl`.
"""

from __future__ import annotations

from collections.abc import Callable

from anamnesis.kernels._ends_ggml import by_scale
from anamnesis.kernels._ggml import of_blocks, of_groups
from anamnesis.kernels._native import Kernel, kernel, variants
from anamnesis.kernels.encoders import Encode
from anamnesis.kernels.loss import Codes
from anamnesis.kernels.readback import Facts, Parts

_above_least = variants("encode_gguf_legacy:above_least")
_around_zero = variants("encode_gguf_legacy:around_zero")
_weighted_above_least = variants("encode_gguf_legacy_weighted:above_least")
_weighted_around_zero = variants("encode_gguf_legacy_weighted:around_zero")
ends_q4_0, ends_q4_1 = by_scale(-8.5, 7.5), by_scale(-0.5, 15.5, biased=True)
ends_q5_0, ends_q5_1 = by_scale(-16.5, 15.5), by_scale(-0.5, 31.5, biased=True)
ends_q8_0 = by_scale(-127.5, 127.5)


def _as_stored(form: str) -> Callable[[Parts, Facts], Codes]:
    """Blocks as they are."""
    return lambda parts, facts: Codes(form, parts["blocks"], 32)


codes_q4_0, codes_q4_1, codes_q8_0 = map(_as_stored, ("q4-0", "q4-1", "q8-0"))


def _of_blocks(encoding: str, alone: Kernel, weighted: Kernel) -> Encode:
    """A block is a group."""
    return of_groups(encoding, lambda flat, _, out: alone(flat, out), (32, 0, 1), weighted)


encode_q4_0 = _of_blocks("gguf-q4-0", _around_zero(8), _weighted_around_zero(8))
encode_q4_1 = _of_blocks("gguf-q4-1", _above_least(15), _weighted_above_least(15))
encode_q5_0 = _of_blocks("gguf-q5-0", _around_zero(16), _weighted_around_zero(16))
encode_q5_1 = _of_blocks("gguf-q5-1", _above_least(31), _weighted_above_least(31))
encode_q8_0 = of_blocks("gguf-q8-0", kernel("encode_gguf_legacy:q8_0"))
