"""Rows G01 to G32 of the table of malformed input: what a bad GGUF file must lead to."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clock import MARGIN

from anamnesis.errors import AnamnesisError, FormatError, LimitError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.gguf import open_gguf

MIB = 1 << 20
U32, I32, STRING, ARRAY, U64, F64 = 4, 5, 8, 9, 10, 12
F32_TYPE, Q4_0, I8 = 0, 2, 24
Case = tuple[bytes, type[AnamnesisError], str]


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def cases(build: Any) -> dict[str, Case]:
    gguf, kv, array, string = build.gguf, build.key_value, build.array, build.string

    def tensor(*args: Any, data: bytes = b"\0" * 32, **more: Any) -> bytes:
        return bytes(gguf([], [build.tensor("w", *args, **more)], data))

    def key_value(*args: Any, **more: Any) -> bytes:
        return bytes(gguf([kv(*args)], **more))

    def aligned(type_id: int, value: bytes) -> bytes:
        return key_value("general.alignment", type_id, value)

    whole = gguf([kv("k", U32, u32(1))], [build.tensor("w", [8])], b"\0" * 32)
    deep = array(ARRAY, 1) * 99_999 + array(U32, 1, u32(1))
    return {
        **{
            f"G01-{size}-bytes": (
                whole[:size],
                FormatError,
                {0: "empty", 3: "magic"}.get(size, "version" if size < 8 else "counts"),
            )
            for size in (0, 3, 4, 8, 16, 23)
        },
        "G02-magic-FUGG": (b"FUGG" + whole[4:], FormatError, "magic"),
        "G02-version-0": (gguf(version=0), FormatError, "version"),
        "G02-version-1": (gguf(version=1), UnsupportedError, "GGUF v1"),
        "G02-version-4": (gguf(version=4), FormatError, "version"),
        "G03-big-endian": (
            gguf([], [], version=3, n_key_values=1, order=">"),
            FormatError,
            "key/value count",
        ),
        "G03-big-endian-v1": (gguf(version=1, order=">"), UnsupportedError, "GGUF v1"),
        **{
            f"G04-{what}-{count}": (gguf(**{what: count})[:24], FormatError, field)
            for what, field in (
                ("n_tensors", "tensor count"),
                ("n_key_values", "key/value count"),
            )
            for count in (2**64 - 1, 2**63, 2**32)
        },
        **{
            f"G05-key-length-{length}": (
                gguf([u64(length) + b"abcdefgh"])[:40],
                FormatError,
                "key 0",
            )
            for length in (2**64 - 1, 2**63, 1 << 30)
        },
        "G05-key-one-past-the-end": (
            gguf([string("abcdefgh", 40) + bytes(8)])[:40],
            FormatError,
            "key 0",
        ),
        "G06-key-empty": (key_value("", U32, u32(1)), FormatError, "key 0"),
        "G07-key-with-nul": (key_value("a\0b", U32, u32(1)), FormatError, "key 0"),
        "G07-key-not-utf8": (key_value(b"a\xff", U32, u32(1)), FormatError, "key 0"),
        "G07-key-of-70000-bytes": (key_value("k" * 70_000, U32, u32(1)), FormatError, "key 0"),
        "G08-key-twice": (
            gguf([kv("k", U32, u32(1)), kv("k", U32, u32(1))]),
            FormatError,
            "key 'k': is given twice",
        ),
        "G09-value-type-13": (key_value("k", 13, bytes(8)), FormatError, "value of 'k'"),
        "G09-value-type-minus-1": (key_value("k", -1, bytes(8)), FormatError, "value of 'k'"),
        "G09-array-of-type-13": (
            key_value("k", ARRAY, array(13, 1, bytes(8))),
            FormatError,
            "value of 'k'",
        ),
        "G09-bool-2": (key_value("k", 7, b"\2"), FormatError, "value of 'k'"),
        "G10-string-2-64-1": (
            key_value("k", STRING, u64(2**64 - 1)),
            FormatError,
            "value of 'k'",
        ),
        "G10-string-one-past-the-end": (
            gguf([kv("k", STRING, string("abcd", 5))], alignment=1),
            FormatError,
            "value of 'k'",
        ),
        "G10-string-in-array-past-the-end": (
            key_value("k", ARRAY, array(STRING, 2, string("a") + string("b", 2**64 - 1))),
            FormatError,
            "value of 'k'",
        ),
        "G10-string-in-long-array-past-the-end": (
            key_value("k", ARRAY, array(STRING, 100, string("a") * 99 + string("b", 2**64 - 1))),
            FormatError,
            "value of 'k'",
        ),
        "G10-string-of-17-MiB": (
            key_value("k", STRING, string(b"a" * (17 * MIB))),
            LimitError,
            "value of 'k'",
        ),
        "G11-array-2-63": (key_value("k", ARRAY, array(U32, 2**63)), FormatError, "value of 'k'"),
        "G11-array-of-strings-2-63": (
            key_value("k", ARRAY, array(STRING, 2**63)),
            FormatError,
            "value of 'k'",
        ),
        "G12-array-of-5M-f64-in-5-MB": (
            key_value("k", ARRAY, array(F64, 5_000_000, bytes(5_000_000))),
            FormatError,
            "value of 'k'",
        ),
        "G12-array-over-the-cap": (
            key_value("k", ARRAY, array(0, 16 * MIB + 1, bytes(16 * MIB + 1))),
            LimitError,
            "value of 'k'",
        ),
        "G13-array-of-arrays-5-deep": (
            key_value("k", ARRAY, array(ARRAY, 1) * 5 + array(U32, 1, u32(1))),
            FormatError,
            "value of 'k': arrays are nested more than 4 deep",
        ),
        "G13-70,000-arrays": (
            key_value("k", ARRAY, array(ARRAY, 70_000, array(U32, 0) * 70_000)),
            LimitError,
            "arrays in arrays: needs 70,000",
        ),
        "G13-array-of-arrays-100000-deep": (key_value("k", ARRAY, deep), FormatError, "'k'"),
        "G13-array-of-arrays-2-62-wide": (
            key_value("k", ARRAY, array(ARRAY, 2**62)),
            FormatError,
            "value of 'k'",
        ),
        **{
            f"G14-alignment-{value}": (
                aligned(U32, u32(value)),
                FormatError,
                "general.alignment",
            )
            for value in (0, 3, 13)
        },
        **{
            f"G15-alignment-{value}": (
                aligned(U32, u32(value)),
                LimitError,
                "general.alignment",
            )
            for value in (1 << 30, 1 << 31, 2 * MIB)
        },
        "G16-alignment-i32": (aligned(I32, u32(32)), FormatError, "general.alignment"),
        "G16-alignment-u64": (aligned(U64, u64(32)), FormatError, "general.alignment"),
        "G16-alignment-string": (aligned(STRING, string("32")), FormatError, "general.alignment"),
        "G16-alignment-array": (
            aligned(ARRAY, array(U32, 1, u32(32))),
            FormatError,
            "general.alignment",
        ),
        "G17-name-empty": (
            gguf([], [build.tensor("", [8])], bytes(32)),
            FormatError,
            "name of tensor 0",
        ),
        "G17-name-with-nul": (
            gguf([], [build.tensor("a\0b", [8])], bytes(32)),
            FormatError,
            "name of tensor 0",
        ),
        "G18-name-twice": (
            gguf([], [build.tensor("w", [8]), build.tensor("w", [8], offset=32)], bytes(64)),
            FormatError,
            "tensor 'w': is listed twice",
        ),
        "G18-name-twice-same-place": (
            gguf([], [build.tensor("w", [8]), build.tensor("w", [8])], bytes(64)),
            FormatError,
            "tensor 'w'",
        ),
        **{
            f"G19-{n}-dimensions": (
                tensor([8] * min(n, 6), n_dims=n),
                FormatError,
                "'w': dimension count",
            )
            for n in (6, 1_000_000, 2**32 - 1)
        },
        "G20-dimension-minus-1": (tensor([-1]), FormatError, "tensor 'w'"),
        "G20-product-wraps-to-4": (tensor([2**62 + 1, 4], I8), FormatError, "tensor 'w'"),
        "G20-product-wraps-to-0": (tensor([2**32, 2**32], I8), FormatError, "tensor 'w'"),
        "G20-bytes-over-2-64": (tensor([2**62, 1]), FormatError, "tensor 'w'"),
        "G20-zero-beside-absurd": (tensor([0, 2**62, 2]), FormatError, "tensor 'w'"),
        "G21-padding-wraps": (tensor([2**62 - 1]), FormatError, "tensor 'w'"),
        "G22-sum-of-sizes-wraps": (
            gguf(
                [],
                [
                    build.tensor("a", [2**63 - 64], I8),
                    build.tensor("b", [2**63 - 64], I8, 2**63 - 64),
                ],
                bytes(64),
            ),
            FormatError,
            "tensor 'a'",
        ),
        "G23-type-9999": (tensor([8], 9999), FormatError, "'w': type 9,999"),
        "G23-type-minus-1": (tensor([8], -1), FormatError, "'w': type"),
        "G23-type-45": (tensor([8], 45), FormatError, "'w': type 45"),
        "G23-type-255": (tensor([8], 255), UnsupportedError, "'w': type 255 (FP8 E4M3 of a fork"),
        "G23-type-4-removed": (tensor([32], 4), UnsupportedError, "'w': type 4 (Q4_2"),
        "G23-type-36-part-of-a-block": (tensor([32], 36), FormatError, "'w': its elements are 32"),
        "G23-type-37-removed": (tensor([32], 37), UnsupportedError, "'w': type 37 (IQ4_NL_4_8"),
        "G23-type-9-never-stored": (tensor([32], 9), UnsupportedError, "'w': type 9 (Q8_1"),
        "G23-type-151-private": (tensor([256], 151), UnsupportedError, "'w': type 151 (Q8_KV"),
        "G23-type-139-short": (tensor([256], 139), FormatError, "past the end of the file"),
        "G23-type-142-private": (tensor([256], 142), UnsupportedError, "'w': type 142 (PQ2_0"),
        "G23-type-230-private": (
            tensor([256], 230),
            UnsupportedError,
            "230 (BF16_R16, sixteen rows repacked together",
        ),
        "G24-row-of-31": (tensor([31], Q4_0), FormatError, "'w': dimension 0 is 31"),
        "G24-row-of-33-by-32": (
            tensor([33, 32], Q4_0, data=bytes(594)),
            FormatError,
            "'w': dimension 0 is 33",
        ),
        "G24-scalar-in-blocks": (tensor([], Q4_0), FormatError, "'w': dimension 0 is 1"),
        "G25-offset-2-64-1": (tensor([8], 0, 2**64 - 1), FormatError, "'w': offset"),
        "G25-offset-2-64-32": (tensor([8], 0, 2**64 - 32), FormatError, "tensor 'w'"),
        "G26-offset-past-the-end": (tensor([8], 0, 32), FormatError, "tensor 'w'"),
        "G26-offset-unaligned": (
            tensor([8], 0, 8, data=bytes(64)),
            FormatError,
            "'w': offset 8",
        ),
        "G26-empty-tensor-past-the-end": (tensor([0], 0, 1 << 40), FormatError, "tensor 'w'"),
        "G27-shared-bytes": (
            gguf([], [build.tensor("a", [8]), build.tensor("b", [8])], bytes(64)),
            FormatError,
            "overlaps",
        ),
        "G27-shared-tail": (
            gguf([], [build.tensor("a", [16]), build.tensor("b", [8], 0, 32)], bytes(64)),
            FormatError,
            "'b': offset 32 overlaps 'a'",
        ),
        "G27-gap": (
            gguf([], [build.tensor("a", [8]), build.tensor("b", [8], 0, 64)], bytes(96)),
            FormatError,
            "'b': offset 64 leaves a gap",
        ),
        "G29-claims-4-MiB-of-1-KiB": (
            tensor([MIB], data=bytes(1024)),
            FormatError,
            "tensor 'w'",
        ),
        "G30-one-byte-short": (whole[:-1], FormatError, "tensor 'w'"),
        "G30-no-data": (whole[:-32], FormatError, "tensor 'w'"),
        "G30-header-cut": (whole[:60], FormatError, "tensor"),
    }


class _Names:
    """Stands for the builder while the rows are only named."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: b""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", list(cases(_Names())))


