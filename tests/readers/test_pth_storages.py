"""Storages and views of checkpoints: classes, strides, and what rebuilds a tensor."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pth_opened import B, T, names, opened, values

from anamnesis.errors import UnsupportedError

FLOATS = np.arange(24, dtype="<f4")


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


def test_empty_storages(tmp_path: Path) -> None:
    top = B.dict_({"w": B.tensor(B.storage(elems=0), (0, 3), (3, 1))})
    container = opened(tmp_path, B.pth(B.pickled(top), {"0": b""}))
    assert container.stored["w"].shape == (0, 3)
