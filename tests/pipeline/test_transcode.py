"""Lossless transcoding: codes and scales of one layout in another, and why where it cannot be.

What an output decodes to is compared with what its input decodes to, which other tests hold against
the libraries; a zero may lose its sign where a layout has one zero.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf_files import finish
from llama_folder import add_tokenizer
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.kernels.transcoders import SOURCES, TARGETS
from anamnesis.names import gguf_config
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.explain import explain
from anamnesis.pipeline.jobs import plan_job

LAYER = "model.layers.0.mlp.up_proj"
NAME = f"{LAYER}.weight"
ROWS, COLUMNS = 192, 512
# Targets that hold the same numbers: any of a line becomes any other.
ALIKE = (
    ("nvfp4", "nvfp4:style=modelopt"),
    ("nvfp4:style=mlx", "mlx-nvfp4", "gguf:nvfp4", "nvfp4", "nvfp4:style=modelopt"),
    ("mxfp4", "mlx-mxfp4", "gguf:mxfp4"),
    ("gguf:q4-0", "mlx-affine:group=32", "ct-pack-quantized", "gguf:q4-1"),
    ("gguf:q4-1", "mlx-affine:group=32"),
    ("gguf:q5-0", "mlx-affine:bits=5,group=32", "ct-pack-quantized:bits=5", "gguf:q5-1"),
    ("gguf:q5-1", "mlx-affine:bits=5,group=32"),
    ("gguf:q8-0", "mlx-affine:bits=8,group=32", "ct-int-quantized:group=32"),
    ("ct-pack-quantized:group=64", "ct-pack-quantized:sym=false", "mlx-affine", "gguf:q4-0"),
    ("ct-pack-quantized:bits=8", "ct-int-quantized", "gguf:q8-0"),
    ("ct-int-quantized:bits=8,sym=false", "ct-pack-quantized:bits=8,sym=false"),
    ("fp8-block", "fp8-block:style=transformers"),
    ("mxfp8", "mlx-mxfp8"),
    *(
        (one, one)
        for one in (
            "bnb-fp4", "bnb-int8", "bnb-nf4:block=128,nested=true",
            "ct-pack-quantized:bits=3,sym=false", "fp8-block:style=compressed-tensors",
            "fp8-channel", "fp8-tensor", "gguf:q2-k", "gguf:q4-k", "gguf:iq4-xs", "gguf:tq1-0",
            "mlx-affine:bits=3",
        )
    ),
)  # fmt: skip
PAIRS = [(line[0], other) for line in ALIKE for other in line]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with one matrix, in BF16."""
    numbers = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)) * 0.02
    return folder(tmp_path / "model", {NAME: numbers.astype(ml_dtypes.bfloat16)}, {})


def folder(path: Path, tensors: dict[str, Any], quantization: dict[str, Any]) -> Path:
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    config = {"model_type": "llama", "torch_dtype": "bfloat16"}
    if quantization:
        config["quantization_config"] = quantization
    (path / "config.json").write_text(json.dumps(config))
    return path


def convert(source: Path, out: Path, encode: str, **settings: Any) -> Path:
    """To a GGUF, under the names that are stored, or to a folder."""
    gguf, _, name = encode.partition("gguf:")
    if not gguf and name:
        settings |= {"to": "gguf", "encode": name, "names": "stored"}
        out = out.with_suffix(".gguf")
    else:
        settings |= {"to": "safetensors", "encode": encode}
    anamnesis.convert(source, out, **settings)
    if out.is_dir() and source.suffix == ".gguf" and "mlx-affine" in encode:
        bits = int(encode.partition("bits=")[2][:1] or 4)  # a GGUF gives no config.json along
        group = int(encode.partition("group=")[2][:2])
        text = json.dumps({"quantization": {"group_size": group, "bits": bits}})
        (out / "config.json").write_text(text)
    return out


