"""from __future__ import annotations"""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from clock import within
from gguf_files import F32, finish, opened, resolved, write

from anamnesis.readers.base import Container

CORPUS = Path(__file__).parents[3] / "shared" / "corpus" / "gguf"
FILES = sorted(CORPUS.rglob("*.gguf")) if CORPUS.exists() else []


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
    finish(writer)
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
    finish(writer)
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
    finish(writer)
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


def test_only_the_header_is_read(tmp_path: Path, reads: list[int]) -> None:
    blocks = 11 * 10**9 // 144
    path = write(tmp_path / "sparse.gguf", [("w", [256, blocks], 12, 144 * blocks)])
    reads.clear()
    assert opened(path).stored["w"].nbytes == 144 * blocks
    assert 0 < sum(reads) < 1 << 20


def test_long_arrays_of_numbers_are_not_read(tmp_path: Path, reads: list[int]) -> None:
    path = tmp_path / "x.gguf"
    count = 2_000_000
    key = struct.pack("<Q1sIIQ", 1, b"k", 9, 10, count)
    with path.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + key)
        file.truncate(24 + len(key) + 8 * count)
    reads.clear()
    assert opened(path).metadata == {"k": {"type": "uint64", "count": count}}
    assert sum(reads) < 1 << 20


def test_a_thousand_tensors_and_a_vocabulary_open_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", [(f"blk.{i}.w", [8], F32, 32) for i in range(1000)])
    opened(path)
    with within(0.01):
        opened(path)
    words = b"".join(struct.pack("<Q6s", 6, b"token ") for _ in range(200_000))
    key = struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 200_000)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + key + words)
    with within(0.1):
        opened(path)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.parent.name)
def test_corpus_reads_as_in_the_reference(path: Path) -> None:
    same_as_reference(path)
    for tensor in resolved(path).tensors.values():
        dtype = tensor.components[0].stored.dtype
        plain = dtype in ("F32", "F16", "BF16")
        expected = "passthrough" if plain else "gguf-" + dtype.lower().replace("_", "-")
        assert tensor.scheme == expected
