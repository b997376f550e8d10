"""Rows P09 to P32 of the table of malformed input: pickles that are broken, large or round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pth_cases import B, Case, T, V, beside, pth

from anamnesis.errors import AnamnesisError, FormatError, LimitError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers import open_container

PKL = "archive/data.pkl: pickle"


def streams() -> dict[str, Case]:
    """Whole pickles that are broken."""
    good = B.pickled(B.dict_({"w": T}))
    late = (FormatError, PKL)
    return {
        "P25-empty": (b"", *late),
        "P25-protocol-only": (b"\x80\x02", *late),
        "P25-cut": (good[:-20], *late),
        "P25-no-stop": (good[:-1], *late),
        "P25-stop-only": (b".", *late),
        "P25-unknown-opcode": (b"\x80\x02\xff.", *late),
        "P25-underflow": (b"\x80\x02a.", *late),
        "P25-no-mark": (b"\x80\x02}u.", *late),
        "P25-no-memo": (b"\x80\x02h\x05.", *late),
        "P25-get-without-number": (b"\x80\x02gx\n.", *late),
        "P25-left-on-the-stack": (b"\x80\x02}}.", *late),
        "P26-protocol-9": (B.pickled(B.dict_({"w": T}), 9), FormatError, "protocol 9"),
        "P26-frame-too-long": (
            b"\x80\x04\x95" + b"\xff" * 8 + good[2:],
            FormatError,
            "a frame of 18,446,744",
        ),
        "P27-binunicode-4-gib": (b"X\xff\xff\xff\xffx.", *late),
        "P27-binbytes8-2-64": (b"\x8e" + b"\xff" * 8 + b"x.", *late),
        "P27-bytearray8-2-63": (b"\x96" + b"\xff" * 7 + b"\x7fx.", *late),
        "P27-binunicode8": (b"\x8d" + b"\xff" * 8 + b"x.", *late),
        "P27-long4-negative": (b"\x8b\xff\xff\xff\xff.", *late),
        "P27-long4-2-31": (b"\x8b\xff\xff\xff\x7f.", *late),
        "P27-int-of-200000-digits": (b"I" + b"9" * 200_000 + b"\n.", *late),
        "P27-long-of-200000-digits": (b"L" + b"9" * 200_000 + b"L\n.", *late),
        "P27-int-of-5000-digits": (b"I" + b"9" * 5_000 + b"\n.", *late),
        "P27-float-of-5000-digits": (b"F" + b"9" * 5_000 + b"\n.", *late),
        "P27-long1-as-size": (
            B.pickled(B.dict_({"w": B.tensor(B.storage(), (1 << 2000,))})),
            FormatError,
            "an integer of 2001 bits",
        ),
        "P29-lists-from-the-outside": (
            # Each list is put into the one before it while both are empty.
            b"]q\0" + b"".join(b"h\0]q\1ah\1q\0000" for _ in range(2_000)) + b".",
            FormatError,
            PKL,
        ),
        "P30-tuple-of-250-as-key": (b"}" + b"N" + b"\x85" * 250 + b"Ns.", FormatError, "dict key"),
    }


@pytest.mark.parametrize("case", streams())
def test_broken_streams(case: str, refused: Callable[..., str]) -> None:
    stream, error, field = streams()[case]
    refused(B.pth(stream, {"0": B.DATA}), ".pth", error, field)


LARGE: dict[str, tuple[Callable[[], bytes], type[AnamnesisError], str]] = {
    "P29-1M-tuples": (lambda: b"N" + b"\x85" * 1_000_000 + b".", FormatError, "nested deeper"),
    "P29-100k-lists": (lambda: b"]" * 100_000 + b"a" * 99_999 + b".", FormatError, "nested deeper"),
    "P29-100k-dicts": (lambda: b"}N" * 100_000 + b"s" * 99_999 + b".", FormatError, PKL),
    "P30-deep-tuple-as-key": (
        lambda: b"}" + b"N" + b"\x85" * 200_000 + b"Ns.",
        FormatError,
        "nested deeper",
    ),
    "P31-50M-none": (lambda: b"N" * 50_000_000, LimitError, "opcodes"),
    "P31-5M-marks": (lambda: b"(" * 5_000_000, LimitError, "opcodes"),
    "P31-none-and-pop": (lambda: b"N0" * 10_000_000, LimitError, "opcodes"),
    "P31-lists": (lambda: b"]" * 10_000_000, LimitError, "in memory"),
    "P31-memo": (lambda: b"N" + b"\x94" * 10_000_000, LimitError, "in memory"),
}


@pytest.mark.parametrize("case", LARGE)
def test_large_streams(case: str, refused: Callable[..., str]) -> None:
    make, error, field = LARGE[case]
    refused(B.pth(make(), {"0": B.DATA}), ".pth", error, field)


def doubled(rounds: int, leaf: bytes, pair: bytes = b"\x86") -> bytes:
    """A value that holds the one before it twice, so many times over."""
    return leaf + b"".join(b"q\x30" + b"h\x30" + pair for _ in range(rounds))


@pytest.mark.parametrize("rounds", [60, 100, 250])
def test_p28_doubling(rounds: int, refused: Callable[..., str], tmp_path: Path) -> None:
    """Shared nodes stay shared; names of tensors in them would be 2^rounds."""
    path = tmp_path / "ok.pth"
    path.write_bytes(beside(doubled(rounds, b"N")))
    assert list(open_container(str(path), Limits()).stored) == ["w"]
    refused(beside(doubled(rounds, T)), ".pth", LimitError, "tensors: needs")
    empty = B.tensor(B.storage("1", 0), (0,))
    content = pth(B.dict_({"x": doubled(rounds, empty)}), storages={"1": b""})
    refused(content, ".pth", LimitError, "tensors: needs")
    refused(pth(doubled(rounds, b"N")), ".pth", UnsupportedError, "holds tuple of 2")


def test_p28_long_names_are_counted(refused: Callable[..., str]) -> None:
    entries = B.dict_({f"{n}": b"h\x50" for n in range(5_000)})
    content = pth(B.dict_({"first": T + b"q\x50", "n" * 60_000: entries}))
    refused(content, ".pth", LimitError, "tensor names")


def test_p28_notes_are_counted(refused: Callable[..., str]) -> None:
    """One dict with a tensor and many scalars, reached by many names."""
    inner = B.dict_({"w": T, **{f"{n}": b"N" for n in range(2_000)}}) + b"q\x51"
    outer = B.dict_({"first": inner, **{f"x{n}": b"h\x51" for n in range(2_000)}})
    refused(pth(outer), ".pth", LimitError, "every path to them counted")


@pytest.mark.parametrize(
    "top",
    [
        b"]q\x50h\x50a",
        b"}q\x50" + V("k") + b"h\x50s",
        B.dict_({"w": T, "x": b"]q\x50h\x50a"}),
        b"}q\x50" + V("a") + B.list_(B.dict_({"b": b"h\x50"})) + b"s",
        b"](](K\x01eq\x50h\x50h\x50ae",
    ],
)
def test_p32_values_that_contain_themselves(top: bytes, refused: Callable[..., str]) -> None:
    if top.startswith(b"]"):
        top = B.dict_({"w": T, "x": top})
    refused(pth(top), ".pth", FormatError, "contains itself")
