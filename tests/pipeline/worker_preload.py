"""Given to `dask worker --preload`: tensors whose names begin so take long, or kill the worker."""

from __future__ import annotations

import os
import time
from typing import Any


def dask_setup(worker: Any) -> None:
    from anamnesis.pipeline import task

    run_piece = task._run_piece

    def with_accidents(piece: Any, *rest: Any) -> Any:
        name = piece.step.tensor.name
        if name.startswith("poison"):
            os._exit(1)
        if name.startswith("slow"):
            time.sleep(0.15)
        return run_piece(piece, *rest)

    task._run_piece = with_accidents  # type: ignore[assignment]
