"""What an output keeps of its input: the stem of file names, and safetensors' metadata."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis.pipeline.kept import LOOKED_FOR, stem_of

F32 = ("F32", (256,), bytes(1024))


def write(path: Path, entries: Mapping[str, Any], metadata: Mapping[str, str]) -> Path:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    data = b""
    for name, (dtype, shape, raw) in entries.items():
        span = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": span}
        data += raw
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    found: dict[str, str] = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])[
        "__metadata__"
    ]
    return found


@pytest.mark.parametrize(
    ("names", "stem"),
    [
        (["model.safetensors"], "model"),
        (["diffusion_pytorch_model.safetensors"], "diffusion_pytorch_model"),
        (["diffusion_pytorch_model.fp16.safetensors"], "diffusion_pytorch_model"),
        (["diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
          "diffusion_pytorch_model.fp16-00002-of-00002.safetensors"], "diffusion_pytorch_model"),
        (["diffusion_pytorch_model-00001-of-00002.bf16.safetensors"], "diffusion_pytorch_model"),
        (["adapter_model.bin"], "adapter_model"),
        (["consolidated-00001-of-00002.safetensors"], "consolidated"),
        (["pytorch_model.bin"], "model"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"], "model"),
        (["gptq_model-4bit-128g.safetensors"], "model"),
        (["llama-fp8.safetensors"], "model"),
        (["diffusion_pytorch_model-fp8.safetensors"], "diffusion_pytorch_model"),
        (["adapter_model.nf4.safetensors"], "adapter_model"),
        (["unet.safetensors"], "unet"),
        (["a.safetensors", "b.safetensors"], "model"),
        (["weights.00.safetensors", "weights.01.safetensors"], "weights"),
        (["https://host/x/adapter_model.safetensors?sig=a/b.c"], "adapter_model"),
        (["consolidated.00.pth"], "model"),
        (["llama.gguf"], "model"),
        ([".safetensors"], "model"),
    ],
)  # fmt: skip
def test_stems(names: list[str], stem: str) -> None:
    assert stem_of(names) == stem
    alone = stem if stem in LOOKED_FOR else "model"
    assert stem_of(names, folder=False) == alone


@pytest.mark.parametrize("stem", sorted(LOOKED_FOR))
def test_files_in_a_folder_and_their_index(stem: str, tmp_path: Path) -> None:
    write(tmp_path / "in" / f"{stem}.safetensors", {"a": F32, "b": F32}, {})
    anamnesis.remember(tmp_path / "in", tmp_path / "one")
    assert [p.name for p in (tmp_path / "one").iterdir()] == [f"{stem}.safetensors"]
    anamnesis.remember(tmp_path / "in", tmp_path / "two", max_shard_size=1024)
    shards = [f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    names = sorted(p.name for p in (tmp_path / "two").iterdir())
    assert names == [*shards, f"{stem}.safetensors.index.json"]
    index = json.loads((tmp_path / "two" / names[-1]).read_text())
    assert index["weight_map"] == dict(zip("ab", shards, strict=True))
    assert anamnesis.verify(tmp_path / "two")["files"] == 2
    anamnesis.remember(tmp_path / "two", tmp_path / "three", max_shard_size=1024)
    assert sorted(p.name for p in (tmp_path / "three").iterdir()) == names
    file = tmp_path / "in" / f"{stem}.safetensors"
    anamnesis.remember(file, tmp_path / "four")
    assert [p.name for p in (tmp_path / "four").iterdir()] == [f"{stem}.safetensors"]
    anamnesis.convert(tmp_path / "in", tmp_path / "five", to="hf")
    assert [p.name for p in (tmp_path / "five").iterdir()] == [f"{stem}.safetensors"]


@pytest.mark.parametrize(
    ("index", "stem"),
    [
        ("model.safetensors.index.json", "model"),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model"),
        ("adapter_model.safetensors.index.json", "adapter_model"),
    ],
)
def test_shards_of_any_name_get_that_of_their_index(index: str, stem: str, tmp_path: Path) -> None:
    """Which a library asks for by its name."""
    folder = tmp_path / "in"
    write(folder / "sub" / "s.safetensors", {"a": F32}, {})
    write(folder / "t-00001.safetensors", {"b": F32}, {})
    shards = {"a": "sub/s.safetensors", "b": "t-00001.safetensors"}
    (folder / index).write_text(json.dumps({"weight_map": shards}))
    for number, source in enumerate((folder, folder / index)):
        out = tmp_path / f"out{number}"
        anamnesis.remember(source, out)
        assert [p.name for p in out.iterdir()] == [f"{stem}.safetensors"]
    anamnesis.remember(folder, tmp_path / "two", max_shard_size=1024)
    assert (tmp_path / "two" / f"{stem}.safetensors.index.json").is_file()


KEPT = {
    "modelspec.title": "x",
    "ss_network_dim": "2",
    "ss_fp8_base": "True",
    "ss_mixed_precision": "fp8",
    "format": "mlx",
    "ss_tags": '{"a": {"b": 1}}',
    "odd ": '{"no JSON',
}


def test_metadata_goes_along(tmp_path: Path) -> None:
    speaks = {
        "_quantization_metadata": '{"layers": {}}',
        "quantization_config": "{}",
        "quant_method": "fp8",
        "modelspec.quantization": "fp8",
        "weight_format": "fp8",
        "scaled_fp8": "",
        "gptq_bits": "4",
        "bits": "8",
    }
    source = write(tmp_path / "a.safetensors", {"a": F32}, {**KEPT, **speaks})
    for out in (tmp_path / "o.safetensors", tmp_path / "folder"):
        anamnesis.remember(source, out, dtype="bf16")
        assert anamnesis.verify(out)["tensors"] == 1
    assert metadata(tmp_path / "o.safetensors") == KEPT
    assert metadata(tmp_path / "folder" / "model.safetensors") == KEPT
    anamnesis.convert(source, tmp_path / "hf", to="hf")
    assert metadata(tmp_path / "hf" / "model.safetensors") == KEPT


def test_a_configuration_in_the_metadata_is_cleaned(tmp_path: Path) -> None:
    config = {"quantization_config": {"bits": 4}, "x_dtype": "fp8", "dim": 3}
    about = {"config": json.dumps(config), "modelspec.dtype": "float8_e4m3fn"}
    source = write(tmp_path / "a.safetensors", {"a": F32}, about)
    anamnesis.remember(source, tmp_path / "o.safetensors", dtype="bf16")
    found = metadata(tmp_path / "o.safetensors")
    assert found["format"] == "pt"
    assert found["modelspec.dtype"] == "bfloat16"
    assert json.loads(found["config"]) == {"x_dtype": "bf16", "dim": 3}


def test_every_shard_gets_what_any_shard_says(tmp_path: Path) -> None:
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name, tensor in zip(names, "ab", strict=True):
        write(tmp_path / "in" / name, {tensor: F32}, {f"ss_{tensor}": "1", "both": tensor})
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (tmp_path / "in" / "model.safetensors.index.json").write_text(json.dumps(index))
    anamnesis.remember(tmp_path / "in", tmp_path / "out", max_shard_size=1024)
    for name in names:
        assert metadata(tmp_path / "out" / name) == {
            "ss_a": "1", "ss_b": "1", "both": "a", "format": "pt",
        }  # fmt: skip


def test_torchaos_descriptions_stay_behind(tmp_path: Path) -> None:
    described = {"tensor_names": '["a"]', "a": '{"_type": "torch.Tensor"}', "ss_x": "1"}
    source = write(tmp_path / "a.safetensors", {"a": F32}, described)
    anamnesis.remember(source, tmp_path / "o.safetensors")
    assert metadata(tmp_path / "o.safetensors") == {"format": "pt", "ss_x": "1"}
