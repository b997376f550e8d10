"""The files of a folder that are the model; links out of it; configurations that are broken."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    SecurityError,
    UnsupportedError,
    UsageError,
)
from anamnesis.limits import Allow, Limits
from anamnesis.readers.choice import KINDS, TRAINING, choose
from anamnesis.readers.find import find_files
from anamnesis.readers.index import Index
from anamnesis.readers.model import load_model

Write = Callable[..., Path]
FOLLOW = Limits(allow=Allow(follow_links=True))


def chosen(names: Sequence[str], **indexes: Sequence[str]) -> tuple[list[str], str]:
    """What is chosen of the names, and all remarks; indexes as `stem_ending=(shards)`."""

    def read(name: str) -> Index:
        stem = name.partition(".")[0]
        return Index(name, {f"t{n}": s for n, s in enumerate(indexes[stem])})

    found = choose("m", sorted(names), read)
    files = [Path(found.index.path).name] if found.index else list(found.names)
    return files, " | ".join(found.notes)


INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("names", "expected", "said"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"], "pytorch_model.bin"),
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"], "model.fp16"),
        (["model.fp16.safetensors"], ["model.fp16.safetensors"], ""),
        (
            ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"],
            ["diffusion_pytorch_model.bin"],
            "diffusion_pytorch_model.fp16.safetensors",
        ),
        (["model.fp16.safetensors", "pytorch_model.fp16.bin"], ["model.fp16.safetensors"], "bin"),
        (["model.fp16.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"], "model.fp16"),
        (["model.fp16.safetensors", "adapter_model.bin"], ["model.fp16.safetensors"], "adapter"),
        (["model.fp16.safetensors", "other.pth"], ["model.fp16.safetensors"], "other.pth"),
        ([ONE, TWO, "original"], [ONE, TWO], "original/: the same model in another layout"),
        (
            ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.non_ema.safetensors"],
            ["diffusion_pytorch_model.safetensors"],
            "non_ema",
        ),
        ([ONE, TWO, "model.fp16-00001-of-00001.safetensors"], [ONE, TWO], "model.fp16-00001"),
        ([ONE, TWO, "model-00001-of-00001.bf16.safetensors"], [ONE, TWO], "00001.bf16"),
        ([ONE, TWO, "model.safetensors"], ["model.safetensors"], ONE),
        ([ONE, TWO, "consolidated.safetensors"], [ONE, TWO], "in another layout"),
        (["sd.safetensors", "sd.fp16.safetensors"], ["sd.safetensors"], "sd.fp16"),
        (["consolidated.safetensors"], ["consolidated.safetensors"], ""),
        (["consolidated.00.pth"], ["consolidated.00.pth"], ""),
        (["qmodel.pt", "config.json"], ["qmodel.pt"], ""),
        (["weights.pt", "rng_state.pt"], ["weights.pt"], "rng_state.pt: the state of a training"),
        (["weights.npz"], ["weights.npz"], ""),
        (["m-Q4_K.gguf", "mmproj-F16.gguf"], ["m-Q4_K.gguf"], "mmproj-F16.gguf"),
        (["mmproj-F16.gguf"], ["mmproj-F16.gguf"], ""),
        (["pytorch_model.bin", "optimizer.bin", "scheduler.bin"], ["pytorch_model.bin"],
         "optimizer.bin, scheduler.bin: the state of a training run"),
        (["model.safetensors", "training_args.bin", "optimizer.pt", "scheduler.pt",
          "rng_state_0.pth"], ["model.safetensors"], "training_args.bin"),
        (["net.pth", "optim.pth"], ["net.pth"], "optim.pth"),
        (["adapter_model.safetensors", "adapter_model.bin"], ["adapter_model.safetensors"], "bin"),
    ],
)  # fmt: skip
def test_the_table(names: list[str], expected: list[str], said: str) -> None:
    files, notes = chosen(names)
    assert files == expected
    assert said in notes
    assert bool(notes) == bool(said)


def test_safetensors_come_before_an_index_of_bin() -> None:
    names = ["model.safetensors", "pytorch_model-1.bin", "pytorch_model.bin.index.json"]
    assert chosen(names, pytorch_model=["pytorch_model-1.bin"])[0] == ["model.safetensors"]


def test_an_index_whose_files_are_not_there_hides_nothing() -> None:
    for names in (["model.safetensors", INDEX], [ONE, TWO, INDEX], ["other.safetensors", INDEX]):
        files, notes = chosen(names, model=["model-00001-of-00004.safetensors"])
        assert files == names[:-1]
        assert f"the index {INDEX} is not used" in notes or "and the index" in notes
    with pytest.raises(FormatError, match=r"no weights found.*none of its files is there"):
        chosen([INDEX], model=[ONE])
    # One that is there is enough: then those that are missing are an error.
    assert chosen([TWO, INDEX], model=[ONE, TWO])[0] == [INDEX]


@pytest.mark.parametrize("text", ['{"weight_map": ', '{"weight_map": {}}', "[]", ""])
def test_a_broken_index_hides_no_single_file(tmp_path: Path, text: str) -> None:
    """transformers does not read it either; it may be an index of many files, cut short."""
    save_file({"a": np.ones(4, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / INDEX).write_text(text)
    model = load_model(str(tmp_path))
    assert [tensor.name for tensor in model.tensors] == ["a"]
    assert [INDEX in note and "is not used" in note for note in model.notes] == [True]
    os.rename(tmp_path / "model.safetensors", tmp_path / ONE)
    with pytest.raises(FormatError, match=INDEX):
        load_model(str(tmp_path))


def test_a_single_file_comes_before_the_shards_of_an_index() -> None:
    files, notes = chosen([ONE, TWO, "model.safetensors", INDEX], model=[ONE, TWO])
    assert files == ["model.safetensors"]
    assert f"the index {INDEX} is not used" in notes
    assert ONE in notes
    assert chosen(["model.safetensors", INDEX], model=["model.safetensors"])[0] == [INDEX]


def test_an_index_of_diffusers_comes_before_its_single_file() -> None:
    stem = "diffusion_pytorch_model"
    names = [f"{stem}.safetensors", f"{stem}.safetensors.index.json", "a.safetensors"]
    assert chosen(names, **{stem: ["a.safetensors"]})[0] == [names[1]]


def test_variants_that_nothing_tells_apart() -> None:
    for stem in ("model", "any"):
        names = [f"{stem}.fp16.safetensors", f"{stem}.bf16.safetensors"]
        with pytest.raises(UsageError, match=rf"2 variants of {stem}.safetensors") as caught:
            chosen(names)
        assert all(name in str(caught.value) for name in names)


def test_only_training_state() -> None:
    with pytest.raises(FormatError, match=r"no weights found.*optimizer\.bin"):
        chosen(["optimizer.bin", "scheduler.pt"])


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (
            ["config.json", "flax_model.msgpack"],
            "flax_model.msgpack is a Flax .*from_flax",
        ),
        (
            ["_METADATA", "manifest.ocdbt", "d"],
            "_METADATA is .* Orbax .*orbax.checkpoint",
        ),
        (["tf_model.h5"], "tf_model.h5 is a Keras checkpoint .*from_tf"),
        (["openvino_model.bin", "openvino_model.xml"], "openvino_model.bin is .* OpenVINO"),
        (["mlc-chat-config.json", "params_shard_0.bin"], "params_shard_0.bin is .* MLC-LLM"),
        (["saved_model.pb", "variables"], "saved_model.pb is .* TensorFlow"),
    ],
)
def test_folders_of_other_tools_are_refused_by_name(names: list[str], what: str) -> None:
    with pytest.raises(UnsupportedError, match=what):
        chosen(names)
    assert chosen([*names, "model.safetensors"])[0] == ["model.safetensors"]


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "inputs.md").read_text()
    table = page.partition("<!-- files -->")[2].partition("<!-- end -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    expected = []
    for kind in KINDS:
        cells = [f"`{kind.single}`" if kind.single else ""]
        cells.append(", ".join(f"`{stem}{kind.ending}.index.json`" for stem in kind.indexed))
        cells.append(", ".join(f"`{pattern}`" for pattern in kind.patterns))
        expected.append("| " + " | ".join([f"`{kind.ending}`", *cells]) + " |")
    assert rows == expected
    assert ", ".join(f"`{pattern}`" for pattern in TRAINING) in " ".join(page.split())


# --- in folders below, and over links


def shard(write: Write, path: Path, value: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, {"w": ("F32", (1,), struct.pack("<f", value))})


def test_an_index_names_files_in_folders_below(write_safetensors: Write, tmp_path: Path) -> None:
    shard(write_safetensors, tmp_path / "m" / "parts" / "a.safetensors")
    document = {"weight_map": {"w": "parts/a.safetensors"}}
    (tmp_path / "m" / INDEX).write_text(json.dumps(document))
    assert [t.name for t in load_model(str(tmp_path / "m")).tensors] == ["w"]
    anamnesis.remember(tmp_path / "m", tmp_path / "out")
    (tmp_path / "m" / "parts").rename(tmp_path / "outside")
    (tmp_path / "m" / "parts").symlink_to("../outside")
    with pytest.raises(SecurityError, match="out of the folder"):
        load_model(str(tmp_path / "m"))


@pytest.fixture
def linked(write_safetensors: Write, tmp_path: Path) -> Path:
    """A folder of links to a folder of one's own, with an index and a configuration."""
    shard(write_safetensors, tmp_path / "store" / "one")
    (tmp_path / "store" / "two").write_text("{}")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model-1.safetensors").symlink_to("../store/one")
    (folder / "config.json").symlink_to(tmp_path / "store" / "two")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": "model-1.safetensors"}}))
    return folder


