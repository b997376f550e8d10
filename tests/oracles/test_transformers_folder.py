"""A recovered model folder loads in transformers as it is, with the weights that were meant.

A tiny Llama is quantised live to FP8 blocks, NF4 and GPTQ (`tiny_llama.py`), converted, and loaded;
its logits are those of the weights that the libraries themselves recover.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import anamnesis

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
save_file = pytest.importorskip("safetensors.torch").save_file

pytestmark = [
    pytest.mark.oracle,
    # The libraries' own, on import.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def llama() -> Any:
    sys.path.insert(0, str(Path(__file__).parent))
    return importlib.import_module("tiny_llama")


def logits(model: Any) -> Any:
    tokens = torch.arange(3, 59, 7).view(2, 4)
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize("shard_size", ["5GB", "100kB"])
@pytest.mark.parametrize("method", ["fp8", "gptq", "nf4"])
def test_logits_are_those_of_the_library_s_weights(
    llama: Any, method: str, shard_size: str, tmp_path: Path
) -> None:
    if method not in llama.available():
        pytest.skip("make test-oracles brings GPTQModel")
    source, out = tmp_path / "quantised", tmp_path / "recovered"
    weights = llama.save_llama(source, seed=7)
    found = llama.quantise(method, weights)
    llama.save_quantised(source, found)
    anamnesis.remember(source, out, max_shard_size=shard_size)
    assert (len(list(out.glob("model*.safetensors"))) > 1) == (shard_size == "100kB")
    config = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in config
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        out, dtype="auto", output_loading_info=True
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[key]
    assert loaded.dtype == torch.bfloat16
    assert type(loaded) is transformers.LlamaForCausalLM
    truth = tmp_path / "truth"
    transformers.LlamaForCausalLM(loaded.config).save_pretrained(truth)
    save_file(found.recovered, truth / "model.safetensors", metadata={"format": "pt"})
    expected = transformers.AutoModelForCausalLM.from_pretrained(truth, dtype=torch.bfloat16)
    assert set(loaded.state_dict()) == set(found.recovered)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, found.recovered[name]), name
        if name.endswith("_proj.weight"):
            assert not torch.equal(value, weights[name]), name
    assert torch.equal(logits(loaded), logits(expected))
    assert logits(loaded).float().std() > 0
    assert torch.isfinite(logits(loaded)).all()


def test_the_golden_files_are_what_the_libraries_make(llama: Any, tmp_path: Path) -> None:
    """tests/data/llama, which the default tests read, made again."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "llama"))
    make = importlib.import_module("make_llama")
    for method in llama.available():
        make.make(tmp_path / method, method)
        for path in (make.FOLDER / method).iterdir():
            if path.suffix in (".safetensors", ".sha256"):
                assert path.read_bytes() == (tmp_path / method / path.name).read_bytes(), path
