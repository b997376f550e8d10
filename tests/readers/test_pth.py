"""ZIP checkpoints: names, views, byte order, what is left out; files made opcode by opcode."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pth_bytes
import pytest

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.base import Container
from anamnesis.readers.pth import list_globals
from anamnesis.readers.raw import open_raw
from anamnesis.readers.source import LocalFile

B = pth_bytes
FLOATS = np.arange(24, dtype="<f4")


def opened(tmp_path: Path, content: bytes, name: str = "m.pth") -> Container:
    path = tmp_path / name
    path.write_bytes(content)
    return open_container(str(path), Limits())


def values(container: Container, name: str) -> bytes:
    stored = container.stored[name]
    out = np.empty(stored.nbytes, np.uint8)
    with LocalFile(stored.file.path) as file:
        open_raw(stored, file).read_into(0, out)
    return out.tobytes()


def names(tmp_path: Path, entries: Any) -> tuple[list[str], str]:
    """Output names, and all notes, of a checkpoint whose tensors are all one."""
    content = B.pth(B.pickled(B.dict_(entries)), {"0": B.DATA})
    container = opened(tmp_path, content)
    assert all(values(container, name) == B.DATA for name in container.stored)
    return list(container.stored), "; ".join(container.notes)


def test_a_tensor(tmp_path: Path) -> None:
    container = opened(tmp_path, B.good_pth())
    assert container.kind == "pth"
    assert container.metadata == {"serialization": "zip"}
    (stored,) = container.stored.values()
    assert (stored.name, stored.dtype, stored.shape, stored.nbytes) == ("w", "F32", (4,), 16)
    assert values(container, "w") == B.DATA
    # What was read at opening was checked then; the rest is checked by whoever converts.
    assert [m.name for m in container.members] == ["archive/data/0", "archive/version"]
    assert container.notes == ()


@pytest.mark.parametrize("root", ["archive", "epoch27_e29f70s308m37.pth", "ä b"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_root_and_method(root: str, method: int, tmp_path: Path) -> None:
    content = B.pth(B.pickled(B.one_tensor()), {"0": B.DATA}, root=root, method=method)
    container = opened(tmp_path, content, "model.pth.tar")
    assert values(container, "w") == B.DATA


T = B.tensor(B.storage())


def test_nested_names(tmp_path: Path) -> None:
    layers = B.list_(T, B.tuple_(T, T), B.dict_({"bias": T}))
    found, notes = names(tmp_path, {"layers": layers, "head.weight": T, 7: T, "": B.dict_({"": T})})
    assert found == [
        "layers.0",
        "layers.1.0",
        "layers.1.1",
        "layers.2.bias",
        "head.weight",
        "7",
        ".",
    ]
    assert notes == ""


def test_what_is_no_tensor_is_left_out_with_a_note(tmp_path: Path) -> None:
    entries = {
        "w": T,
        "epoch": B.value(3),
        "args": B.dict_({"lr": B.value(0.1), "name": B.value("x")}),
        "nothing": B.value(None),
        "storage": B.storage(),
        "device": B.call(B.global_("torch", "device"), B.value("cpu")),
        "dtype": B.global_("torch", "float16"),
        "a\nb": B.value(True),
    }
    found, notes = names(tmp_path, entries)
    assert found == ["w"]
    assert notes == (
        "left out 7 values that are no tensors: epoch (int), args (dict of 2), nothing (None), "
        r"storage (a bare storage), device (device), dtype (a class), 'a\nb' (bool)"
    )


def test_an_optimiser_is_left_out(tmp_path: Path) -> None:
    state = B.dict_({0: B.dict_({"exp_avg": T, "exp_avg_sq": T, "step": B.value(1)})})
    optimiser = B.dict_({"state": state, "param_groups": B.list_()})
    found, notes = names(tmp_path, {"w": T, "optimizer": optimiser, "more": B.list_(optimiser)})
    assert found == ["w"]
    assert "left out optimizer: an optimiser's state, 2 tensors" in notes
    assert "left out more: an optimiser's state, 2 tensors" in notes


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"state_dict": {"a": 1}, "epoch": 0}, ["a"]),
        ({"model": {"a": 1}, "epoch": 0}, ["a"]),
        ({"model": {"state_dict": {"a": 1}, "args": 0}, "epoch": 0}, ["a"]),
        # Beside other tensors only `state_dict` is certain to be a wrapper.
        ({"state_dict": {"a": 1}, "more": 1}, ["a", "more"]),
        ({"model": {"a": 1}, "ema": {"a": 1}}, ["model.a", "ema.a"]),
        ({"params": {"a": 1}, "params_ema": {"a": 1}}, ["params.a", "params_ema.a"]),
        ({"encoder": {"a": 1}}, ["encoder.a"]),
        ({"model": 1}, ["model"]),
        ({"state_dict": 1}, ["state_dict"]),
        ({"x": {"state_dict": {"a": 1}}}, ["x.state_dict.a"]),
    ],
)
def test_wrappers(entries: Any, expected: list[str], tmp_path: Path) -> None:
    """In `entries`, 1 is a tensor and 0 is not."""

    def build(node: Any) -> bytes:
        if isinstance(node, dict):
            return bytes(B.dict_({key: build(item) for key, item in node.items()}))
        return bytes(T if node else B.value(0))

    found, notes = names(tmp_path, {key: build(item) for key, item in entries.items()})
    assert found == expected
    # Every part that is missing from the names is told.
    for part in ("state_dict", "model"):
        gone = part in str(entries) and not any(part in name for name in found)
        assert (f"the names inside of {part!r} come without it" in notes) == gone


def test_shared_tensors_are_all_there(tmp_path: Path) -> None:
    """Tied weights: one tensor by the memo, one storage seen twice, and a dict in two places."""
    first = T + b"q\x50"
    inner = B.dict_({"x": b"h\x50"}) + b"q\x51"
    found, _ = names(tmp_path, {"a": first, "b": b"h\x50", "c": T, "d": inner, "e": b"h\x51"})
    assert found == ["a", "b", "c", "d.x", "e.x"]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((24,), (1,), 0),
        ((4, 6), (6, 1), 0),
        ((6, 4), (1, 6), 0),  # transposed
        ((2, 3, 4), (4, 8, 1), 0),  # permuted
        ((3,), (1,), 21),
        ((3, 2), (8, 2), 1),
        ((5, 4), (0, 1), 2),  # expanded
        ((2, 2), (3, 3), 0),  # overlapping
        ((1, 4), (999, 1), 3),  # the stride of a dimension of one says nothing
        ((), (), 5),
        ((0,), (1,), 24),
        ((0, 3), (3, 1), 0),
        ((3, 0), (1, 1), 7),
        ((2, 1, 3), (3, 77, 1), 0),
    ],
)
def test_views(
    size: Any, stride: Any, offset: int, method: int, swapped: bool, tmp_path: Path
) -> None:
    top = B.dict_({"w": B.tensor(B.storage(elems=24), size, stride, offset)})
    data = FLOATS.astype(">f4" if swapped else "<f4").tobytes()
    extra = [("byteorder", b"big" if swapped else b"little")]
    content = B.pth(B.pickled(top), {"0": data}, extra=extra, method=method)
    container = opened(tmp_path, content)
    steps = tuple(4 * s for s in stride)
    expected = np.lib.stride_tricks.as_strided(FLOATS[offset:], size, steps)
    assert values(container, "w") == expected.tobytes()
    stored = container.stored["w"]
    assert stored.view is not None
    plain = expected.flags.c_contiguous or 0 in size
    assert (stored.view.strides is None) == plain


CLASSES = {
    "BFloat16Storage": ("BF16", 2),
    "BoolStorage": ("BOOL", 1),
    "ByteStorage": ("U8", 1),
    "CharStorage": ("I8", 1),
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "IntStorage": ("I32", 4),
    "LongStorage": ("I64", 8),
    "ShortStorage": ("I16", 2),
}


@pytest.mark.parametrize("cls", CLASSES)
def test_storage_classes(cls: str, tmp_path: Path) -> None:
    dtype, itemsize = CLASSES[cls]
    data = bytes(range(3 * itemsize))
    top = B.dict_({"w": B.tensor(B.storage(elems=3, cls=cls), (2,), (1,), 1)})
    container = opened(tmp_path, B.pth(B.pickled(top), {"0": data}))
    assert container.stored["w"].dtype == dtype
    assert values(container, "w") == data[itemsize:]
    if itemsize > 1:
        big = B.pth(B.pickled(top), {"0": data}, extra=[("byteorder", b"big")])
        wanted = np.frombuffer(data, f">u{itemsize}")[1:].astype(f"<u{itemsize}").tobytes()
        assert values(opened(tmp_path, big), "w") == wanted


UNTYPED = {
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
    "float8_e8m0fnu": ("F8_E8M0", 1),
    "uint16": ("U16", 2),
    "uint32": ("U32", 4),
    "uint64": ("U64", 8),
}


def untyped(dtype: str, nbytes: int, size: Any, offset: int = 0, module: str = "torch") -> bytes:
    """A tensor by `_rebuild_tensor_v3`: bytes, and a dtype beside them."""
    parts = [B.value(offset), B.value(size), B.value((1,)), B.value(False), B.HOOKS]
    store = B.storage(elems=nbytes, cls="UntypedStorage", module=module)
    rebuild = B.global_("torch._utils", "_rebuild_tensor_v3")
    return bytes(B.call(rebuild, store, *parts, B.global_("torch", dtype)))


@pytest.mark.parametrize("module", ["torch", "torch.storage"])
@pytest.mark.parametrize("name", UNTYPED)
def test_untyped_storages(name: str, module: str, tmp_path: Path) -> None:
    dtype, itemsize = UNTYPED[name]
    data = bytes(range(5 * itemsize))
    top = B.dict_({"w": untyped(name, len(data), (4,), 1, module)})
    container = opened(tmp_path, B.pth(B.pickled(top), {"0": data}))
    assert container.stored["w"].dtype == dtype
    assert values(container, "w") == data[itemsize:]


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (B.tensor(B.storage(elems=1, cls="QInt8Storage"), (1,)), "torch.qint8 (quantised"),
        (untyped("float4_e2m1fn_x2", 4, (4,)), "torch.float4_e2m1fn_x2"),
        (untyped("bits8", 4, (4,)), "torch.bits8"),
        (
            B.call(B.global_("torch._utils", "_rebuild_qtensor"), B.storage()),
            "a quantised tensor of torch",
        ),
        (B.call(B.global_("torch._utils", "_rebuild_sparse_tensor")), "a sparse tensor"),
        (
            B.tensor(B.storage(), (4,), (1,), 0, B.dict_({"neg": B.value(True)})),
            "a lazy sign or conjugate",
        ),
        (B.call(B.global_("torch._utils", "_rebuild_meta_tensor_no_storage")), "without data"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_not_converted_is_named(tensor: bytes, text: str, tmp_path: Path) -> None:
    nbytes = {"torch.float4_e2m1fn_x2": 4, "torch.bits8": 4}.get(text, 16)
    nbytes = 1 if "qint8" in text else nbytes
    top = B.dict_({"blocks": B.dict_({"w": tensor})})
    with pytest.raises(UnsupportedError) as caught:
        opened(tmp_path, B.pth(B.pickled(top), {"0": bytes(nbytes)} if b"Q" in tensor else {}))
    assert "tensor 'blocks.w'" in str(caught.value)
    assert text in str(caught.value)

    data = {"0": bytes(nbytes)} if b"Q" in tensor else {}
    top = B.dict_({"a": tensor, "b": tensor, "plain": B.tensor(B.storage("1"))})
    container = opened(tmp_path, B.pth(B.pickled(top), {**data, "1": bytes(16)}))
    assert (list(container.stored), container.unread) == (["plain"], ("a", "b"))
    (note,) = container.notes
    assert note.startswith("left out 'a' and 1 more: ")
    assert text in note


def test_complex_tensors(tmp_path: Path) -> None:
    """complex64 is a dtype of safetensors; wider ones are none and do not refuse the rest."""
    data = bytes(range(16))
    entries = {
        "c": B.tensor(B.storage(elems=2, cls="ComplexFloatStorage"), (2,)),
        "z": B.tensor(B.storage("1", elems=1, cls="ComplexDoubleStorage"), (1,)),
    }
    for order in (b"little", b"big"):
        content = B.pth(
            B.pickled(B.dict_(entries)), {"0": data, "1": data}, extra=[("byteorder", order)]
        )
        container = opened(tmp_path, content)
        assert list(container.stored) == ["c"]
        assert container.stored["c"].dtype == "C64"
        swapped = np.frombuffer(data, ">u4" if order == b"big" else "<u4").astype("<u4").tobytes()
        assert values(container, "c") == swapped
        assert container.unread == ("z",)
        (note,) = container.notes
        assert note == "left out 'z': dtype torch.complex128 (complex) is not converted"


@pytest.mark.parametrize(
    "key",
    "best_metric callbacks cuda_rng_state_all global_step lr_schedulers rng rng_state".split(),
)
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module"])
def test_the_state_of_a_training_run(key: str, wrapper: str, tmp_path: Path) -> None:
    """Lightning's and others' checkpoints: what load_state_dict takes, and nothing beside it."""
    beside = B.dict_({"best": T, "more": B.dict_({"score": T})})
    found, notes = names(tmp_path, {key: beside, wrapper: B.dict_({"net.w": T}), "epoch": b"N"})
    assert found == ["net.w"]
    assert f"left out {key}: the state of a training run, 2 tensors" in notes
    # Without a wrapper such a name is a module's like any other.
    found, _ = names(tmp_path, {key: beside, "body": B.dict_({"w": T})})
    assert found == [f"{key}.best", f"{key}.more.score", "body.w"]


def test_ways_to_rebuild_a_tensor(tmp_path: Path) -> None:
    utils, parameter = "torch._utils", B.global_("torch.nn.parameter", "Parameter")
    four = [B.storage(), B.value(0), B.value((4,)), B.value((1,))]
    state = B.dict_({"attribute": B.value(1)})
    more = [*four, B.value(True), B.HOOKS]
    v2 = B.global_(utils, "_rebuild_tensor_v2")
    entries = {
        "v1": B.call(B.global_(utils, "_rebuild_tensor"), *four),
        "v2": B.call(v2, *more),
        "v2m": B.call(v2, *more, B.dict_({})),
        "parameter": B.call(B.global_(utils, "_rebuild_parameter"), T, B.value(True), B.HOOKS),
        "state": B.call(
            B.global_(utils, "_rebuild_parameter_with_state"), T, B.value(True), B.HOOKS, state
        ),
        "type": B.call(
            B.global_("torch._tensor", "_rebuild_from_type_v2"),
            v2,
            parameter,
            B.tuple_(*more),
            B.tuple_(state, B.dict_({"slot": B.value(2)})),
        ),
        "built": T + state + b"b",
        "size": B.call(
            v2,
            B.storage(),
            B.value(0),
            B.call(B.global_("torch", "Size"), B.list_(B.value(4))),
            *more[3:],
        ),
    }
    found, _ = names(tmp_path, entries)
    assert found == list(entries)


def test_an_ordered_dict_with_metadata(tmp_path: Path) -> None:
    metadata = B.dict_({"_metadata": B.dict_({"": B.dict_({"version": B.value(1)})})})
    top = B.HOOKS + b"(" + B.value("w") + T + b"u" + metadata + b"b"
    assert values(opened(tmp_path, B.pth(B.pickled(top), {"0": B.DATA})), "w") == B.DATA


def test_an_ordered_dict_of_python_2(tmp_path: Path) -> None:
    pairs = B.list_(B.list_(b"U\x01w", T), B.list_(b"U\x01v", T))
    top = B.call(B.global_("collections", "OrderedDict"), pairs)
    container = opened(tmp_path, B.pth(B.pickled(top), {"0": B.DATA}))
    assert list(container.stored) == ["w", "v"]


@pytest.mark.parametrize(
    ("entries", "error", "text"),
    [
        ([("w", T), ("w", T)], FormatError, "'w' is given twice"),
        ([("w", T), ("w", B.value(1))], FormatError, "'w' is given twice"),
        ([("w", B.value(1)), ("w", T)], FormatError, "'w' is given twice"),
        ([("a.b", T), ("a", B.dict_({"b": T}))], FormatError, "'a.b' is given twice"),
        ([("1", T), (1, T)], FormatError, "'1' is given twice"),
        ([("model", B.dict_({"w": T})), ("model", B.value(1))], FormatError, "'model' is given"),
        ([("a", T), ("state_dict", B.dict_({"a": T}))], FormatError, "'a' is given twice"),
        ([((1, 2), T)], UnsupportedError, "no text or integer (tuple of 2)"),
        ([(None, T)], UnsupportedError, "no text or integer (None)"),
        ([("\udc80", T)], FormatError, "lone surrogates"),
        ([("n" * 70_000, T)], FormatError, "70,000 bytes"),
    ],
)
def test_names_that_cannot_be(
    entries: Any, error: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        names(tmp_path, entries)
    assert text in str(caught.value)


def test_empty_storages(tmp_path: Path) -> None:
    top = B.dict_({"w": B.tensor(B.storage(elems=0), (0, 3), (3, 1))})
    container = opened(tmp_path, B.pth(B.pickled(top), {"0": b""}))
    assert container.stored["w"].shape == (0, 3)


def test_other_protocols(tmp_path: Path) -> None:
    for protocol in (3, 4, 5):
        content = B.pth(B.pickled(B.one_tensor(), protocol), {"0": B.DATA})
        assert values(opened(tmp_path, content), "w") == B.DATA


def test_globals_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    evil = B.pickled(B.dict_({"w": T, "x": B.call(B.global_("os", "system"), B.value("id"))}))
    path.write_bytes(B.pth(evil + b"cposix\nsystem\n.", {"0": B.DATA}))
    found = list_globals(str(path), Limits())
    assert {g.name: g.allowed for g in found.globals} == {
        "torch._utils._rebuild_tensor_v2": True,
        "torch.FloatStorage": True,
        "collections.OrderedDict": True,
        "os.system": False,
        "posix.system": False,
    }
    assert {g.pickle for g in found.globals} == {f"{path}: archive/data.pkl"}
    assert len(found.problems) == 1


def test_globals_of_torchscript_and_other_pickles(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    module = B.pickled(B.global_("__torch__.net", "Net"))
    path.write_bytes(B.archive([("a/data.pkl", module), ("a/constants.pkl", B.pickled(b"N"))]))
    assert [g.name for g in list_globals(str(path), Limits()).globals] == ["__torch__.net.Net"]
    path.write_bytes(b"cos\nsystem\n(S'id'\ntR.")
    found = list_globals(str(path), Limits())
    assert [g.name for g in found.globals] == ["os.system"]
    assert "torch.save did not write" in found.problems[0]
    path.write_bytes(B.good_legacy())
    found = list_globals(str(path), Limits())
    assert found.problems == ()
    assert all(g.allowed for g in found.globals)


def test_the_builders_are_what_torch_writes() -> None:
    """Python's own unpickler, with stand-ins for torch, reads the same from them."""
    import pickle

    seen: list[Any] = []

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return lambda *arguments: (name, arguments)

        def persistent_load(self, pid: Any) -> Any:
            seen.append(pid)
            return "S"

    import io

    found = Unpickler(io.BytesIO(B.pickled(B.one_tensor()))).load()
    hooks = ("OrderedDict", ())
    assert found == {"w": ("_rebuild_tensor_v2", ("S", 0, (4,), (1,), False, hooks))}
    assert [(p[0], *p[2:]) for p in seen] == [("storage", "0", "cpu", 4)]
    assert struct.unpack("<4f", B.DATA) == (1.0, -2.0, 3.5, 0.0)
