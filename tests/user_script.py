"""A user's script that takes everything once: `make typecheck` reads it under mypy's strict rules.

python tests/user_script.py MODEL.gguf FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

import anamnesis
from anamnesis import Limits, errors


def progress(done: int, total: int) -> None:
    sys.stderr.write(f"{done}/{total}\n")


def main(path: Path, out: Path) -> int:
    report = anamnesis.inspect(path, limits=Limits(max_items=1000))
    names: list[str] = [entry["name"] for entry in report.entries]
    size: int = report.bf16_bytes
    for scheme, about in report.schemes.items():
        print(scheme, about.tensors, about.about)
    parsed: pa.Table = anamnesis.parse(path).to_arrow()
    with anamnesis.open_model(path, names="stored", rounding="exact") as model:
        first = model[names[0]]
        shape: tuple[int, ...] = first.shape
        rows = first[0:2, :]
        exact = first.astype("f32").to_numpy()
        other = first.astype(np.float16)[...]
        mean = float(np.asarray(first, dtype=np.float32).mean())
        batches: Iterator[pa.RecordBatch] = first.batches(max_bytes=1 << 20)
        raw = sum(batch.num_rows for batch in batches)
        for name, tensor in model.items():
            print(name, tensor.dtype, tensor.nbytes, len(tensor.shape))
        stream: pa.RecordBatchReader = model.scan("*attn*", decode="f32", memory="64MiB")
        print(rows.sum(), exact.dtype, other.dtype, mean, raw, stream.schema, shape, size)
    reader = anamnesis.scan(path, ["*norm*"], columns=["tensor", "payload"])
    print(reader.read_all().num_rows, parsed.num_rows)
    stats = anamnesis.stats(path, "*attn_k*", progress=progress)
    worst = max(stats.rows, key=lambda row: row.absmax or 0.0)
    print(worst.tensor, worst.absmax, stats["blk.0.attn_k.weight"].zeros, len(stats))
    stats.sort("absmax").write(out / "stats.csv", overwrite=True)
    found = anamnesis.diff(path, str(path), include=("*",), threads=1)
    for row in found:
        print(row.tensor, row.sqnr_db, row.identical)
    outcome = anamnesis.remember(path, out / "a.safetensors", dtype="f16", overwrite=True)
    files: tuple[str, ...] = outcome.files
    again = anamnesis.convert(path, out / "a.arrow", to="arrow", bf16="uint16", overwrite=True)
    (ran,) = anamnesis.run(
        {"inputs": [path], "output": {"path": out / "b"}}, set={"run.threads": 1}
    )
    counts = anamnesis.verify(out / "a.safetensors", against=path, sample=0.5)
    print(files, again.out_bytes, ran.seconds, counts["files"], outcome.notes)
    anamnesis.register_bfloat16()
    try:
        anamnesis.open_model(path)["no such tensor"]
        anamnesis.inspect("nowhere.gguf")
    except (KeyError, errors.FormatError, errors.LimitError, OSError) as error:
        print(type(error).__name__, error)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
