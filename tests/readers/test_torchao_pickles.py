"""torchao's tensors as torch.save pickles them, against its own values (tests/data/torchao)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pth_bytes as b
import pytest
from safetensors.numpy import load_file

import anamnesis
from anamnesis.errors import FormatError, SecurityError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.pickle_vm import Node
from anamnesis.readers.torch_subclasses import rebuilt

DATA = Path(__file__).resolve().parents[1] / "data" / "torchao"


@pytest.mark.parametrize(
    ("file", "expected"), [("cases", "expected"), ("affine", "affine-expected")]
)
def test_golden(file: str, expected: str) -> None:
    found = anamnesis.open_model(DATA / f"{file}.pt")
    bits = load_file(DATA / f"{expected}.safetensors")
    for name, wanted in bits.items():
        if not name.endswith(".exact"):
            wanted = bits.get(f"{name}.exact", wanted)
            np.testing.assert_array_equal(found[name].to_numpy().view(np.uint16), wanted)


def test_the_dense_and_the_dropped() -> None:
    found = anamnesis.open_model(DATA / "affine.pt")
    assert [name for name in found if name.endswith("bias")] == [
        f"{name}.bias" for name in ("rows", "groups", "float8", "dynamic")
    ]
    schemes = {found[name].scheme for name in found if name.endswith("weight")}
    assert schemes == {"torchao-affine"}


KIND = "torchao.x.Int8Tensor"
QDATA = b.tensor(b.storage("0", 8, "CharStorage"), (2, 4), (4, 1))


def wrapped(kind: str, attributes: Any, function: str = "_rebuild_wrapper_subclass") -> bytes:
    """A wrapper as torch.save writes it."""
    module, _, name = kind.rpartition(".")
    cls = b.global_(module, name)
    device = b.call(b.global_("torch", "device"), b.value("cpu"))
    sizes = (b.value((2, 4)), b.value((4, 1)), b.value(0), b.value(None), device, b"\x89")
    inner = b.tuple_(cls, b.global_("torch", "bfloat16"), *sizes)
    state = b.value(None) if attributes is None else b.dict_(attributes)
    rebuild = b.global_("torch._utils", function)
    return b.call(b.global_("torch._tensor", "_rebuild_from_type_v2"), rebuild, cls, inner, state)


def saved(path: Path, state: dict[str, bytes]) -> str:
    path.write_bytes(b.pth(b.pickled(b.dict_(state)), {"0": bytes(8)}))
    return str(path)


def test_settings_of_unknown_classes_are_left_out_unrun(tmp_path: Path) -> None:
    attributes = {
        "qdata": QDATA,
        "block_size": b.list_(b.value(1), b.value(4)),
        "granularity": b.call(b.global_("torchao.x", "PerRow"), b.value(1)),
        "domain": b.call(b.global_("torchao.x", "Domain"), b.value("INT")),
    }
    path = saved(tmp_path / "m.pt", {"a.weight": wrapped(KIND, attributes)})
    container = open_container(path, Limits())
    assert list(container.stored) == ["a.weight.qdata"]
    assert container.values["a.weight._torchao"] == "Int8Tensor"
    assert container.values["a.weight.block_size"] == (1, 4)
    assert container.values["a.weight.domain"] == "INT"
    with pytest.raises(FormatError, match="'scale'"):
        anamnesis.open_model(path)


def test_long_lists_are_not_copied() -> None:
    """However many attributes share one."""
    shared = Node("list", [1] * 9, 1)
    arguments = Node("tuple", [None, None, Node("tuple", [2, 4], 1)], 2)
    state = Node("dict", ["a", shared, "b", shared], 2)
    found = rebuilt("m", "torchao.x.Int8Tensor", arguments, state).items
    assert [value is shared for value in found[-3::2]] == [True, True]


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("torchao.x.Float6Tensor", {"packed": QDATA}, "Float6Tensor"),
        (
            "torchao.x.AffineQuantizedTensor",
            {"tensor_impl": wrapped("torchao.x.TileImpl", {"a": QDATA})},
            "'TileImpl'",
        ),
        (
            "torchao.x.Around",
            {"inner": wrapped(KIND, {"qdata": QDATA})},
            "Ar",
        ),
    ],
)
def test_other_classes_are_refused_by_name(
    kind: str, attributes: Any, message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "m.pt", {"a.weight": wrapped(kind, attributes)})
    with pytest.raises(UnsupportedError, match=message):
        anamnesis.open_model(path)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (wrapped(KIND, None), FormatError, "without attributes"),
        (wrapped(KIND, {"_torchao": b.value("x")}), FormatError, "an attribute '_torchao'"),
        (wrapped(KIND, {"a.b": b.value(1)}), FormatError, "an attribute 'a.b'"),
        (wrapped(KIND, {}, "_rebuild_tensor_v2"), FormatError, "rebuilt as no tensor"),
        (wrapped("other.x.Tensor", {}), SecurityError, "other.x.Tensor"),
        (wrapped("torchaox.Tensor", {}), SecurityError, "torchaox.Tensor"),
        (wrapped("torch.Tensor", {}), FormatError, "without attributes"),
        (
            b.call(b.global_("torch._utils", "_rebuild_wrapper_subclass"), b.value(1)),
            FormatError,
            "attributes",
        ),
    ],
)
def test_what_is_no_wrapper(state: Any, error: Any, message: str, tmp_path: Path) -> None:
    whole = {"a": state, "b": QDATA}
    with pytest.raises(error, match=message):
        anamnesis.open_model(saved(tmp_path / "m.pt", whole))
