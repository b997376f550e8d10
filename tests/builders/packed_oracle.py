"""A layer that a library packed and read, against what this project makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

import anamnesis


def compare(case: Any, folder: Path) -> None:
    """Both roundings of a case of packed_libraries.py, through a file in `folder`."""
    from safetensors.torch import save_file

    (folder / "config.json").write_text(json.dumps({"quantization_config": case.config}))
    tensors = {f"layer.{part}": tensor.contiguous() for part, tensor in case.stored.items()}
    save_file(tensors, folder / "model.safetensors")
    wanted_by: dict[Literal["exact", "reference"], Any]
    wanted_by = {"exact": case.exact, "reference": case.reference}
    for rounding, wanted in wanted_by.items():
        out = folder / f"{rounding}.safetensors"
        anamnesis.remember(folder, out, rounding=rounding, threads=1, overwrite=True)
        found = anamnesis.open_model(out)["layer.weight"].to_numpy().view(np.uint16)
        np.testing.assert_array_equal(found, wanted.numpy())
