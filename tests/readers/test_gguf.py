from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.kernels import ENCODINGS
from anamnesis.limits import Limits
from anamnesis.readers.base import Container
from anamnesis.readers.gguf import open_gguf
from anamnesis.readers.gguf_types import FP8, GGML_TYPES
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

CORPUS = Path(__file__).parents[3] / "shared" / "corpus" / "gguf"
FILES = sorted(CORPUS.rglob("*.gguf")) if CORPUS.exists() else []
QUANTISED = sorted(name for name, row in ENCODINGS.items() if row.ggml_type >= 0)
F32, Q2_0, NVFP4 = 0, 42, 40


def write(
    path: Path,
    tensors: Iterable[tuple[str, list[int], int, int]],
    *,
    alignment: int | None = None,
    tail: int = 0,
    listed: Iterable[int] | None = None,
) -> Path:
    """A file of `(name, dims fastest first, type id, nbytes)`, each padded as llama.cpp does.

    They lie in that order; `listed` gives another one for the header.
    """
    align = alignment or 32
    infos: list[bytes] = []
    offset = end = 0
    for name, dims, type_id, nbytes in tensors:
        info = struct.pack("<Q", len(name)) + name.encode()
        info += struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)
        infos.append(info)
        end = offset + nbytes
        offset += -(-nbytes // align) * align
    key = b"general.alignment"
    extra = struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, align) if alignment else b""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), bool(alignment)) + extra
    head += b"".join(infos if listed is None else (infos[i] for i in listed))
    head += bytes(-len(head) % align)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + end + tail)
    return path


def opened(path: Path) -> Container:
    return open_gguf(str(path), Limits())


def resolved(path: Path) -> Ledger:
    ledger = Ledger(opened(path))
    resolve(ledger)
    return ledger


def same_as_reference(path: Path) -> Container:
    """Spans, shapes and types against gguf-py's own reader."""
    container = opened(path)
    reference = gguf.GGUFReader(path)
    assert [t.name for t in reference.tensors] == list(container.stored)
    for tensor in reference.tensors:
        stored = container.stored[tensor.name]
        assert stored.offset == tensor.data_offset
        assert stored.nbytes == tensor.n_bytes
        assert stored.dtype == tensor.tensor_type.name
        assert stored.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert all(type(n) is int for n in (*stored.shape, stored.offset, stored.nbytes))
    return container


