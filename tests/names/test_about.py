"""What a GGUF says of a model's origin: as the `gguf` package has it, whatever the card is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anamnesis.names.about import about
from anamnesis.readers.gguf_types import ARRAY, STRING

gguf = pytest.importorskip("gguf")
SHAPES = [("token_embd.weight", (300, 32)), ("blk.0.ffn_up_exps.weight", (4, 16, 32))]
CARD = """---
license: apache-2.0
language: [de, en]
tags: [chat]
base_model: org/Small-1B-Base
datasets: [org/data]
---
# A model
"""


def of_package(folder: Path) -> dict[str, object]:
    """What llama.cpp's converter writes of it (`ModelBase.prepare_metadata`)."""
    writer = gguf.GGUFWriter(None, "none")
    for name, shape in SHAPES:
        writer.add_tensor_info(name, shape, gguf.np.dtype("float32"), 4)
    total, shared, experts, count = writer.get_total_parameter_count()
    found = gguf.Metadata.load(None, folder, None, total)
    found.name = found.name or folder.name
    found.size_label = found.size_label or gguf.size_label(total, shared, experts, count)
    found.set_gguf_meta_model(writer)
    del writer.kv_data[0]["general.architecture"]
    return {key: entry.value for key, entry in writer.kv_data[0].items()}


def test_a_card_and_generation_settings_are_the_package_s(tmp_path: Path) -> None:
    folder = tmp_path / "Small-1B-Instruct-v0.2"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    settings = {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    found = about(str(folder), SHAPES)
    assert {key: value.value for key, value in found.items()} == of_package(folder)
    assert found["general.license"].value == "apache-2.0"
    assert (found["general.tags"].type_id, found["general.tags"].item_type) == (ARRAY, STRING)
    assert found["general.name"].value == "Small 1B Instruct v0.2"


def test_a_bare_folder_has_its_name_and_size(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    found = {k: v.value for k, v in about(str(tmp_path / "hf"), SHAPES).items()}
    assert found == of_package(tmp_path / "hf")
    assert found["general.size_label"] == "4x10K"


@pytest.mark.parametrize(
    "card",
    [
        "---\nlicense: [\n---\n",
        "---\nlicense: {a: 1}\n---\n",
        "---\n- a\n---\n",
        "---\n" + "[" * 3000,
        "---\ntags: {x: 1}\nbase_model: 7\n---\n",
        "---\n? [a]\n: b\n---\n",
    ],
)
def test_a_broken_card_is_left_out(card: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "README.md").write_text(card)
    found = about(str(tmp_path / "m"), SHAPES)
    assert found["general.name"].value
    assert all(isinstance(v.value, (str, int, float, list)) for v in found.values())


def test_a_huge_card_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with (tmp_path / "m" / "README.md").open("wb") as file:
        file.truncate(1 << 40)
    assert about(str(tmp_path / "m"), SHAPES)["general.name"].value == "m"
