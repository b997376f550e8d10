"""Rows L01 to L08 of the table of malformed input: checkpoints of PyTorch before 1.6."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pth_bytes
import pytest

from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    LimitError,
    SecurityError,
    UnsupportedError,
)
from anamnesis.limits import Limits, MiB
from anamnesis.readers import open_container

B = pth_bytes
Case = tuple[bytes, type[AnamnesisError], str]
TOP = B.one_tensor(legacy_form=True)
SYSTEM = B.pickled(B.call(B.global_("os", "system"), B.value("id")))


def legacy(top: bytes = TOP, storages: Any = (("0", 4, B.DATA),), **parts: bytes) -> bytes:
    return bytes(B.legacy(top, storages, **parts))


def dumps(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


def tar() -> bytes:
    """The layout of PyTorch 0.1: three streams in a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(SYSTEM)
            archive.addfile(entry, io.BytesIO(SYSTEM))
    return buffer.getvalue()


EVAL_MAGIC = b"c__builtin__\neval\n(S'0x1950a86a20f9469cfc6c'\ntR."


def cases() -> dict[str, Case]:
    two = B.dict_({k: B.tensor(B.storage(k, view=None)) for k in ("0", "1")})
    data = [("0", 4, B.DATA), ("1", 4, B.DATA)]
    keys = "storage keys"

    def ident(view: Any = None, **settings: Any) -> bytes:
        store = B.storage("0", view=view, **settings)
        return legacy(B.dict_({"w": B.tensor(store, (1,))}))

    return {
        "L02-magic": (legacy(magic=dumps(B.MAGIC_NUMBER + 1)), FormatError, "magic number: 0x1950"),
        "L02-magic-0": (legacy(magic=dumps(0)), FormatError, "magic number: 0x0"),
        "L02-magic-large": (legacy(magic=dumps(1 << 2000)), FormatError, "magic number: "),
        "L02-magic-true": (legacy(magic=dumps(True)), UnsupportedError, "no checkpoint"),
        "L02-magic-text": (legacy(magic=dumps("x")), UnsupportedError, "no checkpoint"),
        "L02-protocol": (legacy(version=dumps(1000)), FormatError, "1001, found 1000"),
        "L02-protocol-text": (legacy(version=dumps("1001")), FormatError, "protocol version"),
        "L02-protocol-float": (legacy(version=dumps(1001.0)), FormatError, "protocol version"),
        "L02-system-none": (legacy(system=dumps(None)), FormatError, "system information"),
        "L03-in-the-magic": (legacy(magic=SYSTEM), SecurityError, "'os.system'"),
        "L03-in-the-protocol": (legacy(version=SYSTEM), SecurityError, "'os.system'"),
        "L03-in-the-system": (legacy(system=SYSTEM), SecurityError, "'os.system'"),
        "L03-in-the-object": (legacy(SYSTEM[2:-1]), SecurityError, "'os.system'"),
        "L03-in-the-keys": (legacy(keys=SYSTEM), SecurityError, "'os.system'"),
        "L03-before-the-magic": (SYSTEM + legacy(), SecurityError, "'os.system'"),
        "L03-id-outside-of-the-object": (legacy(keys=B.pickled(b"NQ")), FormatError, keys),
        "L04-eval-makes-the-magic": (legacy(magic=EVAL_MAGIC), SecurityError, "'__builtin__.eval'"),
        "L05-truncated": (legacy()[:-1], FormatError, "past the end of the file"),
        "L05-no-data": (legacy()[: -len(B.DATA)], FormatError, "past the end of the file"),
        "L05-no-count": (legacy()[: -len(B.DATA) - 4], FormatError, "past the end of the file"),
        "L05-absent": (legacy(storages=(), keys=dumps(["0"])), FormatError, "past the end"),
        "L05-count-negative": (legacy(storages=[("0", -4, B.DATA)]), FormatError, "elements: -4"),
        "L05-count-2-60": (legacy(storages=[("0", 1 << 60, B.DATA)]), FormatError, "says 4"),
        "L05-count-unequal": (legacy(storages=[("0", 3, B.DATA)]), FormatError, "elements: 3"),
        "L05-id-2-60": (ident(elems=1 << 60), FormatError, "past the end"),
        "L05-id-negative": (ident(elems=-1), FormatError, "elements: -1"),
        "L05-bytes-behind": (legacy() + b"\0", FormatError, "1 bytes after the last storage"),
        "L05-a-second-file": (legacy() + legacy(), FormatError, "after the last storage"),
        "L05-a-second-pickle": (legacy() + SYSTEM, FormatError, "after the last storage"),
        "L06-no-list": (legacy(keys=dumps({"0": 0})), FormatError, f"{keys}: must be a list"),
        "L06-tuple": (legacy(keys=dumps(("0",))), FormatError, f"{keys}: must be a list"),
        "L06-text": (legacy(keys=dumps("0")), FormatError, f"{keys}: must be a list"),
        "L06-integers": (legacy(keys=dumps([0])), FormatError, f"{keys}: must be texts"),
        "L06-lists": (legacy(keys=dumps([["0"]])), FormatError, f"{keys}: must be texts"),
        "L06-duplicate": (
            legacy(two, data, keys=dumps(["0", "1", "0"])),
            FormatError,
            "'0' is in the list twice",
        ),
        "L06-missing": (legacy(two, data, keys=dumps(["0"])), FormatError, "'1' is missing"),
        "L06-extra": (legacy(keys=dumps(["0", "9"])), FormatError, "'9' is no storage"),
        "L06-order": (
            # Both have the same sizes; only their counts would tell.
            legacy(
                B.dict_(
                    {
                        "a": B.tensor(B.storage("0", 4, view=None)),
                        "b": B.tensor(B.storage("1", 2, view=None), (2,)),
                    }
                ),
                [("1", 4, B.DATA), ("0", 2, B.DATA[:8])],
            ),
            FormatError,
            "elements: 4",
        ),
        "L07-big-endian": (
            legacy(system=dumps({**B.SYSTEM, "little_endian": False})),
            UnsupportedError,
            "little_endian",
        ),
        "L07-endian-none": (
            legacy(system=dumps({**B.SYSTEM, "little_endian": None})),
            UnsupportedError,
            "little_endian",
        ),
        "L08-tar": (tar(), UnsupportedError, "is a tar file"),
        "P19-view-as-text": (ident("v"), FormatError, "view"),
        "P19-view-short": (ident(("v", 0)), FormatError, "view"),
        "P19-view-key": (ident((0, 0, 4)), FormatError, "view: key"),
        "P21-view-outside": (ident(("v", 2, 3)), FormatError, "elements 2 to 5 of 4"),
        "P21-view-negative": (ident(("v", -1, 3)), FormatError, "view: offset: -1"),
        "P22-two-dtypes": (
            legacy(
                B.dict_(
                    {
                        "a": B.tensor(B.storage(view=None)),
                        "b": B.tensor(B.storage(cls="IntStorage", view=None)),
                    }
                )
            ),
            FormatError,
            "declared twice",
        ),
        "P22-one-view-twice": (
            legacy(
                B.dict_(
                    {
                        "a": B.tensor(B.storage(view=("v", 0, 2)), (2,)),
                        "b": B.tensor(B.storage(view=("v", 1, 2)), (2,)),
                    }
                )
            ),
            FormatError,
            "other bounds",
        ),
        "P23-outside-of-the-view": (
            legacy(B.dict_({"w": B.tensor(B.storage(view=("v", 1, 2)), (3,))})),
            FormatError,
            "reach element 3 of 2",
        ),
        "P24-stride-0": (
            legacy(B.one_tensor(legacy_form=True, size=(1 << 38,), stride=(0,))),
            LimitError,
            "max_expansion_ratio",
        ),
        "P25-cut-in-the-object": (legacy()[:200], FormatError, "object: pickle"),
        "P34-a-list": (legacy(B.list_(), ()), UnsupportedError, "holds list of 0"),
    }


