"""A tiny Llama in three quantisations becomes the model folder that its libraries would read.

The folders in tests/data/llama were made by transformers, compressed-tensors, bitsandbytes and
GPTQModel, which also said what they stand for (`recovered.sha256`). That transformers loads the
output, with equal logits, is in tests/oracles/test_transformers_folder.py.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import anamnesis

DATA = Path(__file__).parents[1] / "data" / "llama"
SCHEMES = {"fp8": "fp8-block", "gptq": "gptq", "nf4": "bnb-nf4"}


def digests(out: Path) -> dict[str, str]:
    """Of the value bytes, as they lie in the files."""
    found = {}
    for path in out.glob("*.safetensors"):
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        assert header.pop("__metadata__") == {"format": "pt"}
        for name, entry in header.items():
            assert entry["dtype"] == "BF16"
            first, last = entry["data_offsets"]
            found[name] = hashlib.sha256(data[start + first : start + last]).hexdigest()
    return found


@pytest.mark.parametrize("shard_size", ["5GB", "100kB"])
@pytest.mark.parametrize("method", SCHEMES)
def test_every_bit_is_the_library_s(method: str, shard_size: str, tmp_path: Path) -> None:
    source, out = DATA / method, tmp_path / "out"
    lines = (source / "recovered.sha256").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert len(expected) == 21
    outcome = anamnesis.remember(source, out, max_shard_size=shard_size)
    assert digests(out) == expected
    assert outcome.tensors == len(expected)
    assert anamnesis.verify(out, against=source)["tensors"] == len(expected)
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    config |= {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
    assert json.loads((out / "config.json").read_text()) == config
    generation = "generation_config.json"
    assert (out / generation).read_bytes() == (source / generation).read_bytes()
    if shard_size == "100kB":
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == expected.keys()
        values = 2 * sum(t.elems for t in anamnesis.open_model(source).model.tensors)
        assert index["metadata"]["total_size"] == values


@pytest.mark.parametrize("method", SCHEMES)
def test_parts_of_one_tensor_lie_in_two_shards(method: str) -> None:
    model = anamnesis.open_model(DATA / method).model
    quantised = [t for t in model.tensors if t.quantised]
    assert {t.scheme for t in quantised} == {SCHEMES[method]}
    assert len(quantised) == 14
    files = [{c.stored.file.path for c in t.components} for t in quantised]
    assert any(len(paths) == 2 for paths in files)
