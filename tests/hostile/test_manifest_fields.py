"""Fields of a manifest's parts that no version ever wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError
from anamnesis.pipeline import journal as journals


@pytest.mark.parametrize("key", ["options", "storage"])
def test_an_unknown_field_is_an_error(
    key: str, tmp_path: Path, write_safetensors: Callable[..., Path]
) -> None:
    values = np.arange(64, dtype=np.float32).tobytes()
    source = write_safetensors(tmp_path / "in.safetensors", {"a": ("F32", (8, 8), values)})
    out = tmp_path / "out"
    anamnesis.remember(source, out)
    path = journals.manifest_path(out)
    document = json.loads(path.read_text())
    document.pop("xxh3")
    document[key]["surprise"] = 1
    path.write_text(json.dumps({**document, "xxh3": journals._digest(document)}))
    with pytest.raises(FormatError, match=f"{key}: found 'surprise', which is no field"):
        anamnesis.verify(out)
