"""Every scheme in one model: the same numbers from every executor, sink, window and rounding.

The safetensors model holds the golden tensors of all families (tests/data), and larger ones that
are packed here; the GGUF model a tensor of every ggml type. Expected values are the canonical
libraries', as the golden files and gguf-py give them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from gguf_files import finish
from safetensors.numpy import load_file
from small_models import bf16

import anamnesis
from anamnesis.kernels import ENCODINGS
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.executors import EXECUTORS

DATA = Path(__file__).resolve().parents[1] / "data"
Entry = tuple[str, tuple[int, ...], bytes]
Write = Callable[[Path, Mapping[str, Entry]], Path]
# Golden layers that need no config to be told apart.
GOLDEN = re.compile(
    r"(gptq-(w\d-(v1|act-order)|square.*|channel|partial.*|padded|one.*|int.*[56]|.*-scales)"
    r"|awq-.*)\.\w+"
)
# Those of MLX whose shapes alone tell the bits.
MLX = re.compile(r"(affine-w(1-g32|3-g32|5-g\d+|[68]-g128)-\w+|(mx|nv)fp[48].*)\.\w+")
# Those of compressed-tensors that need a config.
CT_STATED = re.compile(
    r"(int8|w8)-blocks.*|(int8|w4)-row-blocks|w3-(padded-)?asym|w[57]-padded-asym|w7-padded"
)
ROUNDINGS = ("exact", "reference")
FP8 = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz}


def entries(path: Path) -> dict[str, Entry]:
    """The raw tensors of a safetensors file, any dtype."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: (e["dtype"], tuple(e["shape"]), data[start + begin : start + end])
        for name, e in header.items()
        for begin, end in [e["data_offsets"]]
    }


Model = tuple[dict[str, Entry], dict[str, dict[str, Any]]]


def golden() -> Model:
    """Stored tensors, and by rounding the BF16 bits that come out."""
    stored: dict[str, Entry] = {}
    expected: dict[str, dict[str, Any]] = {rounding: {} for rounding in ROUNDINGS}
    for kind in ("e4m3", "e5m2"):
        folder = DATA / "layouts" / "fp8" / f"granularities-{kind}"
        parts = entries(folder / "model.safetensors")
        stored |= {f"{kind}.{name}": entry for name, entry in parts.items()}
        for name, bits in load_file(folder / "expected.safetensors").items():
            expected["exact"][f"{kind}.{name}"] = expected["reference"][f"{kind}.{name}"] = bits
    stored |= entries(DATA / "bnb" / "cases.safetensors")
    for name, values in load_file(DATA / "bnb" / "expected.safetensors").items():
        weight, _, dtype = name.rpartition(".")
        if dtype == "float32":
            expected["exact"][weight] = bf16(values)
            expected["reference"].setdefault(weight, bf16(values))
        else:  # the dtype of the quant state, through which the library goes
            expected["reference"][weight] = values if dtype == "bfloat16" else bf16(values)
    for prefix, pattern in (("gptq/", GOLDEN), ("mlx/mlx-", MLX)):
        golden = entries(DATA / f"{prefix}cases.safetensors")
        golden = {name: entry for name, entry in golden.items() if pattern.fullmatch(name)}
        stored |= golden
        values = load_file(DATA / f"{prefix}expected.safetensors")
        for name in {name.rpartition(".")[0] for name in golden}:
            for rounding in ROUNDINGS:
                bits = values.get(f"{name}.{rounding}", values[f"{name}.exact"])
                expected[rounding][f"{name}.weight"] = bits
    packed = entries(DATA / "ct" / "cases.safetensors")
    values = load_file(DATA / "ct" / "expected.safetensors")
    for name in {name.partition(".")[0] for name in packed}:
        if not CT_STATED.fullmatch(name):
            stored |= {f"ct.{k}": e for k, e in packed.items() if k.startswith(f"{name}.")}
            exact = values[f"{name}.exact"]
            expected["exact"][f"ct.{name}.weight"] = exact
            native = values.get(f"{name}.native")  # binary16
            reference = exact if native is None else bf16(native)
            expected["reference"][f"ct.{name}.weight"] = reference
    stored |= {f"fp4.{n}": e for n, e in entries(DATA / "fp4" / "cases.safetensors").items()}
    for name, bits in load_file(DATA / "fp4" / "expected.safetensors").items():
        weight = f"fp4.{name.removesuffix('.reference')}"
        if weight == f"fp4.{name}":
            expected["exact"][weight] = bits
            expected["reference"].setdefault(weight, bits)
        else:
            expected["reference"][weight] = bits
    stored |= {f"hqq.{n}": e for n, e in entries(DATA / "hqq" / "cases.safetensors").items()}
    with np.load(DATA / "hqq" / "expected.npz") as file:
        for name, numbers in file.items():
            layer, _, rounding = name.rpartition(".")
            if layer != "old" and not layer.startswith("coded-"):  # these are in pickles
                expected[rounding][f"hqq.{layer}.weight"] = bf16(numbers)
    quanto = entries(DATA / "quanto" / "cases.safetensors")
    stored |= {f"quanto.{name}": entry for name, entry in quanto.items()}
    for name, (_, shape, _) in quanto.items():
        if name.endswith(".bias"):  # as long as there are outputs; what it holds is another matter
            zeros = np.zeros(shape, np.uint16)
            stored[f"quanto.{name}"] = ("BF16", shape, zeros.tobytes())
            expected["exact"][f"quanto.{name}"] = expected["reference"][f"quanto.{name}"] = zeros
    with np.load(DATA / "quanto" / "expected.npz") as file:
        for name, numbers in file.items():
            layer, _, rounding = name.rpartition(".")
            expected[rounding][f"quanto.{layer}.weight"] = bf16(numbers)
    return stored, expected


