"""GPTQModel and AutoRound on this machine: what they read of random layers, and of whole files."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from packed_oracle import compare

import anamnesis

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif("ANAMNESIS_ORACLES" not in os.environ, reason="make test-oracles sets it"),
    # The libraries' own, on import.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]
CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "gptq"


@pytest.fixture(scope="module")
def libraries() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parent))
    return importlib.import_module("packed_libraries")


def checkpoint(folder: Path, config: Any, layers: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    tensors = {f"{n}.{part}": t.contiguous() for n, p in layers.items() for part, t in p.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("order", ["none", "shuffled", "zeros"])
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptqmodel(libraries: ModuleType, bits: int, v2: bool, order: str, tmp_path: Path) -> None:
    for seed, (inputs, outputs, group) in enumerate([(576, 96, 128), (128, 128, 32), (64, 32, -1)]):
        case = libraries.gptq(bits, inputs, outputs, group, v2=v2, order=order, seed=seed)
        compare(case, tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_beyond_the_tiles(libraries: ModuleType, bits: int, dtype: str, tmp_path: Path) -> None:
    kind = getattr(torch, dtype)
    for order, inputs in (("none", 20_000), ("shuffled", 2_500)):
        compare(libraries.gptq(bits, inputs, 44, 128, order=order, scale_dtype=kind), tmp_path)


@pytest.mark.parametrize("pack", ["int8", "int16", "int32"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_padded_shapes_and_narrow_words(
    libraries: ModuleType, bits: int, pack: str, tmp_path: Path
) -> None:
    kind = getattr(torch, pack)
    for seed, (inputs, outputs) in enumerate([(61, 35), (32, 1), (1, 32), (1, 1), (2049, 17)]):
        case = libraries.gptq(bits, inputs, outputs, 32, pack_dtype=kind, seed=seed)
        compare(case, tmp_path)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zeros_that_borrow(libraries: ModuleType, bits: int, tmp_path: Path) -> None:
    compare(libraries.gptq(bits, 256, 96, 32, carry=True), tmp_path)


@pytest.mark.parametrize("packing", ["auto_round", "auto_round:auto_gptq", "auto_round:gptqmodel"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_auto_round(libraries: ModuleType, bits: int, packing: str, tmp_path: Path) -> None:
    for seed, group in enumerate([32, 128, -1]):
        case = libraries.auto_round(bits, 256, 96, group, packing=packing, seed=seed)
        compare(case, tmp_path)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptqmodel_s_converter(libraries: ModuleType, bits: int, tmp_path: Path) -> None:
    """A file with two layers, by `convert_gptq_file`, which multiplies in float32."""
    convert = libraries.load("gptqmodel.utils.model_dequant").convert_gptq_file
    cases = [libraries.gptq(bits, 320, 64, 64, order=o, seed=7) for o in ("none", "shuffled")]
    layers = {name: case.stored for name, case in zip("ab", cases, strict=True)}
    source = checkpoint(tmp_path, cases[0].config | {"desc_act": True}, layers)
    anamnesis.remember(source, tmp_path / "out.safetensors", threads=1)
    found = anamnesis.open_model(tmp_path / "out.safetensors")
    wanted = convert(source / "model.safetensors", torch.bfloat16, cases[0].config, "cpu")
    assert set(wanted) == {"a.weight", "b.weight"}
    for name, tensor in wanted.items():
        bits_of = tensor.contiguous().view(torch.uint16).numpy()
        np.testing.assert_array_equal(found[name].to_numpy().view(np.uint16), bits_of)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_share_of_the_reference(libraries: ModuleType, bits: int) -> None:
    """How often GPTQModel's own order differs from one rounding, which the default tests hold."""
    linear = libraries.gptq(bits, 1024, 64, 128, seed=bits)
    differ = (linear.exact != linear.reference).double().mean().item()
    assert differ == pytest.approx({4: 0.03, 8: 0.06}[bits], abs=0.01)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not beside the checkout")
def test_corpus_in_the_library_s_order(libraries: ModuleType, tmp_path: Path) -> None:
    """Real layers with `rounding: reference`, against TorchLinear on the stored tensors."""
    from safetensors.torch import load_file

    module = libraries.load("gptqmodel.nn_modules.qlinear.torch")
    model = libraries.load("gptqmodel.utils.model")
    for folder in sorted(CORPUS.iterdir()):
        (path,) = (p for p in folder.glob("*.safetensors") if p.name != "expected.safetensors")
        out = tmp_path / f"{folder.name}.safetensors"
        anamnesis.remember(str(path), out, rounding="reference", threads=1)
        found, stored = anamnesis.open_model(out), load_file(path)
        settings = json.loads((folder / "quantize_config.json").read_text())
        for name in (n for n in stored if n.endswith(".qweight")):
            prefix = name.removesuffix(".qweight")
            parts = {p: stored[f"{prefix}.{p}"] for p in ("qweight", "qzeros", "scales", "g_idx")}
            bits, inputs = settings["bits"], parts["g_idx"].shape[0]
            outputs = parts["scales"].shape[1]
            size = settings["group_size"]
            layer = module.TorchLinear(bits, size, True, settings["desc_act"], inputs, outputs)
            layer.train()
            for part, tensor in parts.items():
                setattr(layer, part, tensor)
            model.convert_gptq_v1_to_v2_format_module(layer, bits, torch.int32)
            layer.post_init()
            wanted = libraries.bits(layer.dequantize_weight()).numpy()
            bits_found = found[f"{prefix}.weight"].to_numpy().view(np.uint16)
            np.testing.assert_array_equal(bits_found, wanted)