@pytest.fixture(scope="module")
def table(build: Any) -> dict[str, Case]:
    return cases(build)


def test_refused(case: str, table: dict[str, Case], refused: Callable[..., str]) -> None:
    content, error, field = table[case]
    refused(content, ".gguf", error, field)


@pytest.mark.parametrize("row", ["G11", "G12"])
def test_g11_g12_counts_are_refused_at_once(
    row: str, build: Any, tmp_path: Path, opened_apart: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "array.gguf"
    items = (2**63, b"") if row == "G11" else (5_000_000, bytes(5_000_000))
    value = build.array(F64, *items)
    path.write_bytes(build.gguf([build.key_value("k", ARRAY, value)], alignment=1))
    result = opened_apart(path, 64 * MIB)
    assert result["kind"] == "FormatError"
    assert result["seconds"] < MARGIN * 0.005
    assert result["rss_bytes"] < 4 * MIB


def test_g28_many_tensors_over_one_block(
    build: Any, tmp_path: Path, opened_apart: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "bomb.gguf"
    tensors = [build.tensor(f"t{i}", [MIB]) for i in range(20_000)]
    path.write_bytes(build.gguf([], tensors, bytes(4 * MIB)))
    result = opened_apart(path)
    assert result["kind"] == "FormatError"
    assert "overlaps" in result["message"]
    assert result["seconds"] < MARGIN * 0.3
    assert result["rss_bytes"] < 256 * MIB


def test_g31_200000_keys(
    build: Any, tmp_path: Path, opened_apart: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "keys.gguf"
    path.write_bytes(build.gguf([build.key_value(f"k{i}", U32, u32(i)) for i in range(200_000)]))
    result = opened_apart(path)
    assert result["kind"] == ""
    assert result["seconds"] < MARGIN * 0.6
    assert result["rss_bytes"] < 256 * MIB


def test_g31_more_keys_than_the_fixed_limit(build: Any, refused: Callable[..., str]) -> None:
    refused(
        build.gguf(n_key_values=(1 << 20) + 1) + bytes(14 << 20) + bytes(64),
        ".gguf",
        LimitError,
        "key/value count",
    )


def test_g31_strings_kept_are_bounded(
    build: Any, tmp_path: Path, opened_apart: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "strings.gguf"
    text = build.string(bytes(15 * MIB))
    path.write_bytes(build.gguf([build.key_value(f"k{i}", STRING, text) for i in range(8)]))
    result = opened_apart(path)
    assert result["kind"] == "LimitError"
    assert result["rss_bytes"] < 256 * MIB


@pytest.mark.parametrize("dims", [[0], [0, 5], [5, 0], [0, 32]])
@pytest.mark.parametrize("type_id", [F32_TYPE, Q4_0])
def test_g32_dimension_0_is_an_empty_tensor(
    dims: list[int], type_id: int, build: Any, tmp_path: Path
) -> None:
    if type_id == Q4_0 and dims[0] % 32:
        dims = [32, 0]
    path = tmp_path / "empty.gguf"
    others = [build.tensor("full", [8]), build.tensor("last", [8], 0, 32)]
    for place in range(3):  # before, between (at the next one's offset), at the end
        tensors = list(others)
        tensors.insert(place, build.tensor("w", dims, type_id, 32 * place))
        path.write_bytes(build.gguf([], tensors, bytes(64)))
        stored = open_gguf(str(path), Limits()).stored
        assert stored["w"].shape == tuple(dims[::-1])
        assert stored["w"].nbytes == 0
        assert stored["last"].nbytes == 32
