"""GPTQ repacked: planes, Marlin, and the first layout of GPTQ-for-LLaMa."""

from __future__ import annotations

from typing import Any

import pytest
from gptq_parts import GPTQ, Shapes, ledger, module, resolved

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.schemes import resolve


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_other_bits_need_a_name(bits: int) -> None:
    for config in (None, GPTQ):
        with pytest.raises(UnsupportedError, match=f"GPTQ of {bits} bits"):
            resolved(module(bits=bits), config)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_planar_bits(bits: int) -> None:
    about = GPTQ | {"bits": bits, "checkpoint_format": "gptq_p"}
    tensor = resolved(module(bits=bits), about)
    assert tensor.encoding == ("gptq" if bits in (2, 4, 8) else "gptq-planar")
    assert (tensor.params["zero_offset"], tensor.unit_multiple) == (
        0,
        32 // bits if bits in (2, 4, 8) else 32,
    )


@pytest.mark.parametrize(
    "shape",
    [
        {"outputs": 80},  # planes of outputs that do not fill words
        {"inputs": 250},
        {"qweight": ("I16", (96, 96)), "qzeros": ("I16", (4, 36))},
    ],
)
def test_planes_that_do_not_fill_words(shape: Any) -> None:
    with pytest.raises(FormatError):
        resolved(module(bits=6, **shape), GPTQ | {"bits": 6, "format": "gptq_p"})


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"checkpoint_format": "marlin"}, "Marlin"),
        ({"is_marlin_format": True}, "Marlin"),
        ({"format": "BitBLAS"}, "BitBLAS"),
        ({"checkpoint_format": "qqq"}, "QQQ"),
        ({"checkpoint_format": "ipex"}, "IPEX"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:other"}, "auto_round:other"),
        ({"quant_method": "auto-round", "rotation_config": {"block_size": 32}}, "rotated"),
    ],
    ids=str,
)
def test_repacked_formats_are_refused_by_name(config: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        resolved(module(), GPTQ | config)


def test_a_backend_is_believed_where_the_shapes_are_not_gptq_s() -> None:
    assert resolved(module(), GPTQ | {"backend": "marlin"}).shape == (96, 256)
    repacked = module(qweight=("I32", (16, 192)), g_idx=None)
    with pytest.raises(UnsupportedError, match="Marlin"):
        resolved(repacked, GPTQ | {"backend": "marlin"})


MARLIN: Shapes = {"B": ("I32", (16, 256)), "s": ("F16", (2, 128))}


@pytest.mark.parametrize("method", ["gptq", "gptq_marlin", "marlin"])
def test_marlin_s_own_names(method: str) -> None:
    book = ledger({"a": MARLIN | {"workspace": ("I32", (16,))}}, {"quant_method": method})
    resolve(book)
    (tensor,) = book.tensors.values()
    assert (tensor.name, tensor.shape, tensor.scheme) == ("a.weight", (128, 256), "marlin")
    assert [d.stored.name for d in book.dropped] == ["a.workspace"]


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"B": ("I32", (16, 192))}, FormatError, "a multiple of 64"),
        ({"B": ("I32", (16, 16, 2))}, FormatError, "a multiple of 64"),
        ({"s": ("F16", (3, 128))}, FormatError, "of 256 inputs"),
        ({"s": ("F16", (32, 128))}, FormatError, "of 256 inputs"),
        ({"s": ("BF16", (2, 128))}, FormatError, "of 256 inputs"),
    ],
)
def test_what_is_not_marlin_s(parts: Shapes, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(ledger({"a": {**MARLIN, **parts}}, {"quant_method": "gptq"}))


FIRST: Shapes = {
    "qweight": ("I32", (32, 24)),
    "scales": ("F32", (24, 1)),
    "zeros": ("F32", (24, 1)),
}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_first_layout_of_gptq_for_llama(bits: int) -> None:
    parts = FIRST | {"qweight": ("I32", (bits * 8, 24))}
    book = ledger({"a": parts | {"bias": ("F32", (24,))}}, {"bits": bits}, "quantize_config.json")
    resolve(book)
    tensor = book.tensors["a.weight"]
    assert (tensor.shape, tensor.scheme) == ((24, 256), "gptq-for-llama")


@pytest.mark.parametrize(
    ("parts", "config", "error", "message"),
    [
        ({}, None, UnsupportedError, "quantize_config.json beside it"),
        ({"qweight": ("I8", (32, 24))}, {"bits": 4}, FormatError, "no scheme consumed"),
        ({"zeros": ("F32", (24, 2))}, {"bits": 4}, FormatError, "no scheme consumed"),
        ({"qweight": ("I32", (31, 24))}, {"bits": 4}, FormatError, "a multiple of 32"),
        ({"scales": ("F32", (23, 1))}, {"bits": 4}, FormatError, r"F32 \[24, 1\]"),
        ({"scales": ("F16", (24, 1))}, {"bits": 4}, FormatError, r"F32 \[24, 1\]"),
    ],
)
def test_what_is_not_gptq_for_llama_s(parts: Shapes, config: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(ledger({"a": FIRST | parts}, config, "quantize_config.json"))
