"""Types of GGUF: their geometry, and those that need more than their number."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf_files import F32, NVFP4, Q2_0, finish, opened, resolved, write

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.kernels import ENCODINGS
from anamnesis.readers.gguf_types import FP8, GGML_TYPES, type_named
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger
from benchmarks.models import Entry, Layer, write_model

GGML_TYPE_Q8_0, GGML_TYPE_I8 = 8, 24
QUANTISED = sorted(name for name, row in ENCODINGS.items() if row.ggml_type >= 0)


@pytest.mark.parametrize("encoding", QUANTISED)
def test_geometry_of_every_encoding(encoding: str, tmp_path: Path) -> None:
    row = ENCODINGS[encoding]
    dims = [2 * row.block_elems, 3, 2]
    nbytes = 12 * row.block_bytes + 6 * row.row_meta
    path = write(
        tmp_path / "x.gguf", [("w.weight", dims, row.ggml_type, nbytes), ("n", [4], F32, 16)]
    )
    ledger = resolved(path)
    tensor = ledger.tensors["w.weight"]
    assert (tensor.scheme, tensor.encoding) == (encoding, encoding)
    assert tensor.shape == (2, 3, 2 * row.block_elems)
    unit, bits = row.block_elems, 8 * row.block_bytes
    if row.row_meta:
        unit, bits = 2 * unit, 2 * bits + 8 * row.row_meta
    assert (tensor.units, tensor.unit_elems, tensor.unit_multiple) == (dims[0] * 6 // unit, unit, 1)
    assert tensor.out_dtype == "BF16"
    (payload,) = tensor.components
    assert (payload.role, payload.stored.nbytes) == ("payload", nbytes)
    assert payload.placement == Contiguous(bits)
    assert ledger.tensors["n"].scheme == "passthrough"
    if row.ggml_type in (q.value for q in gguf.GGMLQuantizationType):
        kind = gguf.GGMLQuantizationType(row.ggml_type)
        assert gguf.GGML_QUANT_SIZES[kind] == (row.block_elems, row.block_bytes)
        assert payload.stored.dtype == kind.name


def test_the_table_of_types_agrees_with_gguf_py() -> None:
    for type_id, row in GGML_TYPES.items():
        if row.name not in ("I2_S", "Q2_0", *FP8.values()) and type_id < 133:  # not in gguf-py 0.19
            kind = gguf.GGMLQuantizationType(type_id)
            assert (kind.name, *gguf.GGML_QUANT_SIZES[kind], 0) == row[:4]


def q2_0(path: Path, groups: Iterable[tuple[int, int]], **more: Any) -> str:
    """The dtype of type-42 tensors of `(elements, group)`, each stored in that group size."""
    bytes_of = {64: (64, 18), 128: (128, 34)}
    tensors = [
        (f"w{i}", [n], Q2_0, n // bytes_of[g][0] * bytes_of[g][1])
        for i, (n, g) in enumerate(groups)
    ]
    dtypes = {s.dtype for s in opened(write(path, tensors, **more)).stored.values()}
    assert len(dtypes) == 1
    return dtypes.pop()


@pytest.mark.parametrize("tail", [0, 7])
@pytest.mark.parametrize(
    ("groups", "dtype"),
    [
        ([(4096, 64), (4096, 64)], "Q2_0"),
        ([(4096, 128), (4096, 128)], "Q2_0_G128"),
        ([(4096, 64)], "Q2_0"),
        ([(4096, 128)], "Q2_0_G128"),
        ([(64, 64), (128, 64)], "Q2_0"),  # 36 and 34 bytes are padded alike; a row of 64 decides
        ([(128, 128), (4096, 128)], "Q2_0_G128"),
        ([(128, 64), (4096, 64)], "Q2_0"),
        ([(4096, 128), (128, 128)], "Q2_0_G128"),
    ],
)
def test_q2_0_groups_are_told_apart_by_their_room(
    groups: list[tuple[int, int]], dtype: str, tail: int, tmp_path: Path
) -> None:
    assert q2_0(tmp_path / "x.gguf", groups, tail=tail) == dtype


def test_q2_0_room_is_not_cut_by_an_empty_tensor(tmp_path: Path) -> None:
    tensors = [("e", [0], F32, 0), ("w", [4096], Q2_0, 32 * 34), ("n", [4], F32, 16)]
    path = write(tmp_path / "x.gguf", tensors, listed=[1, 0, 2])
    assert opened(path).stored["w"].dtype == "Q2_0_G128"


def test_q2_0_in_groups_of_128_resolves_to_its_own_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", [("w", [4096], Q2_0, 32 * 34), ("n", [4], F32, 16)])
    tensor = resolved(path).tensors["w"]
    assert (tensor.encoding, tensor.unit_elems) == ("gguf-q2-0-g128", 128)


def test_q2_0_of_both_groups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="overlaps 'w1'"):
        q2_0(tmp_path / "x.gguf", [(4096, 64), (4096, 128), (4096, 64)])


def nvfp4(path: Path, experts: int | None, *more: tuple[str, list[int], int, int]) -> Path:
    dims = [128, 4] + ([experts] if experts else [])
    return write(path, [("b.w.weight", dims, NVFP4, 8 * 36 * (experts or 1)), *more])


def test_nvfp4_takes_its_scale_and_leaves_that_of_activations(tmp_path: Path) -> None:
    path = nvfp4(
        tmp_path / "x.gguf",
        None,
        ("b.w.scale", [1], F32, 4),
        ("b.w.input_scale", [1], F32, 4),
        ("b.other.scale", [1], F32, 4),
    )
    ledger = resolved(path)
    tensor = ledger.tensors["b.w.weight"]
    assert [(c.role, c.stored.name, c.placement.windowed) for c in tensor.components] == [
        ("payload", "b.w.weight", True),
        ("scale", "b.w.scale", False),
    ]
    assert tensor.params == {"blocks_per_scale": 8}
    assert [d.stored.name for d in ledger.dropped] == ["b.w.input_scale"]
    assert ledger.tensors["b.other.scale"].scheme == "passthrough"


@pytest.mark.parametrize(("scales", "blocks"), [(3, 8), (1, 24)])
def test_nvfp4_experts_have_one_scale_or_one_each(scales: int, blocks: int, tmp_path: Path) -> None:
    path = nvfp4(tmp_path / "x.gguf", 3, ("b.w.scale", [scales], F32, 4 * scales))
    assert resolved(path).tensors["b.w.weight"].params == {"blocks_per_scale": blocks}


def test_nvfp4_without_a_scale(tmp_path: Path) -> None:
    tensor = resolved(nvfp4(tmp_path / "x.gguf", None)).tensors["b.w.weight"]
    assert len(tensor.components) == 1
    assert tensor.params == {}


@pytest.mark.parametrize(
    ("dims", "type_id", "nbytes"), [([2], F32, 8), ([1], 1, 2), ([4], F32, 16)]
)
def test_nvfp4_scale_of_the_wrong_form_is_refused(
    dims: list[int], type_id: int, nbytes: int, tmp_path: Path
) -> None:
    path = nvfp4(tmp_path / "x.gguf", 3, ("b.w.scale", dims, type_id, nbytes))
    with pytest.raises(FormatError, match=r"tensor 'b\.w\.scale'"):
        resolved(path)


@pytest.mark.parametrize(("type_id", "kind"), [(43, "float8_e4m3fn"), (44, "float8_e5m2")])
@pytest.mark.parametrize("scales", [(), (1,), (3,)])
def test_fp8_of_one_byte_an_element(
    type_id: int, kind: str, scales: tuple[int, ...], tmp_path: Path
) -> None:
    """Against ml_dtypes: without a scale, with one, and with one for each expert."""
    codes = np.resize(np.arange(256, dtype=np.uint8), (3, 6, 64))
    more = [("b.scale", list(scales), F32, 4 * scales[0])] if scales else []
    tensors = [("b.weight", [64, 6, 3], type_id, codes.size), *more]
    path = write(tmp_path / "x.gguf", [*tensors, ("b.input_scale", [1], F32, 4)])
    factors = np.array([0.1, 3e38, 1e-40][: scales[0] if scales else 0], np.float32)
    stored = opened(path).stored
    with path.open("r+b") as file:
        for name, array in (("b.weight", codes), ("b.scale", factors)):
            if array.size:
                file.seek(stored[name].offset)
                file.write(array.tobytes())
    model = anamnesis.open_model(path)
    assert list(model) == ["b.weight"]
    assert ("stable-diffusion.cpp" in str(model.model.notes)) == (type_id == 44)  # 43 is ggml's own
    with np.errstate(all="ignore"):
        wanted = codes.view(getattr(ml_dtypes, kind)).astype(np.float32)
        if scales:
            wanted = wanted * factors[:, None, None]
        wanted = wanted.astype(ml_dtypes.bfloat16)
    found = model["b.weight"].to_numpy().view(ml_dtypes.bfloat16)
    nan = np.isnan(wanted)
    assert np.array_equal(np.isnan(found), nan)
    assert np.array_equal(found.view(np.uint16)[~nan], wanted.view(np.uint16)[~nan])


def test_fp8_of_no_experts(tmp_path: Path) -> None:
    tensors = [("b.weight", [64, 6, 0], 43, 0), ("b.scale", [0], F32, 0), ("n", [4], F32, 16)]
    model = anamnesis.open_model(write(tmp_path / "x.gguf", tensors))
    assert model["b.weight"].to_numpy().shape == (0, 6, 64)


def test_fp8_in_blocks_with_a_scale_is_refused(tmp_path: Path) -> None:
    """As forks have it: 34 bytes for 32, or 132 for 128, in the middle of a file or at its end."""
    for nbytes in (34 * 8, 132 * 2):
        path = write(tmp_path / "last.gguf", [("n", [8], F32, 32), ("w", [128, 2], 43, nbytes)])
        with pytest.raises(UnsupportedError, match="in blocks with a scale"):
            opened(path)
        path = write(tmp_path / "first.gguf", [("w", [128, 2], 43, nbytes), ("n", [8], F32, 32)])
        with pytest.raises(FormatError, match="leaves a gap"):
            opened(path)


def test_names_of_activation_scales_mean_nothing_in_gguf(tmp_path: Path) -> None:
    q8_0 = 8
    tensors = [("a.weight", [32, 4], q8_0, 4 * 34), ("blk.0.attn.k_scale", [4], F32, 16)]
    ledger = resolved(write(tmp_path / "m.gguf", tensors))
    assert not ledger.dropped
    assert ledger.tensors["blk.0.attn.k_scale"].out_dtype == "F32"


def test_a_shape_that_comfyui_kept_in_the_metadata(tmp_path: Path) -> None:
    """The same elements in the same order, quantised or not; of other sizes it is an error."""
    import anamnesis

    rng = np.random.default_rng(7)
    values = rng.standard_normal((16, 256)).astype(np.float32)
    blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)

    def written(name: str, shape: list[int]) -> Path:
        writer = gguf.GGUFWriter(str(tmp_path / name), "flux")
        writer.add_tensor("a.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("b.weight", values)
        for tensor in ("a.weight", "b.weight"):
            writer.add_array(f"comfy.gguf.orig_shape.{tensor}", shape)
        finish(writer)
        return tmp_path / name

    model = anamnesis.open_model(written("right.gguf", [64, 16, 2, 2]))
    plain = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
    for tensor, wanted in (("a.weight", plain), ("b.weight", values)):
        found = model[tensor].to_numpy()
        assert found.shape == (64, 16, 2, 2)
        np.testing.assert_array_equal(
            found.reshape(16, 256).astype(np.float32), wanted.astype(found.dtype).astype("f4")
        )
    with pytest.raises(FormatError, match=r"orig_shape.a.weight: found \[64, 16, 2, 3\]"):
        anamnesis.open_model(written("wrong.gguf", [64, 16, 2, 3]))


@pytest.mark.parametrize("shape", [(512,), (6, 256), (2, 6, 256)])
def test_repacked_rows_come_in_whole_groups(shape: tuple[int, ...], tmp_path: Path) -> None:
    geometry = type_named("IQ4_K_R4")
    assert geometry is not None
    data = np.zeros(int(np.prod(shape)) // 256 * 144, np.uint8)
    layer = Layer([Entry("weight", "IQ4_K_R4", shape, data)], container="gguf")
    with pytest.raises(FormatError, match="whole groups of 4 rows"):
        anamnesis.open_model(write_model(tmp_path, layer))


def test_repacked_rows_are_what_the_plain_type_has(tmp_path: Path) -> None:
    """Each of a stack's matrices in groups of its own, and rows put apart in their order."""
    rng = np.random.default_rng(4)
    apart = rng.integers(0, 256, (2, 8, 2, 34), np.uint8)  # Q8_0: matrices, rows, blocks, bytes
    apart[..., :2] = np.float16(0.5).reshape(1).view(np.uint8)
    scales = apart[..., :2].transpose(0, 2, 1, 3).reshape(2, 2, 16)
    # 32 bytes of eight rows: four bytes of each in turn.
    codes = apart[..., 2:].reshape(2, 8, 2, 8, 4).transpose(0, 2, 3, 1, 4).reshape(2, 2, 256)
    together = np.concatenate([scales, codes], 2)
    values = []
    for kind, data in (("Q8_0", apart), ("Q8_0_R8", together)):
        folder = tmp_path / kind
        folder.mkdir()
        layer = Layer([Entry("weight", kind, (2, 8, 64), data)], container="gguf")
        model = anamnesis.open_model(write_model(folder, layer))
        (name,) = model
        values.append(model[name].to_numpy().view(np.uint16))
    assert np.array_equal(*values)


