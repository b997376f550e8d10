"""Folders that were encoded here load in transformers, with the logits of the library's own.

bitsandbytes quantises the same tiny Llama while it loads it. compressed-tensors, FP8 and GGUF are
loaded to full precision by transformers, and compared with the model of the weights recovered here,
which the tests of encoders hold against the libraries bit by bit.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import anamnesis

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.torch").load_file

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # the libraries' own, on import
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny Llama in BF16."""
    sys.path.insert(0, str(Path(__file__).parent))
    folder = tmp_path_factory.mktemp("llama") / "llama"
    importlib.import_module("tiny_llama").save_llama(folder, seed=3)
    return folder


def logits(path: Path, **settings: Any) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.bfloat16, **settings
    )
    with torch.no_grad():
        return model(torch.arange(3, 59, 7).view(2, 4)).logits


@pytest.mark.parametrize("encode", ["bnb-nf4", "bnb-nf4:nested=true", "bnb-fp4"])
def test_bitsandbytes_quantises_to_the_same_logits(
    llama: Path, tmp_path: Path, encode: str
) -> None:
    pytest.importorskip("bitsandbytes")
    anamnesis.convert(llama, tmp_path / "out", to="safetensors", encode=encode)
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=encode[4:7],
        bnb_4bit_use_double_quant="nested" in encode,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    expected = logits(llama, quantization_config=config)
    assert torch.equal(logits(tmp_path / "out"), expected)
    assert not torch.equal(expected, logits(llama))


CT = (
    "ct-pack-quantized:group=32", "ct-pack-quantized:group=32,sym=false",
    "ct-pack-quantized:bits=8,group=0", "ct-int-quantized",
    "fp8-channel", "fp8-tensor", "fp8-block:style=compressed-tensors", "nvfp4", "mxfp4",
)  # fmt: skip


@pytest.mark.parametrize("encode", CT)
def test_compressed_tensors_loads_what_is_recovered_here(
    llama: Path, tmp_path: Path, encode: str
) -> None:
    pytest.importorskip("compressed_tensors")
    anamnesis.convert(llama, tmp_path / "out", to="safetensors", encode=encode)
    anamnesis.remember(tmp_path / "out", tmp_path / "recovered")
    settings = transformers.CompressedTensorsConfig(run_compressed=False)
    found = logits(tmp_path / "out", quantization_config=settings)
    assert torch.equal(found, logits(tmp_path / "recovered"))
    assert not torch.equal(found, logits(llama))


def test_fp8_blocks_load_what_is_recovered_here(llama: Path, tmp_path: Path) -> None:
    anamnesis.convert(llama, tmp_path / "out", to="safetensors", encode="fp8-block:block=64")
    anamnesis.remember(tmp_path / "out", tmp_path / "recovered")
    settings = transformers.FineGrainedFP8Config(dequantize=True, weight_block_size=(64, 64))
    found = logits(tmp_path / "out", quantization_config=settings)
    assert torch.equal(found, logits(tmp_path / "recovered"))


@pytest.mark.parametrize("kind", ["qint8", "qfloat8"])
def test_quanto_loads_what_it_writes_itself(llama: Path, tmp_path: Path, kind: str) -> None:
    """torch's product of int8 ends the process on matrices as small as these."""
    library = pytest.importorskip("optimum.quanto")
    anamnesis.convert(llama, tmp_path / "out", to="safetensors", encode=f"quanto:type={kind}")
    dense = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16)
    kinds = library.QuantizedModelForCausalLM
    expected = kinds.quantize(dense, weights=getattr(library, kind), exclude="lm_head")
    expected.save_pretrained(tmp_path / "expected")
    maps = [tmp_path / name / "quanto_qmap.json" for name in ("out", "expected")]
    assert json.loads(maps[0].read_text()) == json.loads(maps[1].read_text())
    stored = [load_file(path.with_name("model.safetensors")) for path in maps]
    assert stored[0].keys() == stored[1].keys()
    assert all(torch.equal(stored[0][name], stored[1][name]) for name in stored[0])
    found = kinds.from_pretrained(tmp_path / "out")
    if kind == "qfloat8":
        ids = torch.arange(3, 59, 7).view(2, 4)
        assert torch.equal(found(ids).logits, expected(ids).logits)


def test_experts_of_gpt_oss_load_what_is_recovered_here(tmp_path: Path) -> None:
    save_gpt_oss(tmp_path / "model")
    out = tmp_path / "out"
    found = anamnesis.convert(
        tmp_path / "model", out, to="safetensors", encode="mxfp4:style=gpt-oss"
    )
    assert len(found.loss) == 4  # two parameters a layer
    anamnesis.remember(out, tmp_path / "recovered")
    expected = logits(tmp_path / "recovered")
    assert torch.equal(logits(out), expected)  # which it recovers too, without Triton
    settings = transformers.Mxfp4Config(dequantize=True)
    assert torch.equal(logits(out, quantization_config=settings), expected)
    assert not torch.equal(expected, logits(tmp_path / "model"))


def save_gpt_oss(folder: Path) -> None:
    """Two layers of four experts, of random BF16 weights."""
    torch.manual_seed(4)
    config = transformers.GptOssConfig(
        num_hidden_layers=2,
        num_local_experts=4,
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts_per_tok=2,
        layer_types=["full_attention", "sliding_attention"],
    )
    model = transformers.GptOssForCausalLM(config).to(torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05)
    model.save_pretrained(folder)


@pytest.mark.parametrize("encode", ["Q8_0", "Q4_0"])
def test_a_gguf_loads_what_is_recovered_here(llama: Path, tmp_path: Path, encode: str) -> None:
    gguf = pytest.importorskip("gguf")
    source = tmp_path / "model"
    shutil.copytree(llama, source)
    importlib.import_module("llama_folder").add_tokenizer(source, 60, [])
    out = tmp_path / "out"
    out.mkdir()
    anamnesis.convert(source, out / "m.gguf", to="gguf", encode=encode)
    kinds = {tensor.tensor_type for tensor in gguf.GGUFReader(out / "m.gguf").tensors}
    assert gguf.GGMLQuantizationType[encode] in kinds
    anamnesis.convert(out / "m.gguf", tmp_path / "recovered", to="hf")
    found = logits(out, gguf_file="m.gguf")
    assert torch.equal(found, logits(tmp_path / "recovered"))
    assert not torch.equal(found, logits(llama))
