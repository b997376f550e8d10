"""The other files of a model folder: what goes along with the weights, and what must not.

A recovered model whose `config.json` still speaks of quantisation is loaded wrongly, or not at
all (huggingface/transformers#34847, ml-explore/mlx-lm#223). So every quantisation block is cut out
of it, its dtype keys are set, quantisation sidecars stay behind, and everything else is copied.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anamnesis.limits import Limits, MiB
from anamnesis.readers.folder import check_inside
from anamnesis.readers.source import LocalFile
from anamnesis.readers.strict_json import loads
from anamnesis.writers.part import write_small

# Copied files are small; weights of another format that lie beside are not companions.
MAX_BYTES = 256 * MiB
_QUANTISATION = ("quantization_config", "quantization", "compression_config")
_SIDECARS = frozenset(
    [
        "quantize_config.json",
        "quant_config.json",
        "hf_quant_config.json",
        "quanto_qmap.json",
        "quantization_map.json",
        "quantization_config.json",
        "recipe.yaml",
    ]
)
_WEIGHTS = frozenset(
    ".safetensors .gguf .bin .pt .pth .ckpt .npz .npy .h5 .msgpack .onnx .arrow .part "
    ".imatrix .index".split()
)
_DTYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}


def companions(source: Path) -> Iterator[Path]:
    """Files of a model folder that belong to the recovered model, `config.json` included.

    Raises SecurityError for one that is a link out of the folder.
    """
    for entry in sorted(os.scandir(source), key=lambda e: e.name):
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name in _SIDECARS:
            continue
        if path.suffix in _WEIGHTS or entry.name.endswith(".index.json"):
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nothing
            continue
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            check_inside(str(source), entry.path)
            yield path


def copy_companions(source: Path, target: Path, dtype: str) -> list[str]:
    """Copy what goes along into `target`; the names. `config.json` is cleaned on the way."""
    copied = []
    for path in companions(source):
        with LocalFile(path) as file:
            data = file.read(0, file.size)
        if path.name == "config.json":
            config = loads(data, str(path), Limits())
            if isinstance(config, dict):
                text = json.dumps(clean_config(config, dtype), indent=2, ensure_ascii=False)
                data = text.encode() + b"\n"
        write_small(target / path.name, data)
        copied.append(path.name)
    return copied


def clean_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A model's config without quantisation blocks, at any depth, and with its dtype set.

    Both spellings of the key are set at the top (`torch_dtype`, and `dtype` of transformers 5);
    in nested configs only those that were there.
    """
    name = _DTYPES[dtype]
    cleaned = _strip(config, name)
    return {**cleaned, "torch_dtype": name, "dtype": name}


def _strip(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_strip(item, name) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {k: _strip(v, name) for k, v in value.items() if k not in _QUANTISATION}
    for key in ("torch_dtype", "dtype"):
        if isinstance(kept.get(key), str):
            kept[key] = name
    return kept