@pytest.mark.parametrize("part", ["scale", "theta", "weight_offset", "lut"])
def test_what_nobody_reads_beside_blocks_refuses_a_model(part: str, tmp_path: Path) -> None:
    weight = ("blk.0.ffn_up.weight", [32, 4], GGML_TYPE_Q8_0, 4 * 34)
    path = write(tmp_path / "x.gguf", [weight, (f"blk.0.ffn_up.{part}", [4], F32, 16)])
    with pytest.raises(UnsupportedError, match=rf"ffn_up\.{part}'.* beside 'blk.0.ffn_up.weight'"):
        resolved(path)


def test_what_belongs_beside_blocks_stays(tmp_path: Path) -> None:
    weight = ("blk.0.ffn_down_exps.weight", [32, 4], GGML_TYPE_Q8_0, 4 * 34)
    names = [f"ffn_down_exps.{part}" for part in ("bias", "scale", "input_max", "output_min")]
    more = [(f"blk.0.{name}", [4], F32, 16) for name in names]
    ledger = resolved(write(tmp_path / "x.gguf", [weight, *more]))
    assert {f"blk.0.{name}" for name in names} < set(ledger.tensors)
    more = [("blk.0.ffn_down_exps.input_scale", [1], F32, 4)]
    ledger = resolved(write(tmp_path / "y.gguf", [weight, *more]))
    assert [one.stored.name for one in ledger.dropped] == ["blk.0.ffn_down_exps.input_scale"]


def test_integers_beside_a_scale_are_codes(tmp_path: Path) -> None:
    weight, scale = ("m.weight", [32, 4], GGML_TYPE_I8, 128), ("m.scale", [4], F32, 16)
    with pytest.raises(UnsupportedError, match=r"'m.weight' \(I8 .*beside 'm.scale'"):
        resolved(write(tmp_path / "x.gguf", [weight, scale]))
    assert resolved(write(tmp_path / "y.gguf", [weight])).tensors["m.weight"].out_dtype == "I8"


@pytest.mark.parametrize("architecture", ["gemma4", "llama4"])
def test_gemma_s_scale_of_experts_is_its_router_s(architecture: str, tmp_path: Path) -> None:
    name = "blk.0.ffn_down_exps"
    tensors = [(f"{name}.weight", [128, 4, 3], NVFP4, 24 * 36), (f"{name}.scale", [3], F32, 12)]
    container = opened(write(tmp_path / "x.gguf", tensors))
    ledger = Ledger(replace(container, metadata={"general.architecture": architecture}))
    resolve(ledger)
    kept = architecture == "gemma4"
    assert (f"{name}.scale" in ledger.tensors) == kept
    assert len(ledger.tensors[f"{name}.weight"].components) == (1 if kept else 2)
