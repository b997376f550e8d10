"""Derived tensors of one source, by strides: rows in another order, transposes, stacks, both."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
from gguf_files import finish

from anamnesis.names.derived import Derived, Part, Segment, derive
from anamnesis.names.open import open_named
from anamnesis.readers.base import Tensor
from anamnesis.readers.schemes.base import Options

Boxes = tuple[tuple[int, tuple[int, ...], tuple[Part, ...]], ...]  # start, dims, parts


def whole(shape: tuple[int, ...], strides: tuple[int, ...], base: int = 0) -> Boxes:
    """One segment of one part."""
    part = Part(0, (0,) * len(shape), shape, base, strides)
    return ((0, shape, (part,)),)


CASES: dict[str, tuple[tuple[int, ...], Boxes]] = {
    "rows": ((96, 320), whole((4, 12, 2, 320), (24 * 320, 320, 12 * 320, 1))),
    "short rows": ((96, 32), whole((4, 12, 2, 32), (24 * 32, 32, 12 * 32, 1))),
    "every second row": ((96, 320), whole((48, 320), (640, 1), 320)),
    "turned": ((96, 97), whole((97, 96), (1, 97))),
    "turned squares": ((128, 192), whole((192, 128), (1, 192))),
    "turned experts": ((3, 70, 64), whole((3, 64, 70), (70 * 64, 1, 64))),
    "turned and cut": ((96, 128), whole((40, 96), (2, 128), 7)),
    "reversed axes": ((8, 9, 10), whole((10, 9, 8), (1, 10, 90))),
    "beside each other": (
        (64, 96),
        (
            (
                0,
                (64, 96),
                (
                    Part(0, (0, 0), (64, 32), 64, (96, 1)),
                    Part(0, (0, 32), (64, 96), 0, (96, 1)),
                ),
            ),
        ),
    ),
    "turned beside rows": (
        (64, 64),
        (
            (0, (64, 32), (Part(0, (0, 0), (64, 32), 0, (1, 64)),)),
            (2048, *whole((2048,), (1,))[0][1:]),
        ),
    ),
}


def stored(path: Path, array: Any, kind: Any = None) -> Tensor:
    """An array as the tensor of a GGUF."""
    writer = gguf.GGUFWriter(str(path), "llama")
    if kind is None:
        writer.add_tensor("w", array)
    else:
        writer.add_tensor("w", gguf.quantize(array, kind), raw_dtype=kind)
    finish(writer)
    return open_named(str(path), Options(names="stored")).tensors[0]


def derived(source: Tensor, segments: Boxes) -> Derived:
    count = sum(math.prod(dims) for _, dims, _ in segments)
    columns = segments[-1][1][-1]
    shape = (count // columns, columns)
    made = derive("out", shape, (source,), tuple(Segment(*s) for s in segments))
    assert isinstance(made, Derived)
    return replace(made, unit_elems=columns)  # so that windows of a few rows can be asked for
