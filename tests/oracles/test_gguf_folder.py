"""Folders made of GGUF files load in transformers whole, and compute what the model computed.

A tiny Llama that transformers makes goes to a GGUF and comes back; given files of llama.cpp's own
converter go to folders, each beside the folder that it was made of.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from llama_folder import add_tokenizer

import anamnesis

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")

CORPUS = Path(os.environ.get("ANAMNESIS_SHARED", "/nonexistent")) / "gguf-hf"
if not CORPUS.is_dir():
    CORPUS = Path(__file__).resolve().parents[3] / "shared" / "gguf-hf"
GIVEN = sorted(path.parent.name for path in CORPUS.glob("*/model.gguf"))
pytestmark = [
    pytest.mark.oracle,
    # The libraries' own, on import.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]
TOKENS = torch.tensor([[5, 9, 44, 33, 7, 18]])


def loaded(folder: Path) -> Any:
    """The model of a folder, of the class that its configuration names."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", output_loading_info=True
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not report[key], key
    assert [type(model).__name__] == json.loads((folder / "config.json").read_text())[
        "architectures"
    ]
    return model.eval()


def same(before: Any, after: Any) -> None:
    """Two models of one class, of the same bits, that compute the same."""
    assert type(after) is type(before)
    expected, found = before.state_dict(), after.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert torch.equal(logits(before), logits(after))
    assert logits(after).float().std() > 0


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_llama_computes_the_same_after_both_ways(tied: bool, dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        tie_word_embeddings=tied,
    )
    made = transformers.LlamaForCausalLM(config)
    made.to({"bf16": torch.bfloat16, "f32": torch.float32}[dtype]).save_pretrained(tmp_path / "hf")
    add_tokenizer(tmp_path / "hf", 60, [])
    anamnesis.convert(tmp_path / "hf", tmp_path / "m.gguf", to="gguf", dtype=dtype)
    anamnesis.convert(tmp_path / "m.gguf", tmp_path / "back", to="hf")
    same(loaded(tmp_path / "hf"), loaded(tmp_path / "back"))


@pytest.mark.parametrize("name", GIVEN)
def test_given_files_give_folders_that_load(name: str, tmp_path: Path) -> None:
    source = tmp_path / name  # a file of projectors beside the model would come along
    source.mkdir()
    for path in (CORPUS / name).glob("*.gguf"):
        shutil.copy(path, source)
    anamnesis.convert(source / "model.gguf", tmp_path / "out", to="hf")
    same(loaded(CORPUS / name / "hf"), loaded(tmp_path / "out"))
