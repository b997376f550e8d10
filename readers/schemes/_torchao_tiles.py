"""torchao's INT4 in tiles of a GPU's kernel (`kernels/torchao_tiles.py`).

`Int4TilePackedTo4dTensor`, and `AffineQuantizedTensor` in `TensorCoreTiledAQTTensorImpl` of torchao
up to 0.14, hold the same two tensors. Nothing says whether NVIDIA's or AMD's order was written, and
shapes are the same: `settle` has some of the codes read when the model is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._torchao_metadata import Described
from anamnesis.readers.schemes.base import Ledger

NVIDIA, AMD = 8, 16  # outputs of a tile
_STEP = 16  # inputs of a tensor core
Make = Callable[[int], Tensor]


def packed(one: Described, tile_rows: int = NVIDIA) -> Tensor:
    """The tensor; raises FormatError for parts that do not fit, UnsupportedError for odd stacks."""
    codes, numbers = one.part("qdata", ("I32",)), one.part("scale_and_zero", ("BF16",))
    *lead, tiles, steps, lanes, words = codes.shape if len(codes.shape) > 3 else (0, 0, 0, 0)
    if lanes != 32 or words not in (1, 2, 4) or len(lead) > 1:
        raise one.misfit(codes, "I32 [out / 8, in / (16 k), 32, k / 2], k 2, 4 or 8, or a stack")
    block = one.block(tiled=2)
    filled, outputs, size = 2 * _STEP * words * steps, 8 * tiles, block[-1]
    if one.about.get("transposed"):
        raise one.unsupported("transposed codes")
    rows, columns = _sizes(one, lead, outputs, filled)
    if any(side != 1 for side in block[:-1]) or size % 2 or filled % size:
        raise one.error(f"block_size: {list(block)}; allowed are groups that divide {filled}")
    if numbers.shape != (*lead, filled // size, outputs, 2):
        raise one.misfit(numbers, f"{[*lead, filled // size, outputs, 2]}")
    if (rows != outputs and lead) or outputs % tile_rows:
        raise one.unsupported(f"a stack of matrices of {rows} outputs, in tiles of {tile_rows}")
    per_line = Strided(tile_rows * 32, max(1, 4 * outputs), lines=filled // size if lead else 0)
    return Tensor(
        name=one.name,
        shape=(*lead, rows, columns),
        scheme="torchao-tinygemm",
        encoding="torchao-tinygemm",
        components=(
            Component("payload", codes, Contiguous(max(8, 4 * tile_rows * filled))),
            Component("scale_and_zero", numbers, per_line),
        ),
        unit_elems=max(1, tile_rows * columns),
        params={
            "tile_rows": tile_rows,
            "words": words,
            "in_features": columns,
            "group_size": size,
        },
    )


def _sizes(one: Described, lead: Sequence[int], outputs: int, filled: int) -> tuple[int, int]:
    """Outputs and inputs of the weight: what torchao has filled up is in tiles only."""
    found = one.about.get("shape")
    stated: list[Any] = list(found) if isinstance(found, list | tuple) else []
    *more, rows, columns = stated if len(stated) == len(lead) + 2 else (-1, -1)
    whole = all(type(side) is int for side in stated) and more == list(lead)
    if not whole or not outputs - AMD < rows <= outputs or not filled - 1024 < columns <= filled:
        raise one.error(f"shape: {found!r:.80}; its codes are of {[*lead, outputs, filled]}")
    return max(0, rows), max(0, columns)


def settle(ledger: Ledger, makers: Sequence[Make]) -> None:
    """Put tensors in the order that their codes show; `makers` make each for tiles of a height.

    Raises UnsupportedError for codes that neither order explains.
    """
    from anamnesis.readers.schemes._torchao_order import tile_rows  # noqa: PLC0415 - reads payload

    tensors = [make(NVIDIA) for make in makers]
    found = tile_rows(tensors, NVIDIA, AMD)
    if found == NVIDIA:
        return
    for make in makers:
        ledger.replace(make(found))
    ledger.note(
        f"{tensors[0].components[0].stored.file.path}: {tensors[0].name!r} and its like: their "
        "codes lie in the order of AMD's GPUs, by the groups of the first layers"
    )
