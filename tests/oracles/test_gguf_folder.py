"""Folders made of GGUF files load in transformers whole, and compute what the model computed.

A tiny Llama that transformers makes goes to a GGUF and comes back; given files of llama.cpp's own
converter (in `$ANAMNESIS_GGUF_HF`, or the shared ones) go to folders, each beside the folder that
it was made of.
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
from anamnesis.names.config_rows import CLASSES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")

CORPUS = Path(os.environ.get("ANAMNESIS_SHARED", "/nonexistent")) / "gguf-hf"
if not CORPUS.is_dir():
    CORPUS = Path(__file__).resolve().parents[3] / "shared" / "gguf-hf"
CORPUS = Path(os.environ.get("ANAMNESIS_GGUF_HF", CORPUS))
GIVEN = sorted(path.parent.name for path in CORPUS.glob("*/model.gguf"))
pytestmark = [
    pytest.mark.oracle,
    # The libraries' own, on import.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]
POSITIONS = "embeddings.position_embeddings.weight"
TOKENS = torch.tensor([[5, 9, 44, 33, 7, 18]])


# Classes of transformers under other names; the others that it lacks are not tried.
RENAMED = {"MPTForCausalLM": "MptForCausalLM", "PhiMoEForCausalLM": "PhimoeForCausalLM"}
# Numbers that the file has no longer as they were: multiplied (Falcon-H1), a head (DistilBERT); a
# base of rotary embeddings that transformers does not see in the original (DBRX); norms of a tiny
# epsilon in files that were made by hand (nomic).
CHANGED = ("DbrxForCausalLM", "DistilBertForMaskedLM", "FalconH1ForCausalLM", "NomicBertModel")


def loaded(folder: Path, dtype: Any = "auto") -> Any:
    """The model of a folder, of the class that its configuration names."""
    config = json.loads((folder / "config.json").read_text())
    name = config["architectures"][0]
    cls = getattr(transformers, RENAMED.get(name, name))
    model, report = cls.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    head = CLASSES[name].missing.partition(".")[0] if name in CLASSES else ""
    missing = [key for key in report["missing_keys"] if not head or not key.startswith(head)]
    assert not missing
    for key in ("unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not report[key], key
    return model.eval()


def same(before: Any, after: Any) -> None:
    """Two models of one class, of the same bits, that compute the same."""
    assert type(after) is type(before)
    expected, found = before.state_dict(), after.state_dict()
    assert expected.keys() >= found.keys()
    for name, value in found.items():
        other = expected[name]
        if type(before).__name__ == "RobertaModel" and name == POSITIONS:
            value, other = value[2:], other[2:]  # without those of padding
        assert "pooler" in name or torch.equal(value, other), name
    assert torch.equal(logits(before), logits(after))
    assert logits(after).float().std() > 0


def logits(model: Any) -> Any:
    more = {"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=TOKENS, **more)[0]


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
    for path in (CORPUS / name).glob("m*.gguf"):
        shutil.copy(path, source)
    anamnesis.convert(source / "model.gguf", tmp_path / "out", to="hf")
    made = json.loads((tmp_path / "out" / "config.json").read_text())["architectures"][0]
    given = json.loads((CORPUS / name / "hf" / "config.json").read_text())["architectures"][0]
    if not hasattr(transformers, RENAMED.get(made, made)):
        pytest.skip(f"transformers has no {made}")
    after = loaded(tmp_path / "out", torch.float32)
    lacks = made in CLASSES and CLASSES[made].lacks
    if made == given and not lacks and given not in CHANGED:
        same(loaded(CORPUS / name / "hf", torch.float32), after)


@pytest.mark.parametrize("name", GIVEN)
def test_ids_of_a_page_are_those_of_the_original_tokenizer(name: str, tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "data" / "scripts.txt").read_text()
    shutil.copy(CORPUS / name / "model.gguf", tmp_path)
    anamnesis.convert(tmp_path / "model.gguf", tmp_path / "out", to="hf")
    auto = transformers.AutoTokenizer.from_pretrained
    original, made = auto(CORPUS / name / "hf"), auto(tmp_path / "out")
    for text in (page, *map(str.lstrip, page.splitlines())):  # docs: texts that begin with a space
        assert made(text)["input_ids"] == original(text)["input_ids"], text
    assert made.chat_template == original.chat_template


# Where transformers 5.23 loads a GGUF as another model than the one it was made of.
OTHERWISE = {
    "falcon_mamba": "a Mamba, whose steps are not normalised",
    "gemma2": "query_pre_attn_scalar is the class's default",
    "gemma3": "query_pre_attn_scalar is the class's default",
    "gemma3_mm": "query_pre_attn_scalar is the class's default",
    "llama3_rope": "the factors of Llama 3's rope scaling are left out",
    "llama_256": "biases are left out",
    "llama_mha_yarn": "rope scaling is left out",
    "mixtral": "a Llama with random feed-forward layers",
}


@pytest.mark.parametrize("name", GIVEN)
def test_transformers_own_loader_gives_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    shutil.copy(CORPUS / name / "model.gguf", tmp_path)
    anamnesis.convert(tmp_path / "model.gguf", tmp_path / "out", to="hf")
    auto = transformers.AutoModelForCausalLM
    try:
        other = auto.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    except Exception as error:
        pytest.skip(f"transformers does not load it: {str(error)[:100]}")
    model = auto.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    equal = type(model) is type(other) and torch.equal(logits(model), logits(other.eval()))
    assert equal == (name not in OTHERWISE)


TOWERS = sorted(path.parent.name for path in CORPUS.glob("*/mmproj.gguf"))


@pytest.mark.parametrize("name", TOWERS)
def test_towers_are_those_of_the_converter(name: str, tmp_path: Path) -> None:
    import gguf

    out = tmp_path / "mmproj.gguf"
    anamnesis.convert(CORPUS / name / "hf", out, to="gguf", names="mmproj", dtype="bf16")
    wanted, found = (gguf.GGUFReader(str(p)) for p in (CORPUS / name / "mmproj.gguf", out))
    arrays = [
        {t.name: (t.tensor_type, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}
        for reader in (wanted, found)
    ]
    assert arrays[0] == arrays[1]
    keys = [
        {
            key: (field.types, field.contents())
            for key, field in reader.fields.items()
            if not key.startswith("GGUF.")
        }
        for reader in (wanted, found)
    ]
    assert keys[0] == keys[1]
