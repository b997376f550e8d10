"""Rows N01 to N16 of the table of malformed input: what a bad .npy file must lead to."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    LimitError,
    SecurityError,
    UnsupportedError,
)
from anamnesis.limits import Limits
from anamnesis.readers.npy import open_npy

Case = tuple[bytes, type[AnamnesisError], str]


class Bomb:
    """What must never be loaded."""

    def __reduce__(self) -> Any:
        return eval, ("1/0",)


def npy(
    header: str | bytes,
    data: bytes = bytes(12),
    version: tuple[int, int] = (1, 0),
    length: int | None = None,
) -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    size = 2 if version[0] == 1 else 4
    count = len(raw) if length is None else length
    return b"\x93NUMPY" + bytes(version) + count.to_bytes(size, "little") + raw + data


def head(descr: str = "'<f4'", fortran: str = "False", shape: str = "(3,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def descr(text: str, error: type[AnamnesisError] = FormatError) -> Case:
    return npy(head(descr=text)), error, "header: descr"


def shape(text: str, data: bytes = bytes(12)) -> Case:
    return npy(head(shape=text), data), FormatError, "shape" if text[0] in "([" else "header"


CASES: dict[str, Case] = {
    "N01-empty": (b"", FormatError, "empty"),
    "N01-magic-only": (b"\x93NUMPY", FormatError, "version"),
    "N01-magic-and-version": (b"\x93NUMPY\1\0", FormatError, "header length"),
    "N01-wrong-magic": (b"\x93NUMPZ\1\0" + bytes(20), FormatError, "magic"),
    "N01-old-pickle": (b"cbuiltins\neval\n(S'1/0'\ntR.", FormatError, "magic"),
    **{
        f"N02-version-{a}.{b}": (npy(head(), version=(a, b)), FormatError, f"version: {a}.{b}")
        for a, b in ((0, 0), (1, 1), (4, 0), (255, 255))
    },
    "N03-header-past-end": (npy(head(), b"", length=200), FormatError, "header length"),
    "N03-header-of-4-gib": (
        npy(head(), version=(2, 0), length=2**32 - 1),
        FormatError,
        "header length",
    ),
    "N04-header-of-20-kb": (npy(head().ljust(20_000)), LimitError, "header length"),
    "N04-header-of-1-mb": (
        npy(head().ljust(1_000_000), version=(2, 0)),
        LimitError,
        "header length",
    ),
    **{
        f"N05-{name}": (npy(text), FormatError, "header")
        for name, text in {
            "call": "dict(descr='<f4', fortran_order=False, shape=(3,))",
            "import": "__import__('os').system('true')",
            "import-as-value": head(shape="__import__('os')"),
            "list": "['<f4', False, (3,)]",
            "tuple": "('<f4', False, (3,))",
            "text": "'<f4'",
            "empty": "",
            "spaces": " " * 118,
            "comprehension": "{k: k for k in 'abc'}",
            "lambda": "lambda: 0",
        }.items()
    },
    "N06-unary-minus": (npy("-" * 9_000 + "1"), FormatError, "header"),
    "N06-unary-minus-in-shape": (npy(head(shape=f"({'-' * 9_000}1,)")), FormatError, "header"),
    "N06-brackets": (npy(head(shape="(" * 4_900)), FormatError, "header"),
    "N07-8000-digits": (npy(head(shape=f"({'9' * 8_000},)")), FormatError, "digits"),
    "N07-powers": (npy(head(shape="(9**9**9,)")), FormatError, "header"),
    "N07-2-64": shape("(18446744073709551616,)"),
    "N07-2-63": shape("(9223372036854775808,)"),
    "N08-bytes-keys": (
        npy("{b'descr': '<f4', 'fortran_order': False, 'shape': (3,)}"),
        FormatError,
        "header",
    ),
    "N08-int-key": (npy("{1: 2}"), FormatError, "key '1'"),
    "N08-extra-key": (npy(head()[:-3] + "'x': 1}"), FormatError, "unknown key 'x'"),
    "N08-no-descr": (npy("{'fortran_order': False, 'shape': (3,)}"), FormatError, "descr: missing"),
    "N08-no-order": (npy("{'descr': '<f4', 'shape': (3,)}"), FormatError, "fortran_order: missing"),
    "N08-no-shape": (npy("{'descr': '<f4', 'fortran_order': True}"), FormatError, "shape: missing"),
    "N09-descr-twice": (
        npy(head().replace("{", "{'descr': '<i4', ")),
        FormatError,
        "key 'descr': is given twice",
    ),
    "N10-list": shape("[3]"),
    "N10-no-tuple": shape("(3)"),
    "N10-negative": (npy(head(shape="(-3,)")), FormatError, "header"),
    "N10-float": (npy(head(shape="(3.0,)")), FormatError, "header"),
    "N10-string": shape("('3',)"),
    "N10-bool": shape("(True,)"),
    "N10-nested": shape("((3,),)"),
    "N10-rank-70": shape(f"({'1,' * 69}3)"),
    "N10-order-as-number": (npy(head(fortran="0")), FormatError, "fortran_order"),
    "N11-product-2-64": shape("(4294967296, 4294967296)"),
    "N11-bytes-wrap-to-4": shape("(4611686018427387905,)", bytes(4)),
    "N11-4-tib": shape("(1099511627776,)"),
    "N11-zero-beside-2-124": shape("(0, 4611686018427387904, 4611686018427387904)", b""),
    "N12-object": (objects(), SecurityError, "header: descr"),
    **{
        f"N12-{name}": descr(text, SecurityError)
        for name, text in {
            "big-endian": "'>O'",
            "no-order": "'O'",
            "sized": "'|O8'",
            "field": "[('a', '<i4'), ('b', '|O')]",
            "field-with-shape": "[('b', '|O', (2,))]",
            "nested-field": "[('a', [('b', [('c', '|O')])])]",
        }.items()
    },
    **{
        f"N13-{name}": descr(text, UnsupportedError)
        for name, text in {
            "structured": "[('a', '<f4'), ('b', '<i2')]",
            "text": "'<U4'",
            "bytes": "'|S4'",
            "date": "'<M8[ns]'",
            "duration": "'<m8[s]'",
            "float128": "'<f16'",
            "float96": "'<f12'",
            "complex128": "'<c16'",
            "complex256": "'<c32'",
            "float8": "'<V1'",
            "void": "'|V16'",
        }.items()
    },
    **{
        f"N14-{name}": descr(text)
        for name, text in {
            "v0": "'|V0'",
            "empty": "''",
            "f3": "'<f3'",
            "i16": "'<i16'",
            "b2": "'<b2'",
            "integer": "4",
            "bool": "True",
            "no-size": "'<f'",
            "long-size": f"'<f{'4' * 3000}'",
            "name": "'float32'",
            "order-twice": "'<<f4'",
            "native-order": "'=f4'",
            "no-order-of-4": "'|f4'",
            "unit-of-float": "'<f4[s]'",
            "space": "' <f4'",
            "newline": "'<f4x'",
        }.items()
    },
    "N14-multi-byte": (
        npy(head(descr="'é4'"), version=(3, 0)),
        FormatError,
        "header: descr",
    ),
    "N14-not-utf8": (npy(head().encode() + b"\xff", version=(3, 0)), FormatError, "header"),
    "N16-one-byte-short": (npy(head(), bytes(11)), FormatError, "shape"),
    "N16-one-byte-over": (npy(head(), bytes(13)), FormatError, "shape"),
    "N16-absent": (npy(head(), b""), FormatError, "shape"),
    "N16-scalar-absent": (npy(head(shape="()"), b""), FormatError, "shape"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, refused: Callable[..., str]) -> None:
    content, error, field = CASES[case]
    refused(content, ".npy", error, field)


def test_n01_a_pickle_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FormatError, match="magic"):
        open_npy(str(path), Limits())
    with pytest.raises(AnamnesisError):
        anamnesis.inspect(path)


def test_n03_lengths_are_checked_before_anything_is_read(tmp_path: Path, reads: list[int]) -> None:
    reads.clear()
    path = tmp_path / "long.npy"
    for length, error in ((90_000, LimitError), (2**32 - 1, FormatError)):
        path.write_bytes(npy("{" * 100_000, version=(2, 0), length=length))
        with pytest.raises(error):
            open_npy(str(path), Limits())
    assert sum(reads) <= 2 * 256


def test_n15_two_void_bytes_are_bf16(tmp_path: Path) -> None:
    """Documented in `readers/npy.py`: the habit of JAX, and what ml_dtypes writes."""
    path = tmp_path / "a.npy"
    for text in ("'|V2'", "'<V2'"):
        path.write_bytes(npy(head(descr=text), bytes(6)))
        assert open_npy(str(path), Limits()).stored["a"].dtype == "BF16"


def test_n12_the_body_is_never_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([Bomb()], dtype=object))
    with pytest.raises(SecurityError, match=r"a\.npz: member 'a\.npy': header: descr: '\|O'"):
        anamnesis.remember(path, tmp_path / "out.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz"]