def test_what_gguf_py_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_name("ключ 😀")
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_int8("i8", -3)
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("words", ["a", "", "ж"])
    writer.add_token_list([f"token {i}" for i in range(5_000)])
    writer.add_token_scores([0.5] * 5_000)
    rng = np.random.default_rng(0)
    writer.add_tensor("f32", rng.standard_normal((3, 5), np.float32))
    writer.add_tensor("f16", rng.standard_normal((2, 3, 4)).astype(np.float16))
    writer.add_tensor("i8", rng.integers(-9, 9, (5,), np.int8))
    blocks = gguf.quantize(rng.standard_normal((4, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8_0", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    container = same_as_reference(path)
    assert container.kind == "gguf"
    assert container.stored["f16"].shape == (2, 3, 4)
    assert container.stored["q8_0"].shape == (4, 64)
    span = container.stored["q8_0"]
    assert path.read_bytes()[span.offset : span.offset + span.nbytes] == blocks.tobytes()
    assert container.metadata == {
        "general.architecture": "llama",
        "general.alignment": 64,
        "general.name": "ключ 😀",
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "i8": -3,
        "numbers": [1, 2, 3],
        "words": ["a", "", "ж"],
        "tokenizer.ggml.tokens": {"type": "string", "count": 5_000},
        "tokenizer.ggml.scores": {"type": "float32", "count": 5_000},
    }


def test_big_endian_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("w", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match="big-endian GGUF v3"):
        opened(path)


def test_a_string_that_is_no_utf8_is_kept_readable(tmp_path: Path) -> None:
    entry = struct.pack("<Q1sIQ3s", 1, b"k", 8, 3, b"a\xffb")
    path = tmp_path / "x.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 2, 0, 1) + entry)
    assert opened(path).metadata == {"k": "a\\xffb"}


def test_long_strings_cross_chunks_of_the_header(tmp_path: Path) -> None:
    """String arrays are walked in chunks: lengths may straddle, strings may exceed a chunk."""
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    lengths = np.random.default_rng(1).integers(0, 300, 20_000).tolist()
    lengths[7] = 200_000
    lengths[9_000] = 3_000_000
    writer.add_array("words", ["x" * n for n in lengths])
    writer.add_array("numbers", list(range(100_000)))
    writer.add_array("after", ["last"])
    writer.add_tensor("w", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = same_as_reference(path).metadata
    assert metadata["words"] == {"type": "string", "count": 20_000}
    assert metadata["numbers"] == {"type": "int32", "count": 100_000}
    assert metadata["after"] == ["last"]


@pytest.mark.parametrize("alignment", [1, 8, 4096])
def test_alignment_moves_the_data(alignment: int, tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.gguf", [("a", [3], F32, 12), ("b", [5], F32, 20)], alignment=alignment
    )
    stored = opened(path).stored
    assert stored["a"].offset % alignment == 0
    assert stored["b"].offset == stored["a"].offset + -(-12 // alignment) * alignment


def test_tensors_may_be_listed_in_another_order_than_they_lie(tmp_path: Path) -> None:
    tensors = [("b", [8], F32, 32), ("a", [8], F32, 32)]
    path = write(tmp_path / "x.gguf", tensors, listed=[1, 0])
    stored = opened(path).stored
    assert list(stored) == ["b", "a"]
    assert stored["a"].offset == stored["b"].offset + 32


def test_scalars_and_padding_behind_the_last_tensor(tmp_path: Path) -> None:
    for tail in (0, 28, 1000):
        path = write(tmp_path / "x.gguf", [("s", [], F32, 4)], tail=tail)
        container = opened(path)
        assert container.stored["s"].shape == ()
        said = [f"{path}: 972 bytes behind the last tensor belong to none; not read"]
        assert list(container.notes) == (said if tail == 1000 else [])


def test_five_dimensions(tmp_path: Path) -> None:
    """Conv3d weights of video models, which gguf-py reads and writes."""
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "wan")
    writer.add_tensor("w", np.arange(96, dtype=np.float16).reshape(8, 3, 1, 2, 2))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    container = same_as_reference(tmp_path / "x.gguf")
    assert container.stored["w"].shape == (8, 3, 1, 2, 2)


def test_arrays_in_arrays(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "any")
    nested = [[1, 2], [3], []]
    inner = b"".join(
        struct.pack("<IQ", 4, len(row)) + struct.pack(f"<{len(row)}I", *row) for row in nested
    )
    writer.write_header_to_file()
    writer.close()
    key = struct.pack("<Q", 1) + b"k"
    value = struct.pack("<IIQ", 9, 9, len(nested)) + inner
    text = struct.pack("<Q", 1) + b"t" + struct.pack("<IQ", 8, 1) + b"x"
    content = struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + key + value + text
    (tmp_path / "x.gguf").write_bytes(content)
    assert opened(tmp_path / "x.gguf").metadata == {"k": nested, "t": "x"}


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
        if type_id not in (Q2_0, *FP8) and type_id < 133:  # not in gguf-py 0.19
            kind = gguf.GGMLQuantizationType(type_id)
            assert (kind.name, *gguf.GGML_QUANT_SIZES[kind], 0) == row


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
    assert "stable-diffusion.cpp" in str(model.model.notes)
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


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    read: list[int] = []
    preadv = os.preadv

    def counting(fd: int, views: list[memoryview], offset: int) -> int:
        got = preadv(fd, views, offset)
        read.append(got)
        return got

    monkeypatch.setattr(os, "preadv", counting)
    return read


def test_only_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = 11 * 10**9 // 144
    path = write(tmp_path / "sparse.gguf", [("w", [256, blocks], 12, 144 * blocks)])
    read = count_reads(monkeypatch)
    assert opened(path).stored["w"].nbytes == 144 * blocks
    assert 0 < sum(read) < 1 << 20


def test_long_arrays_of_numbers_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.gguf"
    count = 2_000_000
    key = struct.pack("<Q1sIIQ", 1, b"k", 9, 10, count)
    with path.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + key)
        file.truncate(24 + len(key) + 8 * count)
    read = count_reads(monkeypatch)
    assert opened(path).metadata == {"k": {"type": "uint64", "count": count}}
    assert sum(read) < 1 << 20


def test_a_thousand_tensors_and_a_vocabulary_open_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", [(f"blk.{i}.w", [8], F32, 32) for i in range(1000)])
    assert _best(path) < 0.05
    words = b"".join(struct.pack("<Q6s", 6, b"token ") for _ in range(200_000))
    key = struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 200_000)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + key + words)
    assert _best(path) < 0.3


def _best(path: Path) -> float:
    best = 10.0
    for _ in range(5):
        start = time.process_time()
        opened(path)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.parent.name)
def test_corpus_reads_as_in_the_reference(path: Path) -> None:
    same_as_reference(path)
    for tensor in resolved(path).tensors.values():
        dtype = tensor.components[0].stored.dtype
        plain = dtype in ("F32", "F16", "BF16")
        expected = "passthrough" if plain else "gguf-" + dtype.lower().replace("_", "-")
        assert tensor.scheme == expected


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
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
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
