"""Rows S01 to S31 of the table of malformed input: what a bad safetensors file must lead to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clock import MARGIN

from anamnesis.errors import AnamnesisError, FormatError, LimitError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.safetensors import open_safetensors

MIB = 1 << 20
Case = tuple[bytes, type[AnamnesisError], str]


def entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def raw(dtype: str = '"U8"', shape: str = "[4]", offsets: str = "[0,4]") -> bytes:
    """A header of one tensor whose fields are JSON as given, also where json would not write it."""
    return f'{{"w":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}'.encode()


def two(first: tuple[int, int], second: tuple[int, int]) -> dict[str, Any]:
    return {
        "a": entry(shape=[first[1] - first[0]], offsets=list(first)),
        "b": entry(shape=[second[1] - second[0]], offsets=list(second)),
    }


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4976698672\n"
)


def cases(build: Any) -> dict[str, Case]:
    st = build.safetensors
    ok = json.dumps({"w": entry()}).encode()
    data = b"\0" * 4
    wide = {"dtype": "U8", "shape": [1] * 100_000, "data_offsets": [0, 1]}
    return {
        "S01-empty-file": (b"", FormatError, "empty"),
        "S01-seven-bytes": (b"\x01" * 7, FormatError, "header length"),
        "S01-length-zero": (st(b"", length=0), FormatError, "header length"),
        "S02-length-past-end": (st(ok, length=len(ok) + 1), FormatError, "header length"),
        "S02-length-past-end-by-far": (st(ok, length=99_999_999), FormatError, "header length"),
        "S03-length-over-cap": (st(b"{", length=100_000_001), LimitError, "header length"),
        "S03-length-2-63": (st(b"{", length=2**63), LimitError, "header length"),
        "S03-length-2-64-1": (st(b"{", length=2**64 - 1), LimitError, "header length"),
        "S03-length-2-64-8": (st(b"{", length=2**64 - 8), LimitError, "header length"),
        "S04-lfs-pointer": (LFS, FormatError, "Git-LFS"),
        "S04-html-page": (b"<!DOCTYPE html><html>404</html>", FormatError, "HTML"),
        "S04-html-page-after-space": (b"\n  <html><body>", FormatError, "HTML"),
        "S05-not-utf8": (st(ok.replace(b'"w"', b'"\xff"'), data), FormatError, "UTF-8"),
        "S05-overlong": (st(ok.replace(b'"w"', b'"\xc0\x80"'), data), FormatError, "UTF-8"),
        "S05-utf16": (st(ok.decode().encode("utf-16"), data), FormatError, "UTF-8"),
        "S05-utf16-without-mark": (
            st(ok.decode().encode("utf-16-le"), data),
            FormatError,
            "UTF-8",
        ),
        "S05-byte-order-mark": (st(b"\xef\xbb\xbf" + ok, data), FormatError, "byte order mark"),
        "S06-root-list": (st(b"[]"), FormatError, "header"),
        "S06-root-string": (st(b'"header"'), FormatError, "header"),
        "S06-root-null": (st(b"null"), FormatError, "header"),
        "S06-trailing-text": (st(ok + b"x", data), FormatError, "header"),
        "S06-trailing-nul": (st(ok + b"\0", data), FormatError, "header"),
        "S06-second-object": (st(ok + b"{}", data), FormatError, "header"),
        "S07-name-twice": (
            st([("w", entry()), ("w", entry(shape=[2, 2]))], data, pairs=True),
            FormatError,
            "'w' is given twice",
        ),
        "S08-name-twice-identical": (
            st([("w", entry()), ("w", entry())], data, pairs=True),
            FormatError,
            "'w' is given twice",
        ),
        "S08-name-twice-by-escape": (
            st(ok[:-1] + b',"\\u0077":' + json.dumps(entry()).encode() + b"}", data),
            FormatError,
            "'w' is given twice",
        ),
        "S09-dtype-twice": (
            st(b'{"w":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', data),
            FormatError,
            "'dtype' is given twice",
        ),
        "S09-metadata-twice": (
            st(b'{"__metadata__":{},"__metadata__":{},' + ok[1:], data),
            FormatError,
            "'__metadata__' is given twice",
        ),
        **{
            f"S10-no-{field}": (
                st({"w": {k: v for k, v in entry().items() if k != field}}, data),
                FormatError,
                f"'w': {field}: missing",
            )
            for field in ("dtype", "shape", "data_offsets")
        },
        "S10-no-object": (st({"w": [1]}, data), FormatError, "'w'"),
        "S10-unknown-field": (st({"w": entry() | {"strides": [1]}}, data), FormatError, "strides"),
        "S11-dtype-unknown": (st({"w": entry("U9")}, data), FormatError, "dtype"),
        "S11-dtype-lower-case": (st({"w": entry("u8")}, data), FormatError, "dtype"),
        "S11-dtype-integer": (st({"w": entry(8)}, data), FormatError, "dtype"),
        "S11-dtype-null": (st({"w": entry(None)}, data), FormatError, "dtype"),
        "S11-dtype-list": (st({"w": entry(["U8"])}, data), FormatError, "dtype"),
        "S11-dtype-known-elsewhere": (st({"w": entry("I4")}, data), UnsupportedError, "dtype"),
        **{
            f"S12-dimension-{text}": (st(raw(shape=f"[{text}]"), data), FormatError, "'w': shape")
            for text in ("-4", "4.0", "4e0", '"4"', "true", "null", "[4]", "{}")
        },
        "S12-shape-no-list": (st(raw(shape="4"), data), FormatError, "'w': shape"),
        "S13-dimension-of-5000-digits": (
            st(raw(shape=f"[{'1' * 5000}]"), data),
            FormatError,
            "header",
        ),
        "S13-offset-of-5000-digits": (
            st(raw(offsets=f"[0,{'1' * 5000}]"), data),
            FormatError,
            "header",
        ),
        "S13-dimension-of-40-digits": (st(raw(shape=f"[{'1' * 40}]"), data), FormatError, "shape"),
        "S14-product-2-64": (st({"w": entry(shape=[2**32, 2**32])}, data), FormatError, "shape"),
        "S14-product-wraps-to-4": (
            st({"w": entry(shape=[2**62 + 1, 4])}, data),
            FormatError,
            "shape",
        ),
        "S14-bytes-wrap": (
            st({"w": entry("F64", [2**61 + 1], [0, 8])}, b"\0" * 8),
            FormatError,
            "data_offsets",
        ),
        "S15-zero-elements-absurd-dimensions": (
            st({"w": entry(shape=[0, 2**63, 2**63], offsets=[0, 0])}),
            FormatError,
            "shape",
        ),
        "S16-rank-100000": (st({"w": wide}, b"\0"), LimitError, "'w': shape: rank"),
        "S17-span-too-long": (st({"w": entry(shape=[3])}, data), FormatError, "data_offsets"),
        "S17-span-too-short": (st({"w": entry("F32", [4])}, data), FormatError, "data_offsets"),
        **{
            f"S18-offsets-{text}": (
                st(raw(offsets=text), data),
                FormatError,
                "'w': data_offsets",
            )
            for text in (
                "[4,0]",
                "[-4,0]",
                "[-1,3]",
                "[4]",
                "[0,2,4]",
                "[]",
                "[0.0,4.0]",
                "[18446744073709551615,4]",
                "[0,18446744073709551615]",
                "[18446744073709551612,18446744073709551616]",
                '["0","4"]',
                "[false,4]",
                "null",
            )
        },
        "S19-end-past-file": (st(two((0, 4), (4, 12)), b"\0" * 8), FormatError, "'b'"),
        "S20-hole-before": (
            st({"w": entry(offsets=[4, 8])}, b"\0" * 8),
            FormatError,
            "'w': data_offsets: begin 4 leaves a hole",
        ),
        "S20-hole-between": (
            st(two((0, 4), (5, 9)), b"\0" * 9),
            FormatError,
            "'b': data_offsets: begin 5 leaves a hole",
        ),
        "S21-overlap-whole": (
            st(two((0, 4), (0, 4)), data),
            FormatError,
            "overlaps",
        ),
        "S21-overlap-partly": (
            st(two((0, 4), (3, 7)), b"\0" * 7),
            FormatError,
            "'b': data_offsets: begin 3 overlaps 'a'",
        ),
        "S21-empty-inside-another": (
            st(two((0, 4), (2, 2)), data),
            FormatError,
            "'b': data_offsets: begin 2 overlaps 'a'",
        ),
        "S22-bytes-after-the-last": (st(ok, data + b"\0"), FormatError, "after the last tensor"),
        "S22-zip-after-the-last": (
            st(ok, data + b"PK\x05\x06" + b"\0" * 18),
            FormatError,
            "after the last tensor",
        ),
        "S22-bytes-without-tensors": (st(b"{}", b"\0"), FormatError, "after the last tensor"),
        "S23-one-byte-short": (st(ok, data[:-1]), FormatError, "'w': data_offsets"),
        "S23-no-data": (st(ok), FormatError, "'w': data_offsets"),
        "S24-f4-odd": (st({"w": entry("F4", [3], [0, 1])}, b"\0"), FormatError, "'w': shape"),
        "S24-f6-three": (
            st({"w": entry("F6_E2M3", [3], [0, 2])}, b"\0\0"),
            FormatError,
            "'w': shape",
        ),
        **{
            f"S25-metadata-{kind}": (
                st({"__metadata__": {"key": value}, "w": entry()}, data),
                FormatError,
                "__metadata__['key']",
            )
            for kind, value in (
                ("int", 1),
                ("list", ["a"]),
                ("nested", {"a": "b"}),
                ("null", None),
                ("bool", True),
            )
        },
        "S25-metadata-no-object": (
            st({"__metadata__": "text", "w": entry()}, data),
            FormatError,
            "__metadata__",
        ),
        **{
            f"S26-surrogate-{text[2:]}": (
                st(ok.replace(b'"w"', b'"' + text.encode() + b'"'), data),
                FormatError,
                "header",
            )
            for text in ("\\ud800", "\\udc00", "\\ud800x", "\\ud800\\ud800")
        },
        **{
            f"S26-{text}": (st(raw(shape=f"[{text}]"), data), FormatError, "header")
            for text in ("NaN", "Infinity", "-Infinity", "1e999")
        },
        "S27-nested-arrays": (st(b"[" * 100_000), FormatError, "header"),
        "S27-nested-arrays-closed": (
            st(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            FormatError,
            "header",
        ),
        "S27-nested-objects": (
            st(b'{"w":' * 100_000 + b"1" + b"}" * 100_000),
            FormatError,
            "header",
        ),
        "S27-brackets-in-strings": (
            st(b'{"w":' + b'["]",' * 100_000 + b"1" + b"]" * 100_000 + b"}"),
            FormatError,
            "header",
        ),
        "S31-name-of-1-MB": (st({"n" * MIB: entry()}, data), LimitError, "name"),
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        # Only the names are needed for collecting; the bytes are made once, by `table`.
        metafunc.parametrize("case", list(cases(_Names)))


class _Names:
    """Stands for the builder while the rows are only named."""

    @staticmethod
    def safetensors(*_: Any, **__: Any) -> bytes:
        return b""


@pytest.fixture(scope="module")
def table(build: Any) -> dict[str, Case]:
    return cases(build)


def test_refused(case: str, table: dict[str, Case], refused: Callable[..., str]) -> None:
    content, error, field = table[case]
    refused(content, ".safetensors", error, field)


def test_s02_s03_lengths_are_checked_before_anything_is_read(
    build: Any, tmp_path: Path, reads: list[int]
) -> None:
    reads.clear()
    path = tmp_path / "long.safetensors"
    for length, error in ((99_000_000, FormatError), (2**64 - 1, LimitError)):
        path.write_bytes(build.safetensors(b"{" * 4096, length=length))
        with pytest.raises(error):
            open_safetensors(str(path), Limits())
    assert sum(reads) <= 2 * 512


@pytest.mark.parametrize("name", ["../../x", "a\0b", "", "/etc/passwd", "w" * 60_000])
def test_s31_names_are_data(name: str, build: Any, tmp_path: Path) -> None:
    path = tmp_path / "names.safetensors"
    path.write_bytes(build.safetensors({name: entry()}, b"\0" * 4))
    assert list(open_safetensors(str(path), Limits()).stored) == [name]


def test_s28_many_tensors_over_one_block(
    build: Any, tmp_path: Path, opened_apart: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "bomb.safetensors"
    header = {f"t{i}": entry(shape=[160_000], offsets=[0, 160_000]) for i in range(100_000)}
    path.write_bytes(build.safetensors(header, b"\0" * 160_000))
    result = opened_apart(path)
    assert result["kind"] == "FormatError"
    assert "overlaps" in result["message"]
    assert result["seconds"] < MARGIN * 0.3
    assert result["rss_bytes"] < 256 * MIB


def test_s29_a_million_empty_tensors(
    build: Any, tmp_path: Path, opened_apart: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "million.safetensors"
    one = '"t{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    header = "{" + ",".join(one.format(i) for i in range(1_000_000)) + "}"
    path.write_bytes(build.safetensors(header.encode()))
    result = opened_apart(path, 1200 * MIB)
    assert result["tensors"] == 1_000_000
    assert result["seconds"] < MARGIN * 4
    assert result["rss_bytes"] < 1024 * MIB


@pytest.mark.parametrize(
    ("header", "tensors"),
    [
        (b"{" + b" " * 98_999_998 + b"}", 0),
        (b"{}" + b" " * 98_999_998, 0),
        (b'{"__metadata__":{"k":"' + b"\\u00e9" * 2_000_000 + b'"}}', 0),
        (b'{"__metadata__":{"k":"' + b"\\ud83d\\ude00" * 1_000_000 + b'"}}', 0),
    ],
    ids=["white-space-inside", "white-space-behind", "escapes", "surrogate-pairs"],
)
def test_s30_large_headers_of_little(
    header: bytes,
    tensors: int,
    build: Any,
    tmp_path: Path,
    opened_apart: Callable[..., dict[str, Any]],
) -> None:
    path = tmp_path / "large.safetensors"
    path.write_bytes(build.safetensors(header))
    result = opened_apart(path)
    assert (result["kind"], result["tensors"]) == ("", tensors)
    assert result["rss_bytes"] < 4 * len(header)


def test_s30_small_values_by_the_million(
    build: Any, tmp_path: Path, opened_apart: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "lists.safetensors"
    path.write_bytes(build.safetensors(b'{"w":[' + b"[]," * 33_000_000 + b"[]]}"))
    result = opened_apart(path)
    assert result["kind"] == "LimitError"
    assert result["seconds"] < MARGIN * 0.3
    assert result["rss_bytes"] < 4 * 99_000_000
