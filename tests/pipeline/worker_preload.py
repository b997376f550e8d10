"""Given to `dask worker --preload`: tensors whose names begin so are held up, or kill the worker.

The first worker that is given a tensor `held…` writes its process to a file of that name in the
folder HELD_FOLDER, and waits until there is `NAME.go` or `go` beside it. Whoever is given the
tensor again goes on at once. A worker that finds a file `refuse…` there takes one and does not
start.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

for _refusal in sorted(Path(os.environ["HELD_FOLDER"]).glob("refuse*")):
    _refusal.unlink()
    raise RuntimeError("this worker does not start")


def dask_setup(worker: Any) -> None:
    from anamnesis.pipeline import task

    run_piece = task._run_piece

    def with_accidents(piece: Any, *rest: Any) -> Any:
        name = piece.step.tensor.name
        if name.startswith("poison"):
            os._exit(1)
        if name.startswith("held"):
            hold(Path(os.environ["HELD_FOLDER"]), name)
        return run_piece(piece, *rest)

    task._run_piece = with_accidents  # type: ignore[assignment]


def hold(folder: Path, name: str) -> None:
    try:
        with (folder / name).open("x") as file:
            file.write(f"{os.getpid()}\n")
    except FileExistsError:
        return
    while not (folder / f"{name}.go").exists() and not (folder / "go").exists():
        time.sleep(0.02)
