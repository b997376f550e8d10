"""docs/analytics.md shows real output, and its eight answers are numpy's too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import anamnesis

for _package in ("duckdb", "gguf", "pandas", "polars", "safetensors"):
    pytest.importorskip(_package)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "analytics.md"

Blocks = Callable[[Path], list[tuple[str, str]]]


@dataclass(frozen=True)
class Run:
    """The page's blocks, what each printed, and the folder with what they wrote."""

    blocks: list[tuple[str, str]]
    printed: list[str | None]
    folder: Path

    def of(self, words: str) -> str:
        """What the one Python block with these words printed."""
        (number,) = [
            i for i, (kind, t) in enumerate(self.blocks) if kind == "python" and words in t
        ]
        return self.printed[number] or ""


@pytest.fixture(scope="module")
def ran(checkout: Path, page_blocks: Blocks) -> Run:
    command = [sys.executable, str(PAGE.parents[1] / "tests" / "run_page.py"), str(PAGE)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Run(page_blocks(PAGE), json.loads(done.stdout), checkout)


@pytest.fixture(scope="module")
def values(sample: Path) -> dict[str, Any]:
    """ggml's own decoding, by the gguf package, rounded as the page's recovered values are."""
    import gguf

    found = {}
    for t in gguf.GGUFReader(sample).tensors:
        found[t.name] = gguf.dequantize(t.data, t.tensor_type)
        if t.tensor_type != gguf.GGMLQuantizationType.F32:
            found[t.name] = found[t.name].astype(ml_dtypes.bfloat16).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def raw(sample: Path) -> dict[str, Any]:
    """The blocks of quantised tensors as bytes `[rows, blocks, block bytes]`."""
    import gguf

    quantised = {"Q4_1": 20, "Q8_0": 34}
    return {
        t.name: np.array(t.data).reshape(len(t.data), -1, quantised[t.tensor_type.name])
        for t in gguf.GGUFReader(sample).tensors
        if t.tensor_type.name in quantised
    }


def halves(blocks: Any, offset: int) -> Any:
    part = np.ascontiguousarray(blocks[..., offset : offset + 2])
    return part.view("<f2")[..., 0].astype(np.float32)


def table(text: str) -> list[list[str]]:
    """The cells of a printed table, without its head."""
    lines = [line.replace("|", " ").split() for line in text.splitlines()]
    return [cells for cells in lines if cells and not cells[0].startswith("---")][1:]


def test_blocks_print_what_the_page_shows(ran: Run, as_shown: Callable[[str], list[str]]) -> None:
    compared = 0
    for i, (kind, text) in enumerate(ran.blocks):
        output = ran.printed[i - 1] if kind == "text" else ran.printed[i]
        if kind in ("text", "console") and output is not None:
            assert as_shown(output) == as_shown(text)
            compared += 1
    assert compared >= 16
    for engine in ("duckdb.sql(", "pl.from_arrow(", ".to_pandas()", "pa.ipc.open_file("):
        assert sum(engine in text for kind, text in ran.blocks if kind == "python"), engine
    assert len(re.findall(r"^### \d\. .*\?", PAGE.read_text(), re.MULTILINE)) == 8


def test_outlier_scales(ran: Run, raw: dict[str, Any]) -> None:
    found = {}
    for line in table(ran.of("arg_max")):
        module, usual, largest, times, row, col = line[-6:]
        (name,) = [n for n in raw if n.endswith(f"{module}.weight")]
        found[name] = float(times)
        scales = halves(raw[name], 0)
        assert float(usual) == pytest.approx(np.median(scales), abs=6e-5)
        assert float(largest) == pytest.approx(scales.max(), abs=6e-4)
        assert float(times) == pytest.approx(scales.max() / np.median(scales), abs=0.06)
        assert scales[int(row), int(col) // 32] == scales.max()
    assert found.keys() == raw.keys()
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_dead_and_weak_rows(ran: Run, values: dict[str, Any]) -> None:
    dead, weak = ran.of("norms.filter(norm=0)").split("\n| tensor", 2)[0:2]
    assert re.findall(r"(ffn_\w+)\S+ *\| (\[.*?\])", dead) == [
        ("ffn_gate", "[173, 1270, 1524]"),
        ("ffn_up", "[173, 1270, 1524]"),
    ]
    ratios = []
    for name, v in values.items():
        if name.startswith("blk.") and v.ndim == 2:
            norms = np.linalg.norm(v, axis=1)
            if "gate" in name or "up" in name:
                norms[[173, 1270, 1524]] = 0
            ratio = norms / np.median(norms)
            ratios += [(x, name, i) for i, x in enumerate(ratio.tolist()) if x]
    expected = [[name, str(i), f"{x:.2f}".rstrip("0")] for x, name, i in sorted(ratios)[:3]]
    assert table("| tensor" + weak) == expected


def test_zero_codes(ran: Run, values: dict[str, Any]) -> None:
    for layer, start in (("layer 0", "blk."), ("embedding", "token_embd")):
        codes = [
            (v / (np.abs(v).max() / 448)).astype(ml_dtypes.float8_e4m3fn).view(np.uint8) & 0x7F
            for name, v in values.items()
            if name.startswith(start) and v.ndim == 2
        ]
        every = np.concatenate([c.ravel() for c in codes])
        zero, small = np.mean(every == 0), np.mean((every > 0) & (every < 8))
        expected = f"{layer:9} {zero:.3%} zero, {small:.3%} subnormal of {len(every):,}"
        assert expected in ran.of("subnormal").splitlines()
        before = sum(np.sum(v == 0) for n, v in values.items() if n.startswith(start))
        assert before == np.sum(every == 0)  # as the page says: the cast added none


def test_exponents(ran: Run, values: dict[str, Any]) -> None:
    every = np.concatenate([v.ravel() for v in values.values()]).astype(ml_dtypes.bfloat16)
    bits = every.view(np.uint16)[every != 0]
    exponents, counts = np.unique((bits >> 7 & 255).astype(int) - 127, return_counts=True)
    found = {int(line[0]): int(line[1]) for line in table(ran.of("repeat('#'"))}
    expected = dict(zip(exponents.tolist(), counts.tolist(), strict=True))
    assert found == {e: n for e, n in expected.items() if n > 10_000}
    share = counts / counts.sum()
    assert np.sort(share)[-6:].sum() > 0.9
    assert -np.sum(share * np.log2(share)) < 3


def test_what_quantisers_lost(ran: Run, values: dict[str, Any]) -> None:
    import gguf

    q4_0 = gguf.GGMLQuantizationType.Q4_0
    expected = []
    for v in values.values():
        if v.ndim == 2:
            scale = np.abs(v).max() / 448
            fp8 = (v / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
            again = gguf.dequantize(gguf.quantize(v, q4_0), q4_0)
            rounded = (x.astype(ml_dtypes.bfloat16).astype(np.float64) for x in (fp8, again))
            expected.append([10 * np.log10(np.sum(v**2.0) / np.sum((x - v) ** 2)) for x in rounded])
    expected.sort(key=lambda pair: pair[1])
    found = [[float(cell) for cell in line[1:]] for line in table(ran.of("pivot_table"))[1:]]
    assert np.array(found) == pytest.approx(np.array(expected), abs=0.1)


def test_bits(ran: Run, values: dict[str, Any], raw: dict[str, Any]) -> None:
    lines = ran.of("bits of entropy").splitlines()
    assert [line.split()[1::2] for line in lines[2:5]] == [
        [
            "gguf-q4-1",
            str(sum(v.size for n, v in values.items() if "blk" in n and v.ndim == 2)),
            "5.0",
        ],
        ["gguf-q8-0", str(values["token_embd.weight"].size), "8.5"],
        ["passthrough", "1728", "32.0"],
    ]
    for size, scheme in ((20, "gguf-q4-1"), (34, "gguf-q8-0")):
        blocks = np.concatenate([b.reshape(-1, size) for b in raw.values() if b.shape[2] == size])
        codes = blocks[:, 2:] if size == 34 else np.stack([blocks[:, 4:] % 16, blocks[:, 4:] // 16])
        counts = np.unique(codes, return_counts=True)[1]
        entropy = np.sum(counts * np.log2(counts.sum() / counts)) / counts.sum()
        assert f"{scheme}: {entropy:.2f} bits of entropy in a code" in lines


def test_lopsided_blocks(ran: Run, raw: dict[str, Any]) -> None:
    found = {line[0]: [float(x) for x in line[1:]] for line in table(ran.of("lopsided"))[1:]}
    assert found.keys() == {name for name in raw if name.startswith("blk.")}
    for name, figures in found.items():
        scale, minimum = (halves(raw[name], at).astype(np.float64).ravel() for at in (0, 2))
        middle = (minimum + 7.5 * scale) / scale
        expected = [middle.mean(), middle.std(ddof=1), np.mean(np.abs(middle) > 2)]
        assert figures == pytest.approx(expected, abs=6e-4)


def test_same_tensors(ran: Run, sample: Path) -> None:
    import xxhash

    lines = ran.of("twins").splitlines()
    tensors = anamnesis.open_model(sample)
    found = {line.split()[0]: line.split()[2:] for line in lines[1:-1]}
    assert [same for same, *_ in found.values()] == ["False", "False", "True", "True"]
    for name, (same, original, candidate) in found.items():
        assert original == xxhash.xxh3_128_hexdigest(tensors[name].to_numpy().tobytes())[:8]
        assert (same == "True") == (original == candidate)
    assert lines[-1] == "9 of 11 hold the same values"


def test_loud_rows(ran: Run, values: dict[str, Any]) -> None:
    """Of the Arrow output."""
    for name, row, norm, of_median in table(ran.of("maintain_order").partition("\n| tensor")[2]):
        norms = np.linalg.norm(values[name].astype(np.float64), axis=1)
        assert float(norm) == pytest.approx(norms[int(row)], abs=0.006)
        assert float(of_median) == pytest.approx(norms[int(row)] / np.median(norms), abs=0.011)
        assert np.sum(norms > norms[int(row)]) < 3
