"""docs/encoding.md has the code's own table; run this file to mend it, with what targets lose."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.kernels.encoders import ENCODERS, Key
from anamnesis.pipeline.importance import needs_weights

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "encoding.md"
BEGIN, END = "<!-- targets -->\n", "<!-- end -->"
NAME = "model.layers.0.mlp.up_proj.weight"
LOADERS = {
    "awq": "transformers, vLLM",
    "bnb": "transformers",
    "ct": "transformers, vLLM",
    "fp8": "transformers, vLLM",
    "gguf": "llama.cpp",
    "gptq": "transformers, vLLM",
    "mlx": "mlx-lm",
    "mxfp4": "transformers, vLLM",
    "mxfp8": "transformers, vLLM",
    "nvfp4": "transformers, vLLM",
    "quanto": "optimum-quanto",
}


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _key(name: str, key: Key) -> str:
    others = [_shown(value) for value in key.allowed if value != key.default]
    return f"`{name}={_shown(key.default)}`" + (f" ({', '.join(others)})" if others else "")


def _lossy(target: str) -> bool:
    """Whether its loss is shown: without an importance matrix some targets say nothing."""
    return not needs_weights(target, NAME, "")


def sqnr(target: str, folder: Path) -> str:
    """In dB, of 256 x 1024 normal numbers in BF16 under the settings that nobody changed."""
    numbers = np.random.default_rng(0).standard_normal((256, 1024)).astype(ml_dtypes.bfloat16)
    save_file({NAME: numbers}, folder / "model.safetensors")
    to = "gguf" if target.startswith("gguf-") else "safetensors"
    settings = {"names": "stored"} if to == "gguf" else {}
    rules = [{"tensors": "*", "as": target}]
    done = anamnesis.convert(
        folder / "model.safetensors", folder / target, to=to, encode=rules, **settings
    )
    (row,) = done.loss
    return f"{row.sqnr_db:.1f}"


def measured() -> dict[str, str]:
    """What every target loses, by converting."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: sqnr(name, Path(folder)) for name in ENCODERS if _lossy(name)}


def printed() -> dict[str, str]:
    """What the page says that every target loses."""
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d.]*) \| [\d.]* \|$", PAGE.read_text(), re.M)
    return dict(rows)


def table(losses: dict[str, str]) -> str:
    """A row a target: settings with their defaults, reader, loaders, loss and published speed."""
    cases = json.loads((DOCS / "performance.json").read_text())["encoders"]["results"]["cases"]
    speeds = {
        case["name"]: f"{case['matrix']['to_copy']:.2f}" for case in cases if "matrix" in case
    }
    lines = [
        "| target | settings (others allowed) | read back as | loaded by | SQNR, dB | × copy |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in ENCODERS.items():
        keys = "; ".join(_key(key, value) for key, value in row.keys.items())
        by = LOADERS[name.partition("-")[0]]
        loss, speed = losses.get(name, ""), speeds.get(name, "")
        lines.append(f"| `{name}` | {keys} | `{row.reads_back}` | {by} | {loss} | {speed} |")
    return "\n".join(lines) + "\n"


def rewritten(losses: dict[str, str]) -> str:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + table(losses) + END + rest.partition(END)[2]


def test_the_table_of_targets_is_the_codes_own() -> None:
    found = printed()
    assert PAGE.read_text() == rewritten(found)
    assert all(bool(found[name]) == _lossy(name) for name in ENCODERS)


@pytest.mark.parametrize("target", ["fp8-channel", "gguf-q8-0"])
def test_what_a_target_loses_is_true(target: str, tmp_path: Path) -> None:
    assert printed()[target] == sqnr(target, tmp_path)


if __name__ == "__main__":
    PAGE.write_text(rewritten(measured()))
