"""What is fuzzed of a model folder's JSON and of this program's own records.

The files beside which they lie are the same each time: what an index and a configuration speak of,
and the output that a manifest and a journal describe. Digests that a line or a document carries of
itself are made right again, as whoever wrote the rest could do.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from anamnesis.limits import Limits
from anamnesis.pipeline.companions import copy_companions
from anamnesis.pipeline.journal import Journal, Recipe, _digest, verify_output
from anamnesis.readers.model import load_model

LIMITS = Limits(max_single_alloc=64 << 20, max_total_bytes=1 << 16, max_items=10_000)
Guard = Callable[[str], AbstractContextManager[None]]
ZERO = "0" * 32
OUT = "v.safetensors"


def tensors(**entries: tuple[str, list[int], int]) -> bytes:
    """A safetensors file of zeros: dtype, shape and bytes by name, `/` in names being `.`."""
    header, at = {}, 0
    for name, (dtype, shape, nbytes) in entries.items():
        where = [at, at + nbytes]
        header[name.replace("/", ".")] = {"dtype": dtype, "shape": shape, "data_offsets": where}
        at += nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def _folder(root: Path, name: str) -> Path:
    """A folder with two shards of layers that configurations may speak of."""
    folder = root / name
    if not folder.is_dir():
        folder.mkdir()
        gptq = {
            "a/qweight": ("I32", [4, 8], 128),
            "a/qzeros": ("I32", [1, 1], 4),
            "a/scales": ("F16", [1, 8], 16),
            "a/g_idx": ("I32", [32], 128),
        }
        fp8 = {"b/weight": ("F8_E4M3", [4, 8], 32), "b/weight_scale": ("F32", [4, 1], 16)}
        (folder / "m-1.safetensors").write_bytes(tensors(**gptq))
        (folder / "m-2.safetensors").write_bytes(tensors(**fp8, **{"c/weight": ("F32", [2], 8)}))
    return folder


def check_index(guard: Guard, root: Path, data: bytes) -> None:
    """Open the folder by an index of its shards."""
    folder = _folder(root, "indexed")
    (folder / "model.safetensors.index.json").write_bytes(data)
    with guard(str(folder)):
        load_model(str(folder), limits=LIMITS)


def check_config(guard: Guard, root: Path, data: bytes) -> None:
    """Open the folder under a configuration, and clean that for an output."""
    folder, target = _folder(root, "configured"), root / "copied"
    target.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(data)
    with guard(str(folder)):
        load_model(str(folder), limits=LIMITS)
    with guard(str(folder)):
        copy_companions(str(folder), target, "bf16", lambda note: None)
    for name in os.listdir(target):
        (target / name).unlink()


def check_manifest(guard: Guard, root: Path, data: bytes) -> None:
    """Verify an output by a manifest whose checksum is right."""
    out = root / OUT
    if not out.exists():
        out.write_bytes(tensors(a=("F32", [2, 2], 16), b=("BF16", [3], 6)))
    document = _parsed(data)
    if isinstance(document, dict):
        document.pop("xxh3", None)
        data = json.dumps({**document, "xxh3": _digest(document)}).encode()
    (root / f"{OUT}.anamnesis.json").write_bytes(data)
    with guard(str(out)):
        verify_output(out, 512 << 20)


def check_journal(guard: Guard, root: Path, data: bytes) -> None:
    """Read a journal; what are JSON values in the data are its entries, with right digests."""
    lines = []
    for line in data.split(b"\n"):
        entry = _parsed(line)
        right = json.dumps([_digest(entry), entry]).encode()
        lines.append(line if entry is None else right)
    (root / ".v.anamnesis.journal").write_bytes(b"\n".join(lines) + b"\n")
    journal = Journal(root / "v", Recipe(ZERO, ZERO))
    with guard(str(journal.path)):
        for entry in journal.entries():
            assert isinstance(entry.name, str)


def _parsed(data: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(data)
    return None


def index_seeds() -> dict[str, bytes]:
    places = {"a.qweight": 1, "a.qzeros": 1, "a.scales": 1, "a.g_idx": 1}
    places |= {"b.weight": 2, "b.weight_scale": 2, "c.weight": 2}
    weight_map = {name: f"m-{number}.safetensors" for name, number in places.items()}
    return {
        "whole": json.dumps({"metadata": {"total_size": 332}, "weight_map": weight_map}).encode(),
        "one": json.dumps({"weight_map": {"c.weight": "m-2.safetensors"}}).encode(),
    }


def config_seeds() -> dict[str, bytes]:
    blocks: dict[str, Any] = {
        "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True},
        "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "ct": {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {
                "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}
            },
            "ignore": ["lm_head"],
        },
        "mlx": {"group_size": 64, "bits": 4, "model.layers.0": False},
        "invented": {"quant_method": "invented", "bits": 3},
    }
    seeds = {
        name: json.dumps({"torch_dtype": "float16", "quantization_config": block}).encode()
        for name, block in blocks.items()
    }
    nested = {"text_config": {"dtype": "float8", "quantization": blocks["mlx"]}, "x": [1, None]}
    return {**seeds, "nested": json.dumps(nested).encode()}


def manifest_seeds() -> dict[str, bytes]:
    nbytes = len(tensors(a=("F32", [2, 2], 16), b=("BF16", [3], 6)))
    document = {
        "anamnesis": 1,
        "format": "safetensors",
        "max_shard_bytes": 1000,
        "storage": {"compression": "none", "bf16": "extension", "stem": "model", "metadata": []},
        "inputs": [["in.safetensors", 100, 5]],
        "options": {"assume_unit_scale": False, "rounding": "exact"},
        "recipe": [ZERO, ZERO],
        "files": [[OUT, nbytes]],
        "items": [["a", [2, 2], "F32", 4, "x"], ["b", [3], "BF16", 3, "x"]],
        "pieces": [["a", 0, 2, ZERO], ["a", 2, 4, ZERO], ["b", 0, 3, ZERO]],
    }
    arrow = {**document, "format": "arrow", "storage": {"compression": "zstd"}}
    return {"plain": json.dumps(document).encode(), "arrow": json.dumps(arrow).encode()}


def journal_seeds() -> dict[str, bytes]:
    entry = [ZERO, "1" * 32, "model-00001-of-00002.safetensors", [["a", 0, 4, ZERO]]]
    other = [*entry[:2], "model-00002-of-00002.safetensors", [], "content"]
    return {
        "two": json.dumps(entry).encode() + b"\n" + json.dumps(other).encode(),
        "one": json.dumps(entry).encode(),
    }


SEEDS = {
    "config": config_seeds,
    "index": index_seeds,
    "journal": journal_seeds,
    "manifest": manifest_seeds,
}
CHECKS = {
    "config": check_config,
    "index": check_index,
    "journal": check_journal,
    "manifest": check_manifest,
}
