"""Rows P01 to P37, Z07 and Z22 of the table of malformed input, as checkpoints in ZIP archives."""

from __future__ import annotations

import io
import pickle
import time
import zipfile
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
from anamnesis.limits import Allow, Limits
from anamnesis.readers import open_container

B = pth_bytes
Case = tuple[bytes, type[AnamnesisError], str]
T = B.tensor(B.storage())
V, G = B.value, B.global_


def pth(top: bytes, **settings: Any) -> bytes:
    """A checkpoint of one storage, whatever its pickle is."""
    settings = {"storages": {"0": B.DATA}, **settings}
    return bytes(B.pth(B.pickled(top), **settings))


def beside(evil: bytes) -> bytes:
    """A good state dict with one entry more."""
    return pth(B.dict_({"w": T, "x": evil}))


def stack_global(module: str, name: str) -> bytes:
    return bytes(V(module) + b"q\x40" + V(name) + b"q\x410" + b"0h\x40h\x41\x93")


SYSTEM = B.call(G("os", "system"), V("id"))
ORDERED = G("collections", "OrderedDict")


def code() -> dict[str, tuple[bytes, str]]:
    """Name of a case, the entry, and what the message names."""
    return {
        "P01-os-system": (SYSTEM, "'os.system'"),
        "P01-posix": (B.call(G("posix", "system"), V("id")), "'posix.system'"),
        "P01-nt": (B.call(G("nt", "system"), V("id")), "'nt.system'"),
        "P01-subprocess": (B.call(G("subprocess", "Popen"), V("id")), "'subprocess.Popen'"),
        "P02-stack-global-of-the-memo": (
            stack_global("os", "system") + b"(" + V("id") + b"tR",
            "'os.system'",
        ),
        "P03-inst": (b"(" + V("id") + b"ios\nsystem\n", "'os.system'"),
        "P03-inst-allowed": (b"(icollections\nOrderedDict\n", "INST"),
        "P04-obj": (b"(" + G("os", "system") + V("id") + b"o", "'os.system'"),
        "P04-obj-allowed": (b"(" + ORDERED + b"o", "OBJ"),
        "P05-newobj": (G("os", "system") + V(("id",)) + b"\x81", "'os.system'"),
        "P05-newobj-ex-allowed": (ORDERED + b")}\x92", "NEWOBJ_EX"),
        "P05-newobj-parameter": (G("torch.nn.parameter", "Parameter") + b")\x81", "Parameter"),
        "P06-ext1": (b"\x82\x01", "number 1 of copyreg"),
        "P06-ext2": (b"\x83\x01\x02", "number 513 of copyreg"),
        "P06-ext4": (b"\x84\x01\x02\x03\x04", "number 67305985 of copyreg"),
        "P07-build-setstate": (B.HOOKS + B.dict_({"__setstate__": ORDERED}) + b"b", "__setstate__"),
        "P07-build-setstate-in-slots": (
            B.HOOKS + B.tuple_(b"N", B.dict_({"__setstate__": ORDERED})) + b"b",
            "__setstate__",
        ),
        "P07-build-on-a-class": (ORDERED + B.dict_({"__init__": b"N"}) + b"b", "OrderedDict"),
        "P08-pushed-and-popped": (G("os", "system") + b"0N", "'os.system'"),
        "P10-foreign-attribute": (G("torch._utils", "builtins"), "'torch._utils.builtins'"),
        "P10-foreign-import": (G("torch._utils", "os"), "'torch._utils.os'"),
        "P11-dotted": (
            G("torch._utils", "_rebuild_tensor_v2.__globals__"),
            "_rebuild_tensor_v2.__globals__",
        ),
        "P11-dotted-stack-global": (
            stack_global("collections", "OrderedDict.fromkeys"),
            "OrderedDict.fromkeys",
        ),
        "P11-joined-otherwise": (
            stack_global("torch", "_utils._rebuild_tensor_v2"),
            "_rebuild_tensor_v2",
        ),
        "P12-carriage-return": (b"ctorch._utils\r\n_rebuild_tensor_v2\n", r"torch._utils\r"),
        "P12-nul": (b"ctorch._utils\0\n_rebuild_tensor_v2\n", r"torch._utils\x00"),
        "P12-homoglyph": ("ct\u043erch._utils\n_rebuild_tensor_v2\n".encode(), "rch._utils"),
        "P12-not-utf-8": (b"ctorch\xff\nSize\n", "xff"),
        "P13-codecs-encode": (
            B.call(G("_codecs", "encode"), V("x"), V("rot13")),
            "'_codecs.encode'",
        ),
        "P14-bytearray": (B.call(G("builtins", "bytearray"), V(1 << 40)), "'builtins.bytearray'"),
        "P15-storage-called": (B.call(G("torch", "FloatStorage"), V(1 << 40)), "FloatStorage"),
        "P15-untyped-called": (
            B.call(G("torch.storage", "UntypedStorage"), V(1 << 40)),
            "UntypedStorage",
        ),
        "P15-tensor-called": (B.call(G("torch", "Tensor"), V(1 << 40)), "torch.Tensor"),
        "P16-hub-load": (B.call(G("torch.hub", "load"), V("x")), "'torch.hub.load'"),
        "P16-serialization-load": (
            B.call(G("torch.serialization", "load"), V("x")),
            "'torch.serialization.load'",
        ),
        "P16-load-from-bytes": (G("torch.storage", "_load_from_bytes"), "_load_from_bytes"),
        "P17-unknown-storage": (B.storage(cls="EvilStorage"), "'torch.EvilStorage'"),
        "P17-storage-elsewhere": (B.storage(module="evil"), "'evil.FloatStorage'"),
        "P17-module-class": (G("torch.nn.modules.linear", "Linear"), "modules.linear.Linear"),
    }