def larger() -> Model:
    """Tensors of some hundred windows, packed from numbers that are known."""
    rng = np.random.default_rng(3)
    stored: dict[str, Entry] = {}
    expected: dict[str, dict[str, Any]] = {rounding: {} for rounding in ROUNDINGS}

    def fp8(name: str, kind: str, codes: Any, scale: Any, each: Any, suffix: str) -> None:
        stored[f"{name}.weight"] = (kind, codes.shape, codes.tobytes())
        exponents = scale.dtype == np.uint8
        stored[name + suffix] = ("U8" if exponents else "F32", scale.shape, scale.tobytes())
        numbers = codes.view(FP8[kind])
        for rounding in ROUNDINGS:
            expected[rounding][f"{name}.weight"] = bf16(numbers.astype(np.float32) * each)

    codes = rng.integers(0, 128, (700, 1000), np.uint8)
    grid = rng.random((6, 8), np.float32)
    each = np.repeat(np.repeat(grid, 128, 0), 128, 1)[:700, :1000]
    fp8("big.block", "F8_E4M3", codes, grid, each, ".weight_scale_inv")
    rows = rng.random((700, 1), np.float32)
    fp8("big.channel", "F8_E5M2FNUZ", codes, rows, rows, ".weight_scale")
    powers = rng.integers(110, 130, (700, 32), np.uint8)
    each = np.repeat(np.ldexp(1.0, powers.astype(int) - 127), 32, 1)[:, :1000].astype(np.float32)
    fp8("big.mx", "F8_E4M3", codes, powers, each, ".weight_scale")

    for name, order, dtype in (
        ("gptq", False, "F16"),
        ("act", True, "F16"),
        ("bf16", True, "BF16"),
    ):
        inputs, outputs, size = 512, 768, 64
        codes, zeros = rng.integers(0, 16, (inputs, outputs)), rng.integers(0, 16, (8, outputs))
        kind = np.float16 if dtype == "F16" else ml_dtypes.bfloat16
        scales = (rng.standard_normal((8, outputs)) * 0.01).astype(kind)
        index = np.arange(inputs) // size
        if order:
            index = rng.permutation(index)
        module = f"big.{name}"
        down = nibbles(codes.reshape(-1, 8, outputs).transpose(0, 2, 1))
        across = nibbles((zeros - 1 & 15).reshape(8, -1, 8))
        stored[f"{module}.qweight"] = ("I32", down.shape, down.tobytes())
        stored[f"{module}.qzeros"] = ("I32", across.shape, across.tobytes())
        stored[f"{module}.scales"] = (dtype, scales.shape, scales.tobytes())
        stored[f"{module}.g_idx"] = ("I32", (inputs,), index.astype("<i4").tobytes())
        whole = (codes - zeros[index]).T.astype(np.float32)
        exact = bf16(whole * scales[index].T.astype(np.float32))
        expected["exact"][f"{module}.weight"] = exact
        half = bf16(whole.astype(np.float16) * scales[index].T) if dtype == "F16" else exact
        expected["reference"][f"{module}.weight"] = half
    norm = rng.standard_normal(1001).astype(np.float32)
    stored["final_norm.weight"] = ("F32", norm.shape, norm.tobytes())
    return stored, expected


