"""Every class that is written: HF -> GGUF -> HF, and GGUF -> HF -> GGUF, are the identity.

The tensors of a small file, shaped by GGUF names, become a folder by one direction of the table,
which the other direction brings back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import finish
from gguf_shapes import config, shapes
from llama_folder import add_tokenizer
from safetensors.numpy import load_file

import anamnesis
from anamnesis.names.families import families
from anamnesis.names.family import Family
from anamnesis.names.gguf_config import WRITTEN, architecture_values, keys_of
from anamnesis.names.view import family_of
from anamnesis.readers.model import load_model

gguf = pytest.importorskip("gguf")
WORDS = "bert"  # WordPiece
# Files of PLaMo have five heads of keys, whatever the folder says; those of Qwen3-VL-MoE are read
# so beside a tower alone (test_towers.py).
FIXED = ("PlamoForCausalLM", "Qwen3VLMoeForConditionalGeneration")
# Logarithms and their exponentials; norms that a fifth, or its power, is added to (PLaMo's).
ROUNDED = ("ssm_a", "A_log", ".post_attention_norm", ".post_ffw_norm", "post_mixer_norm.weight")
ROUNDED += ("post_mlp_norm.weight",)
CASES = [
    pytest.param(name, family, id=f"{name}-{family.name}")
    for name in WRITTEN
    for family in families()
    if name in family.architectures and not family.only and name not in FIXED
]


def words(family: Family) -> str:
    """The kind of vocabulary that tells a family."""
    return family.vocabularies[0] if family.vocabularies else "gpt2"


def written(path: Path, name: str, family: Family) -> dict[str, Any]:
    """A GGUF of every tensor that the family has in one layer; values that BF16 holds."""
    keys = keys_of(name, "")
    values = architecture_values(keys, family.gguf[0], config(name), "")
    kinds = {key: value for key, value in values.items() if key != "general.architecture"}
    writer = gguf.GGUFWriter(str(path), family.gguf[0])
    writer.add_tokenizer_model(words(family))
    for key, value in kinds.items():
        if value.type_id == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, value.value)
        else:
            writer.add_key_value(key, value.value, gguf.GGUFValueType(value.type_id))
    kv = values.get(f"{family.gguf[0]}.attention.head_count_kv")
    heads = kv.value if kv is not None and isinstance(kv.value, int) else 4
    for key in family.arrays:
        writer.add_array(key, [0.5])
    rng = np.random.default_rng(len(name))
    tensors = {}
    for tensor, shape in shapes(family, heads).items():
        if tensor == "output.weight" and keys.head == "never":
            continue
        numbers = rng.integers(-120, -20, shape) / 64  # -exp is negative
        tensors[tensor] = numbers.astype(np.float32)
        writer.add_tensor(tensor, tensors[tensor])
    finish(writer)
    return tensors


@pytest.mark.parametrize(("name", "family"), CASES)
def test_both_ways_are_the_identity(name: str, family: Family, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    before = written(tmp_path / "m.gguf", name, family)
    assert family_of(load_model(str(tmp_path / "m.gguf"))).name == family.name
    anamnesis.convert(tmp_path / "m.gguf", tmp_path / "hf", to="hf", dtype="f32")
    first = load_file(tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config(name)))
    if words(family) == WORDS:
        vocabulary = {word: number for number, word in enumerate(("[UNK]", "[CLS]", "[SEP]", "a"))}
        made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
        made.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
        made.save(str(tmp_path / "hf" / "tokenizer.json"))
    else:
        add_tokenizer(tmp_path / "hf", 280, tokenizers.pre_tokenizers.ByteLevel.alphabet())
    lines = (json.dumps([f"t{number}", 0.0, "NORMAL"]) for number in range(8))
    (tmp_path / "hf" / "tokenizer.jsonl").write_text("\n".join(lines))  # PLaMo's
    (tmp_path / "hf" / "tokenizer_config.json").write_text("{}")
    anamnesis.convert(tmp_path / "hf", tmp_path / "back.gguf", to="gguf", dtype="f32")
    reader = gguf.GGUFReader(str(tmp_path / "back.gguf"))
    after = {t.name: t.data.reshape(t.shape[::-1]) for t in reader.tensors}
    assert after.keys() == before.keys()
    for tensor, array in before.items():
        close = 1e-6 if tensor.endswith(ROUNDED) else 0.0
        assert np.allclose(after[tensor], array, rtol=close, atol=0), tensor
    anamnesis.convert(tmp_path / "back.gguf", tmp_path / "again", to="hf", dtype="f32")
    second = load_file(tmp_path / "again" / "model.safetensors")
    assert first.keys() == second.keys()
    for tensor, array in first.items():
        close = 1e-6 if tensor.endswith(ROUNDED) else 0.0
        assert np.allclose(second[tensor], array, rtol=close, atol=close), tensor
