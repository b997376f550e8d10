"""Importance matrices as llama-imatrix writes them, in both of its formats."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
from gguf_files import finish


def write_imatrix(path: Path, sums: dict[str, np.ndarray], calls: int = 4) -> Path:
    """In the first format; `.gguf` in the other."""
    if path.suffix != ".gguf":
        data = struct.pack("<i", len(sums))
        for name, values in sums.items():
            data += struct.pack("<i", len(name)) + name.encode()
            data += struct.pack("<ii", calls, values.size) + values.astype("<f4").tobytes()
        path.write_bytes(data + struct.pack("<ii", 11, 5) + b"w.txt")
        return path
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["w.txt"])
    writer.add_uint32("imatrix.chunk_count", 11)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in sums.items():
        values = values.reshape(-1, values.shape[-1]).astype(np.float32)
        writer.add_tensor(f"{name}.in_sum2", values)
        writer.add_tensor(f"{name}.counts", np.full((len(values), 1), calls, np.float32))
    finish(writer)
    return path