def nibbles(codes: Any) -> Any:
    """Words of eight codes along the last axis, the first in the lowest bits."""
    return (codes.astype(np.uint32) << np.arange(0, 32, 4, dtype=np.uint32)).sum(
        -1, dtype=np.uint32
    )


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, Any]]:
    parts = golden()[1], larger()[1]
    return {rounding: parts[0][rounding] | parts[1][rounding] for rounding in ROUNDINGS}


@pytest.fixture
def mixed(tmp_path: Path, write_safetensors: Write) -> Path:
    stored = golden()[0] | larger()[0]
    return write_safetensors(tmp_path / "mixed.safetensors", stored)


@pytest.fixture
def every_type(tmp_path: Path) -> Path:
    """Random blocks of every type that gguf-py can write, and NVFP4's scale."""
    rng = np.random.default_rng(4)
    path = tmp_path / "every.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    known = {kind.value: kind for kind in gguf.GGMLQuantizationType}
    for name, row in ENCODINGS.items():
        if row.ggml_type in known:
            kind = known[row.ggml_type]
            blocks = rng.integers(0, 256, (6, 4 * row.block_bytes), np.uint8)
            writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
    writer.add_tensor("gguf-nvfp4.scale", np.array([0.3], np.float32))
    writer.add_tensor("norm.weight", rng.standard_normal(77).astype(np.float32))
    finish(writer)
    return path


def small(monkeypatch: pytest.MonkeyPatch, window: int, task: int, strip: int) -> None:
    monkeypatch.setattr(planning, "WINDOW_BYTES", window)
    monkeypatch.setattr(planning, "TASK_BYTES", task)
    monkeypatch.setattr(planning, "READ_AHEAD_BYTES", strip)


def recovered(source: Path, out: Path, executor: str = "serial", **settings: Any) -> bytes:
    threads = 1 if executor == "serial" else 2
    anamnesis.remember(source, out, executor=executor, threads=threads, overwrite=True, **settings)
    return out.read_bytes()


def read(path: Path) -> dict[str, Any]:
    """BF16 bits by name, flat: of every tensor but dense ones that kept another dtype."""
    if path.suffix == ".safetensors":
        return {
            name: np.frombuffer(data, np.uint16)
            for name, (dtype, _, data) in entries(path).items()
            if dtype == "BF16"
        }
    found: dict[str, list[Any]] = {}
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            name = batch.column("tensor")[0].as_py()
            one = "values" in batch.schema.names
            column = batch.column("values" if one else "values_bf16")
            if column.null_count == 0:
                bits = np.frombuffer(column.values.buffers()[1], np.uint16)
                found.setdefault(name, []).append(bits)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def same(found: Any, wanted: Any, name: str) -> None:
    """Bit for bit; NaNs have to be NaNs."""
    wanted = wanted.reshape(-1)
    nan = wanted & 0x7FFF > 0x7F80
    np.testing.assert_array_equal(found & 0x7FFF > 0x7F80, nan, name)
    np.testing.assert_array_equal(found[~nan], wanted[~nan], name)


