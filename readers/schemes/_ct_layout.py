"""How many bits compressed-tensors packed and how: shapes tell, the config decides between equals.

| bits | columns of `weight_packed` for i inputs | |
|---|---|---|
| 1, 2, 4, 8 | `ceil(i * b / 32)` | |
| 3, 5, 6, 7 | `ceil(i * b / 32)` | a dense stream, since version 0.18 |
| 3, 5, 6, 7 | `ceil(i / (32 // b))` | padded words, to version 0.17 |

Zero points are packed the same way along the first dimension, so their words are evidence too.
Source: https://github.com/vllm-project/compressed-tensors compressors/pack_quantized/helpers.py
(`pack_to_int32`) of 0.17.1 and 0.20.0.
"""

from __future__ import annotations

from typing import NamedTuple

from anamnesis.readers.schemes._ct_config import Settings


class Packing(NamedTuple):
    """`bits` a code; `padded` words hold whole codes only."""

    bits: int
    padded: bool

    def words(self, count: int) -> int:
        """Words for `count` codes."""
        if self.padded:
            return -(-count // (32 // self.bits))
        return -(-count * self.bits // 32)

    @property
    def per_unit(self) -> int:
        """The fewest codes that fill whole words."""
        return 32 // self.bits if self.padded or 32 % self.bits == 0 else 32


_POWERS = tuple(Packing(bits, False) for bits in (1, 2, 4, 8))
_OTHERS = tuple(Packing(bits, padded) for bits in (3, 5, 6, 7) for padded in (False, True))


def packings(
    words: int, inputs: int, zero_words: int | None, rows: int, stated: Settings
) -> list[Packing]:
    """The packings that make `words` of `inputs`, and `zero_words` of `rows`; one, if all is well.

    Those that the config's bits and version speak for come alone if there are any; of two that mean
    the same bytes there is one.
    """
    found = [
        p
        for p in (*_POWERS, *_OTHERS)
        if p.words(inputs) == words and (zero_words is None or p.words(rows) == zero_words)
    ]
    if not inputs or not rows:
        found = found[:1]  # nothing is stored
    if stated.bits:
        found = [p for p in found if p.bits in stated.bits] or found
    else:  # odd ones are rare, and a padded 7 looks like an 8
        found = [p for p in found if p in _POWERS] or found
    if stated.padded is not None:
        found = [p for p in found if 32 % p.bits == 0 or p.padded == stated.padded] or found
    if len(found) == 2 and found[0].bits == found[1].bits:
        longest = max(inputs, rows if zero_words is not None else 0)
        if longest <= 32 // found[0].bits:  # one word, the same in both
            return found[:1]
    return found
