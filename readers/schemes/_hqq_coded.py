"""HQQ's `quant_scale` and `quant_zero`: scales or zeros that are codes of eight bits themselves.

| beside `X.W_q` | stored |
|---|---|
| `X.scale_q`, `X.zero_q` | U8, a code a group |
| `X.meta_scale.scale`, `.zero`; `X.meta_zero.scale`, `.zero` | floats: one, or a row or a column |

for `X.scale` and `X.zero`, each by itself; settings (`X.meta_scale.axis`, `.packing` and so on) are
Python's values in the pickle. Layout and formula: `kernels/hqq_coded.py`. With `offload_meta` both
kinds of codes are stacked in one tensor, `X.zero_scale`, zeros first. Source:
https://github.com/mobiusml/hqq 0.2.8 hqq/core/quantize.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Planar
from anamnesis.readers.schemes._errors import misfit, unsupported

FLOATS = ("BF16", "F16", "F32")
_IMPLEMENTED = "HQQ with plain scales and zeros of groups, or such of 8 bits"


@dataclass(frozen=True, slots=True)
class Coded:
    """Codes of scales or zeros, their steps and middles, and how many neighbours share these."""

    codes: Stored
    step: Stored
    middle: Stored
    each: int

    def flat(self, axis: int) -> Stored:
        """The codes as what a plain layer has in their place."""
        count = math.prod(self.codes.shape)
        shape = (count, 1) if axis == 1 else (1, count)
        return replace(self.codes, dtype="F32", shape=shape)


def read_coded(
    codes: Stored, step: Stored | None, middle: Stored | None, about: Mapping[str, Any]
) -> Coded:
    """What `codes` stand for; `about` are the settings of their own quantisation.

    Raises FormatError for parts that are missing or do not fit, UnsupportedError for other bits.
    """
    if step is None or middle is None:
        raise misfit(codes, "codes beside their own scale and zero (meta_scale, meta_zero)")
    packing, bits = about.get("packing", "8bit_u8"), about.get("nbits", 8)
    if packing != "8bit_u8" or bits != 8:
        what = f"HQQ with scales or zeros of packing {packing!r:.40}, nbits {bits!r:.20}"
        raise unsupported(codes, what, _IMPLEMENTED)
    groups, count = math.prod(codes.shape), math.prod(step.shape)
    if codes.dtype != "U8" or not groups:
        raise misfit(codes, "U8, a code a group")
    for one in (step, middle):
        line = count == 1 or (len(one.shape) == 2 and 1 in one.shape)
        if one.dtype not in FLOATS or one.shape != step.shape or not line:
            raise misfit(one, f"{', '.join(FLOATS)} [], [1, n] or [n, 1], as {step.name!r}")
    if not count or groups % count:
        raise misfit(step, f"numbers for parts of {groups:,} codes")
    down = count > 1 and step.shape[1] == 1
    lines = (count, groups // count) if down else (groups // count, count)
    if count > 1 and codes.shape != lines:
        raise misfit(codes, f"U8 {list(lines)}, for {step.name!r} of {list(step.shape)}")
    return Coded(codes, step, middle, groups // count if down else 1)


def with_codes(tensor: Tensor, coded: Mapping[str, Coded], dtype: str) -> Tensor:
    """The tensor of plain scales and zeros, as one that has codes in the place of some.

    These become numbers of `dtype` before they are used.
    """
    components, params = [], {**tensor.params, "numbers": tensor.encoding, "coded": sorted(coded)}
    for one in tensor.components:
        side = coded.get(one.role)
        if side is None:
            components.append(one)
            continue
        place = one.placement
        if isinstance(place, Planar):
            place = Planar(8 * tensor.unit_elems, place.lines)
        else:
            place = Contiguous(8)
        components += [
            Component(f"{one.role}_q", side.codes, place),
            Component(one.role, side.step),
            Component(f"{one.role}_middle", side.middle),
        ]
        params |= {f"{one.role}_each": side.each, f"{one.role}_dtype": dtype}
    return replace(tensor, encoding="hqq-coded", components=tuple(components), params=params)
