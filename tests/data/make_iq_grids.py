"""Write kernels/data/*.npy: the codebooks of ggml's IQ formats, from the gguf package.

Run it with the version of gguf that kernels/data/README.md names; the files it writes are the ones
in the repository. tests/kernels/test_iq_grids.py holds them against ggml's own decoder.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gguf import quants

FOLDER = Path(__file__).resolve().parents[2] / "kernels" / "data"
GRIDS = {
    "iq1s_grid": (quants.IQ1_S, np.int8),
    "iq2s_grid": (quants.IQ2_S, np.uint8),
    "iq2xs_grid": (quants.IQ2_XS, np.uint8),
    "iq2xxs_grid": (quants.IQ2_XXS, np.uint8),
    "iq3s_grid": (quants.IQ3_S, np.uint8),
    "iq3xxs_grid": (quants.IQ3_XXS, np.uint8),
}


def tables() -> dict[str, np.ndarray]:
    found = {}
    for name, (traits, dtype) in GRIDS.items():
        traits.init_grid()
        found[name] = traits.grid.reshape(traits.grid_shape).astype(dtype)
    found["ksigns_iq2xs"] = np.frombuffer(quants.IQ2_XXS.ksigns, np.uint8)
    return found


if __name__ == "__main__":
    print("gguf", version("gguf"), "numpy", np.__version__, file=sys.stderr)
    FOLDER.mkdir(exist_ok=True)
    for name, table in tables().items():
        np.save(FOLDER / f"{name}.npy", table, allow_pickle=False)
        print(f"{name}.npy", table.dtype, table.shape)