@pytest.mark.parametrize("case", cases())
def test_refused(case: str, refused: Callable[..., str]) -> None:
    content, error, field = cases()[case]
    refused(content, ".pth", error, field)


def test_p31_opcodes(refused: Callable[..., str]) -> None:
    refused(legacy(b"N0" * 5_000_000), ".pth", LimitError, "opcodes")


def test_p31_a_pickle_without_end(refused: Callable[..., str]) -> None:
    text = b"X" + (200 << 20).to_bytes(4, "little") + b"x" * (100 << 20)
    refused(legacy()[:119] + text, ".pth", LimitError, "has no end in the first")


def test_l01_the_good_file_is_good(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(legacy())
    assert list(open_container(str(path), Limits()).stored) == ["w"]


@pytest.mark.parametrize("suffix", [".tar", ".pth", ".pt", ".ckpt"])
def test_l08_no_tar_file_is_opened(
    suffix: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tar()

    def forbidden(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("tarfile was used")

    monkeypatch.setattr(tarfile, "open", forbidden)
    monkeypatch.setattr(tarfile.TarFile, "__init__", forbidden)
    refused(content, suffix, UnsupportedError, "tar")


def test_a_callers_limit_bounds_the_window(refused: Callable[..., str]) -> None:
    content = legacy(B.dict_({"x": B.value("y" * MiB), "w": B.tensor(B.storage(view=None))}))
    message = refused(content, ".pth", LimitError, "max_single_alloc", max_single_alloc=MiB)
    assert "pickle" in message