BYTES = B.call(G("_codecs", "encode"), V("x"), V("latin1"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (BYTES, "bytes"),
        (b"C\x01x", "bytes"),
        (B.call(G("__builtin__", "bytes")), "bytes"),
        (B.call(G("builtins", "bytearray"), BYTES), "bytearray"),
        (B.call(G("__builtin__", "bytearray"), V("x"), V("latin-1")), "bytearray"),
        (B.call(G("builtins", "bytearray")), "bytearray"),
        (B.call(G("builtins", "complex"), V(1.0), V(2.0)), "complex"),
        (B.call(G("collections", "Counter"), B.dict_({"a": V(2)})), "dict of 1"),
        (ORDERED + b")\x81", "dict of 0"),
        (
            B.call(
                G("numpy.core.multiarray", "scalar"),
                B.call(G("numpy", "dtype"), V("f8"), V(False), V(True)) + B.tuple_(V(3)) + b"b",
                BYTES,
            ),
            "numpy scalar",
        ),
    ],
)
def test_p13_p14_values_that_torch_lets_through(value: bytes, kind: str, tmp_path: Path) -> None:
    """Records without content stand for them: no codec runs, no memory is taken."""
    (tmp_path / "m.pth").write_bytes(beside(value))
    container = open_container(str(tmp_path / "m.pth"), Limits())
    assert list(container.stored) == ["w"]
    assert container.notes == (f"left out 1 values that are no tensors: x ({kind})",)


LEAVE = Limits(allow=Allow(leave_out_unknown=True))


@pytest.mark.parametrize("case", code())
def test_unknown_objects_may_be_left_out(case: str, tmp_path: Path) -> None:
    """On request, and nothing is run then either; what tensors need stays as strict as it is."""
    path = tmp_path / "m.pth"
    evil, _ = code()[case]
    path.write_bytes(beside(evil))
    if case in ("P13-codecs-encode", "P14-bytearray") or case.startswith(("P07-", "P17-unknown",
                "P17-storage")):  # fmt: skip
        with pytest.raises(AnamnesisError):
            open_container(str(path), LEAVE)
        return
    container = open_container(str(path), LEAVE)
    assert list(container.stored) == ["w"]
    (note,) = container.notes
    assert "x (" in note
    path.write_bytes(pth(evil))
    with pytest.raises(UnsupportedError):
        open_container(str(path), LEAVE)


def test_a_tensor_of_an_unknown_class_is_left_out(tmp_path: Path) -> None:
    """Its numbers may mean something else than those of a plain one."""
    parts = B.tuple_(B.storage(), V(0), V((4,)), V((1,)), V(False), B.HOOKS)
    rebuild = G("torch._utils", "_rebuild_tensor_v2")
    typed = B.call(
        G("torch._tensor", "_rebuild_from_type_v2"), rebuild, G("my.code", "Quantised"), parts, b"N"
    )
    inside = G("my.code", "Box") + b")\x81" + B.dict_({"t": T}) + b"b"
    (tmp_path / "m.pth").write_bytes(pth(B.dict_({"w": T, "x": typed, "y": inside})))
    with pytest.raises(SecurityError, match="--leave-out-unknown"):
        open_container(str(tmp_path / "m.pth"), Limits())
    container = open_container(str(tmp_path / "m.pth"), LEAVE)
    assert list(container.stored) == ["w"]
    (note,) = container.notes
    assert "x (an object of my.code.Quantised), y (an object of my.code.Box)" in note.replace(
        "(my", "(an object of my"
    )


@pytest.mark.parametrize("case", code())
def test_code_is_refused(case: str, refused: Callable[..., str]) -> None:
    evil, name = code()[case]
    message = refused(beside(evil), ".pth", SecurityError, name)
    assert "nothing was imported or called" in message
    # As the whole object, and where a key would be.
    refused(pth(evil), ".pth", SecurityError, name)
    refused(pth(b"}" + evil + b"Ns"), ".pth", SecurityError, name)


@pytest.mark.parametrize(
    ("second", "name"),
    [
        (B.pickled(SYSTEM), "os.system"),
        (SYSTEM + b".", "os.system"),
        (B.pickled(b"}"), "second pickle"),
        (b"\0", "second pickle"),
        (b"\n", "second pickle"),
    ],
)
def test_p09_a_second_pickle(second: bytes, name: str, refused: Callable[..., str]) -> None:
    content = B.pth(B.pickled(B.dict_({"w": T})) + second, {"0": B.DATA})
    refused(content, ".pth", SecurityError, name)


def odd() -> dict[str, Case]:
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


@pytest.mark.parametrize("case", odd())
def test_odd_content_is_refused(case: str, refused: Callable[..., str]) -> None:
    content, error, field = odd()[case]
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


def test_p33_500000_names_on_one_tensor(tmp_path: Path) -> None:
    names = b"".join(b"X\x06\0\0\0%06dh\x50" % n for n in range(500_000))
    top = T + b"q\x500}(" + names + b"u"
    path = tmp_path / "m.pth"
    path.write_bytes(pth(top))
    start = time.process_time()
    container = open_container(str(path), Limits())
    assert time.process_time() - start < 10
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
    start = time.process_time()
    refused(content, ".pth", LimitError, "max_expansion_ratio")
    refused(content, ".pth", LimitError, "data.pkl", max_expansion_ratio=5_000)
    assert time.process_time() - start < 1


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
