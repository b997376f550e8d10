"""ZIP checkpoints: names, views, byte order, what is left out; files made opcode by opcode."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pth_opened import B, T, names, opened, values

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.pth import list_globals


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


def test_what_speaks_of_quantisation_is_metadata(tmp_path: Path) -> None:
    """Beside the tensors, which are looked at as a safetensors file's are."""
    block = B.dict_({"quant_method": B.value("zq"), "bits": B.list_(B.value(4), B.value(8))})
    entries = {
        "state_dict": B.dict_({"w": T}),
        "quantization_config": block,
        "quant_method": B.value("zq"),
        "long": B.value("quant" * 20_000),
        "surrogate": B.value("quant\ud800"),
        "quantizer": B.dict_({"w": T}),
        "quants": B.dict_({"n": B.value(1 << 80)}),
        "args": B.dict_({"lr": B.value(0.1)}),
    }
    content = B.pth(B.pickled(B.dict_(entries)), {"0": B.DATA})
    metadata = dict(opened(tmp_path, content).metadata)
    said = {"quant_method": "zq", "bits": [4, 8]}
    assert json.loads(metadata.pop("quantization_config")) == said
    assert metadata == {"quant_method": "zq", "serialization": "zip"}
    with pytest.raises(UnsupportedError, match=r"metadata quant.*\(zq\)"):
        anamnesis.open_model(tmp_path / "m.pth")


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
