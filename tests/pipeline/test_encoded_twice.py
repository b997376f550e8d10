"""What was recovered of an encoded matrix is encoded as the same numbers again."""

from __future__ import annotations

from pathlib import Path

import encode_cases as ours
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis

NAME = "model.layers.0.mlp.up_proj.weight"
# All but integers, whose scale is that of the greatest number, which need not be one of theirs.
CLOSED = (
    *("bnb-fp4", "bnb-int8", "bnb-nf4", "fp8-block", "fp8-block:style=transformers"),
    *("fp8-channel", "fp8-tensor", "mlx-mxfp4", "mlx-mxfp8", "mlx-nvfp4", "mxfp4", "mxfp8"),
    *("nvfp4", "nvfp4:style=modelopt", "quanto:type=qfloat8"),
)


@pytest.mark.parametrize("encode", CLOSED)
def test_recovered_numbers_stay(tmp_path: Path, encode: str) -> None:
    """-0 may become 0, as in the libraries."""
    source, out = tmp_path / "in.safetensors", tmp_path / "out"
    values = ours.matrix("plain", 128, 256, seed=5).astype(ml_dtypes.bfloat16)
    found = [values]
    for number in range(2):
        save_file({NAME: found[-1]}, source, metadata={"format": "pt"})
        anamnesis.convert(source, out / str(number), to="safetensors", encode=encode)
        found.append(anamnesis.open_model(out / str(number))[NAME].to_numpy())
    first, second = (array.astype(np.float32) for array in found[1:])
    assert np.array_equal(first, second)
    assert not np.array_equal(first, values.astype(np.float32))