def test_links_of_ones_own_are_followed_on_request(linked: Path, tmp_path: Path) -> None:
    for path in (linked, linked / INDEX, linked / "*.safetensors", linked / "model-1.safetensors"):
        with pytest.raises(SecurityError, match="--follow-links"):
            load_model(str(path))
        assert [t.name for t in load_model(str(path), limits=FOLLOW).tensors] == ["w"]
    anamnesis.remember(linked, tmp_path / "out", follow_links=True)
    assert (tmp_path / "out" / "config.json").is_file()
    assert anamnesis.inspect(linked, limits=FOLLOW).to_dict()["tensors"] == 1
    assert anamnesis.inspect(linked, follow_links=True).to_dict()["tensors"] == 1
    assert list(anamnesis.open_model(linked, follow_links=True)) == ["w"]


def test_links_of_others_are_never_followed(
    linked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(SecurityError, match="belongs to another user"):
        load_model(str(linked), limits=FOLLOW)


def test_links_to_what_is_no_file_are_never_followed(linked: Path) -> None:
    (linked / "config.json").unlink()
    for target in ("/dev/zero", "../store"):
        (linked / "config.json").symlink_to(target)
        with pytest.raises(SecurityError, match=r"config\.json"):
            load_model(str(linked), limits=FOLLOW)
        (linked / "config.json").unlink()


@pytest.mark.parametrize("name", ["0a" * 20, "0a" * 32])
def test_a_blob_is_named_by_its_content(
    write_safetensors: Write, tmp_path: Path, name: str
) -> None:
    """What `hf download --local-dir` left until 0.23; a link to any other name needs the flag."""
    blobs = tmp_path / "cache" / "models--owner--name" / "blobs"
    shard(write_safetensors, blobs / name)
    shard(write_safetensors, blobs / "secret")
    (tmp_path / "m").mkdir()
    link = tmp_path / "m" / "model.safetensors"
    link.symlink_to(blobs / name)
    assert [t.name for t in load_model(str(tmp_path / "m")).tensors] == ["w"]
    link.unlink()
    link.symlink_to(blobs / "secret")
    with pytest.raises(SecurityError, match="--follow-links"):
        load_model(str(tmp_path / "m"))


def test_the_command_line_follows_links(
    linked: Path, amn: Callable[..., object], tmp_path: Path
) -> None:
    for command in (("inspect", linked), ("parse", linked), ("stats", linked),
                    ("remember", linked, "-o", tmp_path / "out")):  # fmt: skip
        refused = amn(*command)
        assert refused.returncode == 6  # type: ignore[attr-defined]
        assert "--follow-links" in refused.stderr  # type: ignore[attr-defined]
        assert amn(*command, "--follow-links").returncode == 0  # type: ignore[attr-defined]


@pytest.fixture
def written(linked: Path) -> Path:
    """The same folder where no link could be made: each is a file that holds where it led."""
    for link in [*linked.iterdir()]:
        if link.is_symlink():
            target = os.readlink(link)
            link.unlink()
            link.write_text(target)
    (linked / "tokenizer.json").write_text("../store/three\n")
    (linked.parent / "store" / "three").write_text('{"words": []}')
    (linked / "README.txt").write_text("model-1.safetensors")
    return linked


def test_links_stored_as_text_are_followed_on_request(written: Path, tmp_path: Path) -> None:
    shard = written / "model-1.safetensors"
    for path in (written, written / INDEX, written / "*.safetensors", shard):
        with pytest.raises(FormatError, match=r"a link stored as text, to .*--follow-links"):
            load_model(str(path))
        assert [t.name for t in load_model(str(path), limits=FOLLOW).tensors] == ["w"]
    anamnesis.remember(written, tmp_path / "out", follow_links=True)
    assert list(anamnesis.open_model(tmp_path / "out")) == ["w"]
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text()) == {"words": []}
    assert (tmp_path / "out" / "README.txt").read_text() == "model-1.safetensors"
    assert (tmp_path / "out" / "config.json").read_text() == "{}"