def test_the_mixture_has_every_scheme(mixed: Path, every_type: Path) -> None:
    schemes = {
        t.scheme for path in (mixed, every_type) for t in anamnesis.open_model(path).model.tensors
    }
    of_blocks = {name for name, row in ENCODINGS.items() if row.ggml_type >= 0}
    forks = {name for name in of_blocks if ENCODINGS[name].target.startswith("gguf_ik")}
    assert of_blocks - schemes == {"gguf-q2-0"} | forks  # not in gguf-py 0.19
    assert schemes - of_blocks == {
        "hqq", "quanto",
        "ct-int-quantized", "ct-pack-quantized",
        "awq", "bnb-fp4", "bnb-int8", "bnb-nf4", "fp8-block", "fp8-channel", "fp8-tensor", "gptq",
        "mlx-affine", "mlx-mxfp4", "mlx-mxfp8", "mlx-nvfp4", "mxfp4", "mxfp6", "mxfp8",
        "nvfp4", "passthrough",
    }  # fmt: skip


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("to", ["safetensors", "arrow"])
def test_every_executor_and_sink(
    mixed: Path,
    expected: dict[str, dict[str, Any]],
    to: str,
    rounding: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small(monkeypatch, 60_000, 300_000, 100_000)
    written = set()
    for executor in EXECUTORS:
        if executor != "distributed" or rounding == "exact":
            out = tmp_path / f"{executor}.{to}"
            written.add(recovered(mixed, out, executor, to=to, rounding=rounding))
            count = len(expected[rounding]) + 4  # three norms and a bias
            assert anamnesis.verify(out)["tensors"] == count
    assert len(written) == 1
    found = read(out)
    assert set(found) >= set(expected[rounding])
    for name, wanted in expected[rounding].items():
        same(found[name], wanted, name)


def test_tensors_by_themselves(mixed: Path, expected: dict[str, dict[str, Any]]) -> None:
    for rounding in ROUNDINGS:
        model = anamnesis.open_model(mixed, rounding=rounding)
        for name, wanted in expected[rounding].items():
            array = model[name].to_numpy()
            assert array.shape == wanted.shape
            same(array.view(np.uint16).reshape(-1), wanted, name)


def test_reference_moves_what_the_libraries_round_twice(
    expected: dict[str, dict[str, Any]],
) -> None:
    """The share of BF16 values that a stop at float16 moves, in a large layer of random codes."""
    for name in ("big.gptq.weight", "big.act.weight"):
        share = np.mean(expected["exact"][name] != expected["reference"][name])
        assert share == pytest.approx(0.03, abs=0.01)
    for name in ("big.bf16.weight", "big.block.weight", "nf4.bfloat16.weight"):
        np.testing.assert_array_equal(expected["exact"][name], expected["reference"][name])
    assert (
        expected["exact"]["nf4.float16.weight"] != expected["reference"]["nf4.float16.weight"]
    ).any()


@pytest.mark.parametrize(
    ("window", "task", "strip"),
    [(1, 1 << 26, 1), (5_000, 20_000, 7_000), (3_000, 100, 1 << 23), (1 << 16, 1 << 17, 1 << 15)],
)
@pytest.mark.parametrize("kind", ["mixed", "every_type"])
def test_sizes_of_windows_tasks_and_strips_do_not_matter(
    kind: str,
    window: int,
    task: int,
    strip: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    source = request.getfixturevalue(kind)
    whole = recovered(source, tmp_path / "whole.safetensors")
    small(monkeypatch, window, task, strip)
    assert recovered(source, tmp_path / "cut.safetensors", "threads") == whole


@pytest.mark.parametrize("to", ["safetensors", "arrow"])
def test_every_ggml_type(
    every_type: Path, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, 2_000, 10_000, 1 << 23)
    written = {
        recovered(every_type, tmp_path / f"{executor}.{to}", executor, to=to, rounding=rounding)
        for executor, rounding in (("serial", "exact"), ("threads", "reference"))
    }
    assert len(written) == 1
    found = read(tmp_path / f"serial.{to}")
    checked = 0
    for tensor in gguf.GGUFReader(every_type).tensors:
        if tensor.name not in found or tensor.name == "norm.weight":
            continue
        try:
            with np.errstate(all="ignore"):
                values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            assert tensor.name == "gguf-q1-0.weight"
            continue
        if tensor.name == "gguf-nvfp4.weight":  # gguf-py leaves it out
            values = values * np.float32(0.3)
        same(found[tensor.name], bf16(values), tensor.name)
        checked += 1
    assert checked >= 22


@pytest.mark.parametrize("executor", sorted(EXECUTORS))
def test_real_blocks_of_every_family(executor: str, tmp_path: Path) -> None:
    folder = DATA / "layouts" / "gguf" / "every-family"
    recovered(folder / "model.gguf", tmp_path / "out.safetensors", executor)
    found = read(tmp_path / "out.safetensors")
    for name, wanted in load_file(folder / "expected.safetensors").items():
        same(found[name], wanted, name)
