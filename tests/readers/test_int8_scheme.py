"""SGLang's INT8: what is claimed by which name, and what does not fit (values: conformance)."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import ledger_of, resolved

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.schemes import resolve

ROWS = {"m.weight": ("I8", (200, 320)), "m.weight_scale": ("F32", (200, 1))}
BLOCKS = {"m.weight": ("I8", (200, 320)), "m.weight_scale_inv": ("F32", (2, 3))}


def schemes(parts: Any, config: Any = None) -> dict[str, str]:
    book = resolved(parts, config)
    assert not book.notes
    return {t.name: t.scheme for t in book.tensors.values()}


@pytest.mark.parametrize("method", ["w8a8_int8", "auto-round-int8", "experts_int8"])
def test_a_scale_a_row(method: str) -> None:
    assert schemes(ROWS, {"quant_method": method}) == {"m.weight": "int8-channel"}


def test_a_scale_a_block() -> None:
    stated = {"quant_method": "blockwise_int8", "weight_block_size": [128, 128]}
    assert schemes(BLOCKS, stated) == {"m.weight": "int8-block"}
    assert schemes(BLOCKS) == {"m.weight": "int8-block"}, "a grid of 128 x 128 tells itself"
    small = {"m.weight": ("I8", (200, 320)), "m.weight_scale_inv": ("BF16", (4, 10))}
    stated = {"quant_method": "blockwise_int8", "weight_block_size": [64, 32]}
    assert resolved(small, stated).tensors["m.weight"].params["block_rows"] == 64


def test_a_matrix_of_one_row_has_blocks_and_no_equal_parts() -> None:
    parts = {"m.weight": ("I8", (1, 200)), "m.weight_scale_inv": ("F32", (1, 2))}
    (tensor,) = resolved(parts, {"quant_method": "blockwise_int8"}).tensors.values()
    assert tensor.params["group_size"] == 128


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"m.weight": ("I8", (200, 320))}, "no 'm.weight_scale' beside it"),
        (ROWS | {"m.weight": ("I8", (2, 100, 320))}, "a matrix"),
        (ROWS | {"m.weight_scale": ("F32", (320, 1))}, r"\[200, 'groups'\]"),
        (BLOCKS | {"m.weight_scale_inv": ("F32", (3, 2))}, r"\[2, 3\] for blocks of 128x128"),
        (BLOCKS | {"m.weight_scale_inv": ("F32", (200, 1))}, r"\[2, 3\] for blocks of"),
        (BLOCKS | {"m.weight_scale_inv": ("F32", ())}, r"\[2, 3\] for blocks of"),
    ],
)
def test_what_does_not_fit(parts: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        resolve(ledger_of(parts, {"quant_method": "w8a8_int8"}))


def test_without_a_statement_only_a_grid_of_the_usual_size_is_one() -> None:
    other = BLOCKS | {"m.weight_scale_inv": ("F32", (200, 5))}
    for parts, config in ((other, None), (BLOCKS, {"quant_method": "fp8"})):
        with pytest.raises(UnsupportedError):
            resolve(ledger_of(parts, config))