def test_a_statement_behind_a_link_stored_as_text_counts(written: Path) -> None:
    """Codes are refused by the method that the file states, which the text leads to."""
    (written.parent / "store" / "two").write_text('{"quantization_config": {"quant_method": "x"}}')
    header = b'{"w":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}'
    data = len(header).to_bytes(8, "little") + header + bytes(16)
    (written.parent / "store" / "one").write_bytes(data)
    with pytest.raises(UnsupportedError, match=r"quant_method \(x\)"):
        load_model(str(written), limits=FOLLOW)
    data = data.replace(b"I32", b"F32")
    (written / "model-1.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match=r"config\.json: is a link stored as text"):
        load_model(str(written))


def test_text_is_followed_by_the_rule_for_links(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = written / "model-1.safetensors"
    for target in ("../store", "/dev/zero", "../store/none", "model-1.safetensors"):
        shard.write_text(target)
        with pytest.raises(AnamnesisError, match=r"model-1\.safetensors"):
            load_model(str(written), limits=FOLLOW)
    shard.write_text("../store/none")
    with pytest.raises(FormatError, match="a link stored as text, whose file is not here"):
        load_model(str(written))
    for text in ("see https://a.b/c", "404 and/or 403", '{"a/b":1}', "a/b\nc/d"):
        shard.write_text(text)
        with pytest.raises(AnamnesisError) as caught:
            load_model(str(written))
        assert "stored as text" not in str(caught.value)
    shard.write_text("../store/one")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(SecurityError, match="belongs to another user"):
        load_model(str(written), limits=FOLLOW)


def test_a_companion_that_is_a_link_stored_as_text_is_said(
    write_safetensors: Write, tmp_path: Path, amn: Callable[..., object]
) -> None:
    shard(write_safetensors, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "merges.txt").write_text("../merges")
    (tmp_path / "merges").write_text("a b")
    run = amn("remember", tmp_path / "m", "-o", tmp_path / "out")
    assert run.returncode == 0  # type: ignore[attr-defined]
    assert "merges.txt: is a link stored as text, and copied as such" in run.stderr  # type: ignore[attr-defined]
    assert (tmp_path / "out" / "merges.txt").read_text() == "../merges"
    amn("remember", tmp_path / "m", "-o", tmp_path / "out", "--overwrite", "--follow-links")
    assert (tmp_path / "out" / "merges.txt").read_text() == "a b"


# --- configurations


def test_infinity_is_read_as_python_writes_it(write_safetensors: Write, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shard(write_safetensors, folder / "model.safetensors")
    config = {"limit": [0.0, float("inf"), -float("inf")], "quantization_config": None}
    (folder / "config.json").write_text(json.dumps(config))
    assert len(load_model(str(folder / "model.safetensors")).tensors) == 1
    anamnesis.remember(folder, tmp_path / "out")
    copied = json.loads((tmp_path / "out" / "config.json").read_text())
    assert copied["limit"] == config["limit"]
    assert "quantization_config" not in copied


@pytest.mark.parametrize("text", ["{", "[]", '{"a":1,"a":2}', "\ufeff{}"])
def test_a_broken_configuration_refuses_what_needs_it(
    sample: Path, write_safetensors: Write, tmp_path: Path, text: str
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(text)
    np.savez(folder / "weights.npz", w=np.ones((2, 2), np.float32))
    model = load_model(str(folder))
    assert ["config.json" in note for note in model.notes] == [True]
    anamnesis.remember(folder, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists() == (text == "[]")  # nothing to clean
    np.savez(folder / "weights.npz", w=np.ones((2, 2), np.int8))
    with pytest.raises(FormatError, match=r"config\.json"):
        load_model(str(folder))
    (folder / "weights.npz").unlink()
    (folder / "a.gguf").write_bytes(sample.read_bytes())
    assert load_model(str(folder)).tensors
    shard(write_safetensors, folder / "model.safetensors")
    with pytest.raises(FormatError, match=r"config\.json"):
        load_model(str(folder))


def test_found_names_what_is_left_out(write_safetensors: Write, tmp_path: Path) -> None:
    shard(write_safetensors, tmp_path / "model.safetensors")
    (tmp_path / "optimizer.bin").write_bytes(b"x")
    (note,) = find_files(str(tmp_path), Limits()).notes
    assert note == f"{tmp_path}: left out optimizer.bin: the state of a training run"
