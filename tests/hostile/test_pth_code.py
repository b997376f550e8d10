"""Rows P01 to P17 of the table of malformed input: pickles that would run code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pth_cases import ORDERED, B, G, T, V, beside, pth

from anamnesis.errors import AnamnesisError, SecurityError, UnsupportedError
from anamnesis.limits import Allow, Limits
from anamnesis.readers import open_container


def stack_global(module: str, name: str) -> bytes:
    return bytes(V(module) + b"q\x40" + V(name) + b"q\x410" + b"0h\x40h\x41\x93")


SYSTEM = B.call(G("os", "system"), V("id"))


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
