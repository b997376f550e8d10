"""When integers that no scheme claimed are codes, and when they are the model's own.

Under a configuration that names a method, integers of rank 2 and more are codes unless they are a
buffer that this table knows, or of a module that the configuration says was left alone. Without
one they are codes when they are called like a weight and floats stand beside them, or when they
stand in a leaf of the module tree beside floats and no float is the weight: then something has to
be done to both of them to make the weight. An array of integers by itself is what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from anamnesis.readers.base import Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes._siblings import harmless

# Last part of a name -> what the integers are.
BUFFERS: dict[str, str] = {
    "_extra_state": "what Transformer Engine keeps of its FP8 recipe, as bytes",
    "attention_mask": "which positions see which",
    "attn_mask": "which positions see which",
    "causal_mask": "which positions see which",
    "cuda_rng_state": "where a training run's random numbers stood",
    "position_ids": "positions, counted from 0",
    "relative_position_index": "the entry of a bias table for each pair of positions (Swin)",
    "rng_state": "where a training run's random numbers stood",
    "tid2eid": "the experts of a token, by its number (DeepSeek-V4)",
    "token_type_ids": "segments of the input",
}
NARROW = ("I8", "U8", "I16", "U16", "I32", "U32")
_LEAST = 64  # integers of rank 1 that are more than a buffer


def is_buffer(stored: Stored) -> bool:
    """Whether integers, or flags, are known to be no codes."""
    part, shape = stored.name.rpartition(".")[2], stored.shape
    if part == "bias" and stored.dtype in ("BOOL", "U8"):  # the causal mask of GPT-2 and its like
        return len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    mask = stored.dtype == "BOOL" and "mask" in part and not part.startswith("weight")
    return mask or part in BUFFERS


class Modules:
    """What stands in each module: the parts right in it, and whether it holds other modules."""

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self.parts: dict[str, dict[str, Stored]] = {}
        self._inner: set[str] = set()
        for one in stored.values():
            module, _, part = one.name.rpartition(".")
            if module not in self.parts:
                self.parts[module] = {}
                self._mark(module)
            self.parts[module][part] = one

    def _mark(self, module: str) -> None:
        while module:
            module = module.rpartition(".")[0]
            if module in self._inner:
                return
            self._inner.add(module)

    def relative(self, module: str) -> Iterator[str]:
        """Names below a module, relative to it, to a depth of two."""
        yield from self.parts.get(module, ())
        for inner in ("centroids", "res_centroids"):
            for part in self.parts.get(f"{module}.{inner}", ()):
                yield f"{inner}.{part}"

    def unexplained(self, stored: Stored) -> Stored | None:
        """A float beside integers for which there is no reason but that they are codes."""
        module, _, part = stored.name.rpartition(".")
        beside = {
            name: one
            for name, one in self.parts[module].items()
            if DTYPES[one.dtype].kind == "float" and harmless(name) is None
        }
        wide = len(stored.shape) > 1
        for name, one in beside.items():
            if wide and (name.startswith(f"{part}_") or part.startswith(f"{name}_")):
                return one
        above, _, layer = module.rpartition(".")
        for name, one in self.parts.get(above, {}).items() if part == "weight" and layer else ():
            if name.startswith(f"{layer}_") and DTYPES[one.dtype].kind == "float":
                return one
        leaf = bool(module) and module not in self._inner
        matrix = wide and 1 not in stored.shape
        alone = leaf and (stored.dtype in NARROW or matrix) and "weight" not in beside
        if (part == "weight" and module and len(stored.shape) > 1) or (alone and is_many(stored)):
            return next(iter(beside.values()), None)
        return None


def is_many(stored: Stored) -> bool:
    """Whether integers are too many, or of too high a rank, for a counter or a list of sizes."""
    if len(stored.shape) > 1:
        return True
    return stored.dtype in NARROW and math.prod(stored.shape) >= _LEAST