def stored(path: Path) -> tuple[Any, bytes]:
    """What a model stores; of a folder, without what it says of its configuration."""
    if path.is_file():
        return None, path.read_bytes()
    data = (path / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return header, data[start:]


def numbers(path: Path, dtype: Any = ml_dtypes.bfloat16) -> Any:
    """The only matrix of a model as float32; -0 is 0 for comparisons."""
    (tensor,) = anamnesis.open_model(path)
    found = anamnesis.open_model(path)[tensor].to_numpy()
    return np.asarray(found).astype(np.float32)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_codes_move_to_what_holds_the_same_numbers(
    model: Path, tmp_path: Path, first: str, second: str
) -> None:
    source = convert(model, tmp_path / "first", first)
    out = convert(source, tmp_path / "second", second)
    np.testing.assert_array_equal(numbers(out), numbers(source))
    back = convert(out, tmp_path / "back", second)
    assert stored(back) == stored(out)  # codes are copied


def test_every_row_of_the_table_is_tried() -> None:
    tried = {one.replace("gguf:", "gguf-").partition(":")[0] for line in ALIKE for one in line}
    assert tried >= TARGETS.keys()
    assert {"awq-gemm", "gptq"} <= SOURCES.keys()


def _words(codes: Any, bits: int) -> Any:
    """A stream of codes along the first axis, as int32 words."""
    spread = np.unpackbits(
        codes[..., None].astype(np.uint8), axis=-1, count=bits, bitorder="little"
    )
    lines = np.moveaxis(spread, 0, -2).reshape(codes.shape[1], -1)
    return np.packbits(lines, axis=1, bitorder="little").view(np.int32).T.copy()


def gptq(
    path: Path,
    bits: int,
    zeros: Any,
    *,
    version: int = 1,
    sym: bool = False,
    columns: int = COLUMNS,
) -> Path:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 1 << bits, (columns, ROWS))
    parts = {
        f"{LAYER}.qweight": _words(codes, bits),
        f"{LAYER}.qzeros": _words((zeros - (version == 1)).T, bits).T.copy(),
        f"{LAYER}.scales": rng.uniform(0.001, 0.02, zeros.shape).astype(np.float16),
    }
    stated = {"quant_method": "gptq", "bits": bits, "group_size": 128, "desc_act": False}
    stated |= {"sym": sym, "checkpoint_format": "gptq" if version == 1 else "gptq_v2"}
    return folder(path, parts, stated)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_becomes_packed(tmp_path: Path, bits: int, version: int) -> None:
    zeros = np.random.default_rng(3).integers(1, 1 << bits, (COLUMNS // 128, ROWS))
    source = gptq(tmp_path / "gptq", bits, zeros, version=version)
    out = convert(source, tmp_path / "out", f"ct-pack-quantized:bits={bits}")
    np.testing.assert_array_equal(numbers(out), numbers(source))
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    weights = config["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (bits, 128, False)


def test_symmetric_gptq_has_no_zero_points(tmp_path: Path) -> None:
    source = gptq(tmp_path / "gptq", 4, np.full((COLUMNS // 128, ROWS), 8), sym=True)
    out = convert(source, tmp_path / "out", "ct-pack-quantized")
    np.testing.assert_array_equal(numbers(out), numbers(source))
    assert f"{NAME}_zero_point" not in load_file(out / "model.safetensors")
    mlx = convert(source, tmp_path / "mlx", "mlx-affine:group=128")
    np.testing.assert_array_equal(numbers(mlx), numbers(source))


@pytest.mark.parametrize("columns", [160, 448])
@pytest.mark.parametrize(
    "encode", ["gguf:q4-1", "mlx-affine:group=32", "ct-pack-quantized:group=32"]
)
def test_the_last_group_of_a_row_may_be_short(tmp_path: Path, encode: str, columns: int) -> None:
    """Of 160 inputs the second group of 128 is one of 32."""
    zeros = np.full((-(-columns // 128), ROWS), 8)
    source = gptq(tmp_path / "gptq", 4, zeros, sym=True, columns=columns)
    out = convert(source, tmp_path / "out", encode)
    np.testing.assert_array_equal(numbers(out), numbers(source))


def test_awq_becomes_packed(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    words = rng.integers(-(1 << 31), 1 << 31, (COLUMNS, ROWS // 8), np.int64).astype(np.int32)
    groups = COLUMNS // 128
    parts = {
        f"{LAYER}.qweight": words,
        f"{LAYER}.qzeros": words[:groups].copy(),
        f"{LAYER}.scales": rng.uniform(0.001, 0.02, (groups, ROWS)).astype(np.float16),
    }
    stated = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    source = folder(tmp_path / "awq", parts, {**stated, "version": "gemm"})
    out = convert(source, tmp_path / "out", "ct-pack-quantized")
    np.testing.assert_array_equal(numbers(out), numbers(source))


REFUSED = (
    ("gguf:q4-0", "mlx-affine:group=64", "its groups are of 32 elements, and those of"),
    ("gguf:q4-0", "ct-int-quantized", "its codes have 4 bits"),
    ("gguf:q4-k", "nvfp4", "gguf-q4-k and nvfp4 have no numbers in common"),
    ("gguf:q4-1", "ct-pack-quantized", "a bias is no whole number of scales"),
    ("nvfp4", "nvfp4:style=mlx", "under a number of the tensor"),
    ("fp8-tensor", "fp8-block", "the scales of fp8-tensor are not those of fp8-block"),
    ("fp8-block:block=64", "fp8-block:block=128", "a scale is for 64 x 64 elements"),
    ("ct-pack-quantized:sym=false", "gguf:q4-0", "a zero point is not 8"),
    ("ct-pack-quantized:sym=false", "ct-pack-quantized:sym=true", "and not 8; sym=false"),
)


@pytest.mark.parametrize(("first", "second", "why"), REFUSED)
def test_what_is_not_exact_says_why_and_is_encoded_when_allowed(
    model: Path, tmp_path: Path, first: str, second: str, why: str
) -> None:
    source = convert(model, tmp_path / "first", first)
    with pytest.raises(UsageError, match="allow_requantize") as error:
        convert(source, tmp_path / "second", second)
    assert why in str(error.value)
    assert not list(tmp_path.glob("second*"))
    out = convert(source, tmp_path / "second", second, allow_requantize=True)
    found, wanted = numbers(out), numbers(source)
    assert 0 < np.abs(found - wanted).max() < 0.05


def test_fewer_bits_are_quantising_and_need_no_leave(model: Path, tmp_path: Path) -> None:
    source = convert(model, tmp_path / "first", "fp8-block")
    job = job_from(
        inputs=[str(source)],
        output={"path": str(tmp_path / "out"), "format": "safetensors", "encode": "nvfp4"},
    )
    ((_, plan),) = plan_job(job)
    assert not isinstance(plan, BaseException)
    assert "from recovered values: fp8-block and nvfp4 have no numbers" in explain(plan)


def test_the_plan_says_what_is_moved(model: Path, tmp_path: Path) -> None:
    source = convert(model, tmp_path / "first", "nvfp4:style=modelopt")
    output = {"path": str(tmp_path / "out"), "format": "safetensors", "encode": "nvfp4"}
    ((_, plan),) = plan_job(job_from(inputs=[str(source)], output=output))
    assert not isinstance(plan, BaseException)
    assert f"{NAME}: nvfp4, codes and scales as they are" in explain(plan)


def test_an_exponent_of_255_is_another_number_in_a_gguf(model: Path, tmp_path: Path) -> None:
    source = convert(model, tmp_path / "first", "mxfp4")
    parts = load_file(source / "model.safetensors")
    parts[f"{NAME}_scale"][3, 1] = 255
    save_file(parts, source / "model.safetensors")
    with pytest.raises(UsageError, match="an exponent is 255"):
        convert(source, tmp_path / "out", "gguf:mxfp4")


@pytest.mark.parametrize("kind", ["serial", "threads"])
def test_windows_do_not_show(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = convert(model, tmp_path / "first", "gguf:q4-0")
    whole = convert(source, tmp_path / "whole", "ct-pack-quantized:sym=false")
    monkeypatch.setattr("anamnesis.pipeline.plan.WINDOW_BYTES", 40_000)
    monkeypatch.setattr("anamnesis.pipeline.plan.LEAST_TASK_BYTES", 70_000)
    parts = convert(source, tmp_path / "parts", "ct-pack-quantized:sym=false", executor=kind)
    name = "model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert anamnesis.verify(parts)["tensors"] == 4


def gguf_of(path: Path, architecture: str, keys: dict[str, int], tensors: dict[str, Any]) -> Path:
    """A GGUF with tensors of a type each: `(type, float32 numbers)`."""
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in keys.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    for name, (kind, array) in tensors.items():
        found = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quantize(array, found), raw_dtype=found)
    finish(writer)
    return path


@pytest.mark.parametrize("window", [3_000, 2 << 20])
@pytest.mark.parametrize(
    ("kind", "encode"), [("Q8_0", "ct-int-quantized:group=32"), ("Q4_0", "ct-pack-quantized")]
)
def test_rows_in_another_order_move_with_their_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, encode: str, window: int
) -> None:
    """A GGUF has the rows of q and k in the order that rotary embeddings of GGUF want."""
    monkeypatch.setattr("anamnesis.pipeline.plan.WINDOW_BYTES", window)
    rng = np.random.default_rng(5)
    keys = {"attention.head_count": 8, "attention.head_count_kv": 2, "embedding_length": 256}
    shapes = {"attn_q": (256, 256), "attn_k": (64, 256), "ffn_up": (96, 256)}
    tensors = {
        f"blk.0.{name}.weight": (kind, rng.standard_normal(shape).astype(np.float32))
        for name, shape in shapes.items()
    }
    source = gguf_of(tmp_path / "m.gguf", "llama", keys, tensors)
    recovered = tmp_path / "bf16"
    anamnesis.convert(source, recovered, to="hf")
    anamnesis.convert(source, tmp_path / "out", to="hf", encode=encode)
    first, second = anamnesis.open_model(recovered), anamnesis.open_model(tmp_path / "out")
    assert len(list(first)) == 3
    for name in first:
        np.testing.assert_array_equal(
            second[name].to_numpy().astype(np.float32), first[name].to_numpy().astype(np.float32)
        )


@pytest.mark.parametrize("window", [3_000, 2 << 20])
def test_stacked_experts_of_gpt_oss_become_ggufs_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """Rows of gate and up, which alternate, and codes along the inputs of transposed matrices."""
    monkeypatch.setattr("anamnesis.pipeline.plan.WINDOW_BYTES", window)
    written = (*gguf_config.WRITTEN, "GptOssForCausalLM")  # key/values are not the matter here
    monkeypatch.setattr(gguf_config, "WRITTEN", written)
    rng = np.random.default_rng(6)
    prefix, experts = "model.layers.0.mlp.experts.", {"gate_up_proj": 128, "down_proj": 64}
    parts: dict[str, Any] = {}
    for name, rows in experts.items():
        parts[f"{prefix}{name}_blocks"] = rng.integers(0, 256, (3, rows, 2, 16), np.uint8)
        parts[f"{prefix}{name}_scales"] = rng.integers(100, 130, (3, rows, 2), np.uint8)
    source = folder(tmp_path / "m", parts, {"quant_method": "mxfp4"})
    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss"}
    config |= {"num_local_experts": 3, "hidden_size": 64, "num_hidden_layers": 1}
    config["vocab_size"] = 280
    (source / "config.json").write_text(json.dumps(config))
    tokenizers = pytest.importorskip("tokenizers")
    add_tokenizer(source, 280, tokenizers.pre_tokenizers.ByteLevel.alphabet())
    for name, encode in (("moved", "mxfp4"), ("bf16", None)):
        anamnesis.convert(source, tmp_path / f"{name}.gguf", to="gguf", encode=encode)
    moved, plain = (anamnesis.open_model(tmp_path / f"{n}.gguf") for n in ("moved", "bf16"))
    assert {moved[name].tensor.encoding for name in moved} == {"gguf-mxfp4"}
    for name in plain:
        np.testing.assert_array_equal(
            moved[name].to_numpy().astype(np.float32), plain[name].to_numpy().astype(np.float32)
        )
    for name, place in (("same", source), ("back", tmp_path / "moved.gguf")):
        settings = {"to": "hf", "encode": "mxfp4:style=gpt-oss"}
        anamnesis.convert(place, tmp_path / name, **settings)
        found = load_file(tmp_path / name / "model.safetensors")
        assert found.keys() == parts.keys()
        assert all(np.array_equal(found[key], parts[key]) for key in parts)
        anamnesis.verify(tmp_path / name, against=place)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "mxfp4", "modules_to_not_convert": []}


@pytest.mark.parametrize("window", [4_000, 2 << 20])
@pytest.mark.parametrize("encode", ["bnb-nf4:nested=true", "bnb-fp4:block=256", "bnb-nf4"])
def test_bitsandbytes_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encode: str, window: int
) -> None:
    """Settings follow the source; an odd number of blocks, the dtype and maps of the state."""
    monkeypatch.setattr("anamnesis.pipeline.plan.WINDOW_BYTES", window)
    values = np.random.default_rng(9).standard_normal((270, 194)).astype(np.float16)
    model = folder(tmp_path / "m", {NAME: values}, {})
    source = convert(model, tmp_path / "first", encode)
    target = encode.partition(":")[0]
    out = convert(source, tmp_path / "second", target)
    assert stored(out) == stored(source)
    first, second = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    first[f"{NAME}.quant_map"][3] += 1  # which no reader of ours refuses, and no target has
    save_file(first, source / "model.safetensors")
    with pytest.raises(UsageError, match="its numbers are not exactly those of"):
        convert(source, tmp_path / "third", target)
    other = {"bnb-nf4": "bnb-fp4", "bnb-fp4": "bnb-nf4"}[target]
    with pytest.raises(UsageError, match=f"the codes of {target} are not those of {other}"):
        convert(out, tmp_path / "fourth", other)
    assert (
        json.loads(second[f"{NAME}.quant_state.bitsandbytes__{target[4:]}"].tobytes())["dtype"]
        == "float16"
    )
