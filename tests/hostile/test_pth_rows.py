"""Rows P18 to P37, Z07 and Z22 of malformed input: contents that contradict each other."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clock import within
from pth_cases import ORDERED, B, Case, G, T, V, beside, pth

from anamnesis.errors import FormatError, LimitError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers import open_container


def contents() -> dict[str, Case]:
    rebuild = G("torch._utils", "_rebuild_tensor_v2")
    store = B.storage()
    pid = "persistent id"
    tag, cls = V("storage"), G("torch", "FloatStorage")
    rest = V("0") + V("cpu") + V(4)

    def view(size: Any = (4,), stride: Any = (1,), offset: Any = 0) -> bytes:
        return pth(B.dict_({"w": B.tensor(store, size, stride, offset)}))

    def ident(*parts: bytes) -> bytes:
        return pth(B.dict_({"w": B.tensor(B.tuple_(*parts) + b"Q")}))

    def store_of(elems: Any, **settings: Any) -> bytes:
        return pth(B.dict_({"w": B.tensor(B.storage(elems=elems), (1,))}), **settings)

    return {
        "P18-reduce-of-text": (beside(V("os.system") + b")R"), FormatError, "REDUCE"),
        "P18-reduce-of-a-tensor": (beside(T + b")R"), FormatError, "REDUCE"),
        "P18-reduce-without-tuple": (beside(ORDERED + b"]R"), FormatError, "no tuple"),
        "P18-append-on-dict": (beside(b"}Na"), FormatError, "APPEND"),
        "P18-appends-on-tensor": (beside(T + b"(Ne"), FormatError, "APPENDS"),
        "P18-setitem-on-tensor": (beside(T + V(0) + b"Ns"), FormatError, "SETITEM"),
        "P18-setitem-on-list": (beside(b"]" + V(0) + b"Ns"), FormatError, "SETITEM"),
        "P18-setitems-on-storage": (beside(store + b"(" + V(0) + b"Nu"), FormatError, "SETITEMS"),
        "P18-unhashable-key": (beside(b"}]Ns"), FormatError, "dict key"),
        "P18-dict-as-key": (beside(b"}}Ns"), FormatError, "dict key"),
        "P18-list-in-tuple-key": (beside(b"}]\x85Ns"), FormatError, "dict key"),
        "P18-key-of-a-pair": (
            beside(B.call(ORDERED, B.list_(B.list_(b"]", b"N")))),
            FormatError,
            "key",
        ),
        "P18-odd-setitems": (beside(b"}(NNNu"), FormatError, "without a value"),
        "P18-odd-dict": (beside(b"(NNNd"), FormatError, "without a value"),
        "P18-build-on-text": (beside(V("x") + b"}b"), FormatError, "BUILD"),
        "P18-build-on-list": (beside(b"]}b"), FormatError, "BUILD"),
        "P18-arguments-missing": (beside(rebuild + b")R"), FormatError, "0 arguments"),
        "P18-arguments-too-many": (beside(rebuild + b"(" + b"N" * 9 + b"tR"), FormatError, "9 arg"),
        "P19-text": (ident()[:0] + pth(B.dict_({"w": V("0") + b"Q"})), FormatError, pid),
        "P19-text-opcode": (pth(B.dict_({"w": b"P0\n"})), FormatError, pid),
        "P19-integer": (pth(B.dict_({"w": V(0) + b"Q"})), FormatError, pid),
        "P19-none": (pth(B.dict_({"w": b"NQ"})), FormatError, pid),
        "P19-list": (pth(B.dict_({"w": b"](" + tag + cls + rest + b"eQ"})), FormatError, pid),
        "P19-wrong-tag": (ident(V("module"), cls, rest), FormatError, pid),
        "P19-tag-as-bytes": (ident(b"C\x07storage", cls, rest), FormatError, pid),
        "P19-short": (ident(tag, cls, V("0"), V("cpu")), FormatError, pid),
        "P19-long": (ident(tag, cls, rest, b"N"), FormatError, pid),
        "P19-empty": (ident(), FormatError, pid),
        "P19-class-as-text": (ident(tag, V("FloatStorage"), rest), FormatError, "storage class"),
        "P19-class-of-another-kind": (ident(tag, ORDERED, rest), FormatError, "storage class"),
        "P19-key-as-integer": (ident(tag, cls, V(0), V("cpu"), V(4)), FormatError, "key"),
        "P20-key-leaves": (
            pth(B.dict_({"w": B.tensor(B.storage("../../../etc/passwd"))})),
            FormatError,
            "'archive/data/../../../etc/passwd' is missing",
        ),
        "P20-key-absolute": (
            pth(B.dict_({"w": B.tensor(B.storage("/etc/passwd"))})),
            FormatError,
            "'archive/data//etc/passwd' is missing",
        ),
        "P20-key-is-another-member": (
            pth(B.dict_({"w": B.tensor(B.storage("../version", 2), (2,))})),
            FormatError,
            "is missing",
        ),
        "P21-more-than-the-entry": (store_of(5), FormatError, "storage '0': 5 elements"),
        "P21-fewer-than-the-entry": (store_of(3), FormatError, "storage '0': 3 elements"),
        "P21-negative": (store_of(-4), FormatError, "elements: -4"),
        "P21-2-62": (store_of(1 << 62), FormatError, "storage '0': 4,611"),
        "P21-2-80": (store_of(1 << 80), FormatError, "elements: 1208925"),
        "P21-2-1000": (store_of(1 << 1000), FormatError, "an integer of 1001 bits"),
        "P21-float": (store_of(4.0), FormatError, "must be an integer"),
        "P21-true": (store_of(True), FormatError, "must be an integer"),
        "P21-other-class": (
            pth(B.dict_({"w": B.tensor(B.storage(elems=4, cls="DoubleStorage"))})),
            FormatError,
            "take 32 bytes",
        ),
        "P22-two-dtypes": (
            pth(B.dict_({"a": T, "b": B.tensor(B.storage(cls="IntStorage"))})),
            FormatError,
            "storage '0' is declared twice",
        ),
        "P22-two-sizes": (
            pth(B.dict_({"a": T, "b": B.tensor(B.storage(elems=2), (2,))})),
            FormatError,
            "storage '0' is declared twice",
        ),
        "P22-untyped-and-bytes": (
            pth(
                B.dict_(
                    {
                        "a": B.tensor(B.storage(elems=16, cls="ByteStorage")),
                        "b": B.storage(elems=16, cls="UntypedStorage"),
                    }
                )
            ),
            FormatError,
            "storage '0' is declared twice",
        ),
        "P23-offset-negative": (view(offset=-1), FormatError, "storage_offset: -1"),
        "P23-offset-outside": (view((1,), (1,), 4), FormatError, "reach element 5 of 4"),
        "P23-offset-outside-empty": (view((0,), (1,), 5), FormatError, "reach element 5 of 4"),
        "P23-offset-2-62": (view((1,), (1,), 1 << 62), FormatError, "storage_offset"),
        "P23-size-outside": (view((5,)), FormatError, "reach element 5 of 4"),
        "P23-size-negative": (view((-1,)), FormatError, "size: -1"),
        "P23-size-2-64": (view((1 << 64,)), FormatError, "size: 1844"),
        "P23-size-product-wraps": (view((1 << 32, 1 << 32), (0, 0)), FormatError, "2^63"),
        "P23-size-absurd-beside-0": (view((0, 1 << 62, 8), (1, 1, 1)), FormatError, "2^63"),
        "P23-size-2.0": (view((2.0,)), FormatError, "size: must hold integers, found float"),
        "P23-size-true": (view((True,)), FormatError, "size: must hold integers, found bool"),
        "P23-size-text": (view(("4",)), FormatError, "size: must hold integers, found str"),
        "P23-size-no-tuple": (view(4), FormatError, "size: must be a tuple"),
        "P23-stride-negative": (view(stride=(-1,)), FormatError, "stride: -1"),
        "P23-stride-2-62": (view(stride=(1 << 62,)), FormatError, "reach element"),
        "P23-stride-wraps": (view((3,), (1 << 63,)), FormatError, "stride: 9223"),
        "P23-strides-wrap-in-sum": (
            view((3, 3), ((1 << 63) - 1, (1 << 63) - 1)),
            FormatError,
            "reach element",
        ),
        "P23-rank-mismatch": (view((2, 2)), FormatError, "2 sizes and 1 strides"),
        "P23-rank-65": (view((1,) * 65, (1,) * 65), LimitError, "rank 65"),
        "P23-storage-is-text": (
            pth(B.dict_({"w": B.tensor(V("0"))})),
            FormatError,
            "no storage",
        ),
        "P24-stride-0": (view((1 << 38,), (0,)), LimitError, "max_expansion_ratio"),
        "P24-many-strides-0": (view((1 << 19, 1 << 19), (0, 0)), LimitError, "max_expansion_ratio"),
        "P24-stride-0-of-little": (view((1 << 20,), (0,)), LimitError, "max_expansion_ratio"),
    }


@pytest.mark.parametrize("case", contents())
def test_contradictions_are_refused(case: str, refused: Callable[..., str]) -> None:
    content, error, field = contents()[case]
    refused(content, ".pth", error, field)


def test_p24_a_callers_total(refused: Callable[..., str]) -> None:
    content = pth(B.dict_({"w": B.tensor(B.storage(), (100, 4), (0, 1))}))
    message = refused(content, ".pth", LimitError, "max_total_bytes", max_total_bytes=1599)
    assert "1,600" in message
    refused(content, ".pth", LimitError, "max_expansion_ratio", max_expansion_ratio=1)


def test_p24_names_count_every_time(refused: Callable[..., str]) -> None:
    big = pth(B.dict_({"a": T + b"q\x50", **{f"b{n}": b"h\x50" for n in range(100)}}))
    refused(big, ".pth", LimitError, "max_total_bytes", max_total_bytes=1615)


def test_p20_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    opened: list[str] = []
    real = os.open

    def recording(path: Any, *arguments: Any, **settings: Any) -> int:
        opened.append(str(path))
        return real(path, *arguments, **settings)

    monkeypatch.setattr(os, "open", recording)
    path = tmp_path / "m.pth"
    path.write_bytes(pth(B.dict_({"w": B.tensor(B.storage("/etc/passwd"))})))
    with pytest.raises(FormatError):
        open_container(str(path), Limits())
    assert set(opened) == {str(path)}


def test_p33_500000_names_on_one_tensor(tmp_path: Path) -> None:
    names = b"".join(b"X\x06\0\0\0%06dh\x50" % n for n in range(500_000))
    top = T + b"q\x500}(" + names + b"u"
    path = tmp_path / "m.pth"
    path.write_bytes(pth(top))
    with within(2):
        container = open_container(str(path), Limits())
    assert len(container.stored) == 500_000


def test_p33_more_names_than_tensors_are_allowed(refused: Callable[..., str]) -> None:
    """A dict of 1,025 names for one tensor under 1,024 names, in a pickle of as many bytes."""
    inner = b"".join(b"X\x04\0\0\0%04dh\x50" % n for n in range(1025))
    outer = b"".join(b"X\x04\0\0\0%04dh\x51" % n for n in range(1024))
    top = T + b"q\x500}(" + inner + b"uq\x510}(X\x01\0\0\0x" + V("x" * (1 << 20)) + outer + b"u"
    refused(pth(top), ".pth", LimitError, "1,048,576")


@pytest.mark.parametrize(
    ("top", "text"),
    [
        (T, "holds one tensor"),
        (B.list_(T, T), "holds list of 2"),
        (B.tuple_(T), "holds tuple of 1"),
        (B.storage(), "holds a bare storage"),
        (V("text"), "holds str"),
        (V(5), "holds int"),
        (b"N", "holds None"),
        (ORDERED, "holds a class"),
        (b"}", "holds no tensors"),
        (B.dict_({"a": V(1), "b": B.list_(V("x"))}), "holds no tensors"),
        (
            B.dict_({"state": B.dict_({0: T}), "param_groups": B.list_()}),
            "holds no tensors but an optimiser's",
        ),
    ],
)
def test_p34_no_mapping_of_tensors(top: bytes, text: str, refused: Callable[..., str]) -> None:
    refused(pth(top), ".pth", UnsupportedError, text)


GOOD = B.pickled(B.one_tensor())


@pytest.mark.parametrize(
    ("members", "text"),
    [
        # zipfile warns of a second member of one name.
        (["a/data.pkl", "a/data.pkl", "a/data/0"], "twice"),
        (["a/data.pkl", "b/data.pkl", "a/data/0"], "two root folders, 'a' and 'b'"),
        (["a/data.pkl", "b/data/0"], "two root folders"),
        (["a/data.pkl", "a/data/0", "version"], "two root folders"),
        (["a/data.pkl", "a/data/0", "a/data/0"], "twice"),
        (["a/b/data.pkl", "a/data/0"], "'a/data.pkl' is missing"),
        (["data.pkl", "data/0"], "two root folders"),
        (["a/version", "a/data/0"], "'a/data.pkl' is missing"),
        (["a/w.npy"], "'a/data.pkl' is missing"),
        (["a/data.pkl"], "'a/data/0' is missing"),
        (["a/data.pkl", "a/data/1"], "'a/data/0' is missing"),
        (["a/data.pkl", "a/data/0/"], "'a/data/0' is missing"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_p35_p36_members(members: list[str], text: str, refused: Callable[..., str]) -> None:
    parts = [(name, GOOD if name.endswith("data.pkl") else B.DATA) for name in members]
    refused(B.archive(parts), ".pth", FormatError, text)


@pytest.mark.parametrize("order", [b"middle", b"", b"LITTLE", b"little\n", b"big" * 1000])
def test_p36_byte_order(order: bytes, refused: Callable[..., str]) -> None:
    content = B.pth(GOOD, {"0": B.DATA}, extra=[("byteorder", order)])
    refused(content, ".pth", FormatError, "archive/byteorder")


@pytest.mark.parametrize("extra", ["constants.pkl", "code/__torch__.py", "code/net.py"])
def test_p37_torchscript(extra: str, refused: Callable[..., str]) -> None:
    content = B.pth(GOOD, {"0": B.DATA}, extra=[(extra, b"")])
    refused(content, ".pth", UnsupportedError, "TorchScript")
    # Its data.pkl names classes of its own; what the file is comes first.
    script = B.pickled(B.call(G("__torch__.net", "Net")))
    refused(B.pth(script, {}, extra=[(extra, b"")]), ".pt", UnsupportedError, "TorchScript")


def test_z07_the_pickle_is_checked_at_once(refused: Callable[..., str]) -> None:
    from anamnesis.errors import IntegrityError

    content = pth(B.dict_({"w": T, "note": V("something")}))
    at = content.index(b"something")
    flipped = content[:at] + b"S" + content[at + 1 :]
    refused(flipped, ".pth", IntegrityError, "'archive/data.pkl': CRC-32")


def test_z10_a_pickle_that_inflates(refused: Callable[..., str]) -> None:
    content = B.pth(b"N" * (300 << 20), {}, method=zipfile.ZIP_DEFLATED)
    with within(0.1):
        refused(content, ".pth", LimitError, "max_expansion_ratio")
        refused(content, ".pth", LimitError, "data.pkl", max_expansion_ratio=5_000)


def torch_archive(members: list[tuple[str, bytes]]) -> bytes:
    """An archive as PyTorch's miniz writes it: sizes behind the data, "FB" fields for padding."""
    import struct
    import zlib

    body, directory = b"", b""
    for name, data in members:
        raw, start, crc = name.encode(), len(body), zlib.crc32(data)
        pad = -(start + 30 + len(raw) + 4) % 64
        extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
        local = (b"PK\3\4", 0, 0x0808, 0, 0, 0, 0, 0, 0, len(raw), len(extra))
        body += struct.pack("<4s5H3I2H", *local) + raw + extra + data
        body += struct.pack("<4s3I", b"PK\7\x08", crc, len(data), len(data))
        central = (b"PK\1\2", 0, 0, 0x0808, 0, 0, 0, crc, len(data), len(data), len(raw))
        directory += struct.pack("<4s6H3I5H2I", *central, 0, 0, 0, 0, 0, start) + raw
    end = (b"PK\5\6", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + struct.pack("<4s4H2IH", *end)


def test_z22_as_pytorch_writes_archives(tmp_path: Path, refused: Callable[..., str]) -> None:
    content = torch_archive(
        [("m/data.pkl", GOOD), ("m/byteorder", b"little"), ("m/data/0", B.DATA)]
    )
    path = tmp_path / "good.pth"
    path.write_bytes(content)
    (stored,) = open_container(str(path), Limits()).stored.values()
    assert stored.offset % 64 == 0
    assert content[stored.offset : stored.offset + 16] == B.DATA
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
    at = content.rindex(b"PK\7\x08")
    refused(content[: at + 4] + b"\xff" + content[at + 5 :], ".pth", FormatError, "descriptor")


def test_the_good_file_is_good(tmp_path: Path) -> None:
    """What every case above is a variation of."""
    path = tmp_path / "m.pth"
    path.write_bytes(pth(B.dict_({"w": T, "x": V(1)})))
    assert list(open_container(str(path), Limits()).stored) == ["w"]
    assert pickle.PROTO == b"\x80"
