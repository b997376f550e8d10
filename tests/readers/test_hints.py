"""Statements of a method in uncommon words: integers are refused by them, floats are not."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import ledger_of

from anamnesis.errors import UnsupportedError
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

FLOATS = {
    "m.weight": ("BF16", (64, 64)),
    "m.scale": ("F32", (64,)),
    "m.q_proj.weight": ("BF16", (64, 8)),
    "m.q_proj.scale": ("F32", (64,)),
    "e.position_ids": ("I64", (1, 512)),
}
STATEMENTS: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"config.json": {"compression": {"method": "foo", "bits": 4}}}, {}, "json: compression"),
    ({"config.json": {"compression": "int4"}}, {}, r"compression \(int4\)"),
    ({"config.json": {"quant_methods": ["foo"]}}, {}, "json: quant_methods"),
    ({"config.json": {"bits": 4, "group_size": 128}}, {}, r"json: bits \(4\)"),
    ({"config.json": {"a": [{"wbits": 4}]}}, {}, r"json: a\.0\.wbits"),
    ({"config.json": {"load_in_4bit": True}}, {}, "load_in_4bit"),
    ({"config.json": {"weight_dtype": "int8"}}, {}, "weight_dtype"),
    ({"config.json": {"weight_format": "q4_0"}}, {}, "weight_format"),
    ({"awq_config.json": {"method": "foo"}}, {}, "awq_config.json"),
    ({}, {"format": "gptq"}, r"metadata format \(gptq\)"),
    ({}, {"format": "4-bit"}, "metadata format"),
    ({}, {"weight_format": "int4"}, "metadata weight_format"),
]


def book(parts: Any, configs: Any, metadata: Any) -> Ledger:
    return ledger_of(parts, configs=configs, metadata=metadata, kind="safetensors")


@pytest.mark.parametrize(("configs", "metadata", "named"), STATEMENTS, ids=str)
@pytest.mark.parametrize("dtype", ["I8", "U8", "I32"])
def test_integers_beside_a_statement_are_refused_by_it(
    configs: Any, metadata: Any, named: str, dtype: str
) -> None:
    with pytest.raises(UnsupportedError, match=named):
        resolve(book({"x.weight": (dtype, (32, 64)), **FLOATS}, configs, metadata))


@pytest.mark.parametrize(("configs", "metadata", "named"), STATEMENTS, ids=str)
def test_floats_beside_a_statement_stay(configs: Any, metadata: Any, named: str) -> None:
    found = book(FLOATS, configs, metadata)
    resolve(found)
    assert set(found.tensors) == set(FLOATS), named
    assert found.notes == []


@pytest.mark.parametrize("form", ["pt", "mlx", "np", "tf"])
def test_settings_of_plain_models_are_no_statements(form: str) -> None:
    config = {
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
        "weight_dtype": "float16",
        "compression": 4,
        "vision_config": {"bits": 8, "num_bits": 8, "image_format": "int8"},
        "quant_methods": [],
        "load_in_4bit": False,
    }
    found = book({"x.table": ("I32", (4, 4)), **FLOATS}, {"config.json": config}, {"format": form})
    resolve(found)
    assert "x.table" in found.tensors


def test_a_method_may_have_a_dot_in_its_key() -> None:
    with pytest.raises(UnsupportedError, match=r"quantization\.method \(foo-bits\)"):
        resolve(book(FLOATS, {}, {"quantization.method": "foo-bits"}))
