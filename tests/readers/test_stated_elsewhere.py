"""Methods, siblings and codes in containers that are no safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pth_bytes
import pytest
from onnx import TensorProto, helper, numpy_helper

from anamnesis.errors import AnamnesisError, UnsupportedError
from anamnesis.readers.model import load_model

B = pth_bytes
BLOCK = {"quantization_config": {"quant_method": "foo-bits"}}
rng = np.random.default_rng(12)
CODES = rng.integers(-128, 128, (64, 64), np.int8)
SCALES = np.ones((64, 1), np.float32)


def notes(path: Path) -> tuple[str, ...]:
    return load_model(str(path)).notes


@pytest.mark.parametrize(
    ("name", "text"),
    [("quant_method", "foo-bits"), ("config", json.dumps(BLOCK)), ("quantization", b"foo-bits")],
)
def test_a_text_of_an_npz_states_a_method(tmp_path: Path, name: str, text: Any) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, w=SCALES, **{name: np.array(text)})
    with pytest.raises(UnsupportedError, match=rf"metadata {name}.*foo-bits\): no such method"):
        load_model(str(path))
    np.savez(path, w=SCALES, **{name: np.array([text, text]), "other": np.array("foo-bits")})
    assert len(notes(path)) == 2


def test_codes_of_any_name_in_an_npz_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, q=CODES, delta=SCALES)
    (note,) = notes(path)
    assert "'q' (I8 [64, 64]): integers by themselves" in note
    np.savez(path, images=CODES, labels=np.arange(64), weights=np.ones(7, np.float32))
    assert notes(path) == ()


def test_a_list_beside_a_state_dict_states_a_method(tmp_path: Path) -> None:
    weights = B.dict_({"w": B.tensor(B.storage())})
    block = B.dict_({"quantization_config": B.dict_({"quant_method": B.value("foo-bits")})})
    path = tmp_path / "m.pt"

    def write(**beside: bytes) -> None:
        top = B.dict_({"state_dict": weights, **beside})
        path.write_bytes(B.pth(B.pickled(top), {"0": B.DATA}))

    write(meta=B.list_(block))
    with pytest.raises(UnsupportedError, match=r"metadata meta: list.0.*foo-bits"):
        load_model(str(path))
    write(quant=B.list_(B.value("a")))
    load_model(str(path))


def graph(path: Path, arrays: dict[str, Any], nodes: list[Any], **metadata: str) -> Path:
    """A model of one matrix product by `w`, made by `nodes` of `arrays`."""
    nodes = [*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [1, 64]) for one in "xy"]
    held = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], held))
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("said", [{"quant_method": "foo-bits"}, {"config": json.dumps(BLOCK)}])
def test_the_properties_of_an_onnx_model_state_a_method(tmp_path: Path, said: Any) -> None:
    plain = {"onnx.infer": "onnxruntime.quant", "onnx.quant.pre_process": "onnxruntime.quant"}
    assert notes(graph(tmp_path / "m.onnx", {"w": np.ones((64, 64), "f4")}, [], **plain)) == ()
    path = graph(tmp_path / "m.onnx", {"w": np.ones((64, 64), "f4")}, [], **said)
    with pytest.raises(UnsupportedError, match=r"metadata .*foo-bits\): no such method"):
        load_model(str(path))


def test_codes_that_an_onnx_graph_turns_into_weights_itself_are_noted(tmp_path: Path) -> None:
    cast = helper.make_node("Cast", ["codes"], ["f"], to=TensorProto.FLOAT)
    times = helper.make_node("Mul", ["f", "s"], ["w"])
    path = graph(tmp_path / "m.onnx", {"codes": CODES, "s": SCALES}, [cast, times])
    assert ["'codes' (I8 [64, 64]): integers by" in note for note in notes(path)] == [True]


def test_what_dequantised_weights_are_multiplied_by_is_noted(tmp_path: Path) -> None:
    one = {"codes": CODES, "one": np.float32(0.5).reshape(()), "t": SCALES}
    numbers = helper.make_node("DequantizeLinear", ["codes", "one"], ["f"])
    times = helper.make_node("Mul", ["f", "t"], ["w"])
    (note,) = notes(graph(tmp_path / "m.onnx", one, [numbers, times]))
    assert "'t' (F32 [64, 1]): a parameter beside decoded layers" in note


def blocks(path: Path, more: dict[str, Any], **said: Any) -> Path:
    """A GGUF of a matrix in blocks, and others."""
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, value in said.items():
        writer.add_string(key.replace("__", "."), value)
    codes = rng.integers(0, 9, (64, 68), np.uint8)
    writer.add_tensor("blk.0.attn_q.weight", codes, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name, array in more.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "name",
    [
        *("blk.0.attn_q.zeta", "blk.0.attn_q_scale", "blk.0.attn_q.weight.scale"),
        *("blk.0.attn_q_rot.weight", "blk.0.attn_q_hadamard.weight", "rotation", "blk.0.R1"),
    ],
)
def test_a_tensor_beside_blocks_refuses_a_gguf(tmp_path: Path, name: str) -> None:
    with pytest.raises(AnamnesisError, match=name):
        load_model(str(blocks(tmp_path / "m.gguf", {name: SCALES})))


def test_ordinary_tensors_beside_blocks_stay(tmp_path: Path) -> None:
    names = ["blk.0.attn_q_norm.weight", "blk.0.attn_q.bias", "blk.0.ssm_a", "rope_freqs.weight"]
    names += ["blk.0.attn_q_a.weight", "blk.0.attn_q.weight.1", "blk.0.ffn_down_exps.scale"]
    assert notes(blocks(tmp_path / "m.gguf", dict.fromkeys(names, SCALES))) == ()


def test_integers_of_another_layout_refuse_a_gguf(tmp_path: Path) -> None:
    codes = CODES.astype(np.int32)
    with pytest.raises(AnamnesisError, match=r"x\.qweight"):
        load_model(str(blocks(tmp_path / "m.gguf", {"x.qweight": codes, "x.scales": SCALES})))


def test_a_document_in_a_gguf_states_a_method(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"metadata config: .*foo-bits\): no such method"):
        load_model(str(blocks(tmp_path / "m.gguf", {}, config=json.dumps(BLOCK))))
    plain = {"config": '{"hidden_size": 64}', "tokenizer__chat_template": "{% quant %}"}
    assert notes(blocks(tmp_path / "m.gguf", {}, **plain)) == ()


@pytest.mark.parametrize(
    "key", ["general.smoothquant_alpha", "llama.attn_q_permutation", "x.weight_scale_multiplier"]
)
def test_another_meaning_of_a_gguf_s_weights_is_noted(tmp_path: Path, key: str) -> None:
    (note,) = notes(blocks(tmp_path / "m.gguf", {}, **{key: "0.5"}))
    assert f"its metadata {key} speaks of a basis" in note
    plain = {"granite.residual_scale": "1", "llama4.interleave_moe_layer_step": "2"}
    assert notes(blocks(tmp_path / "n.gguf", {}, **plain)) == ()
