"""A model folder without a tokenizer, which a GGUF is to be made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anamnesis.errors import UnsupportedError
from anamnesis.limits import Limits
from anamnesis.names.vocabulary import vocabulary
from anamnesis.readers.folder import LocalFolder


def test_the_files_and_the_way_out_are_named(tmp_path: Path) -> None:
    keys: Any = SimpleNamespace(vocabulary="")
    files = r"tokenizer.json, tokenizer.model or tiktoken.model"
    said = rf"no tokenizer in the folder \({files}\).*--names stored"
    with pytest.raises(UnsupportedError, match=said):
        vocabulary(LocalFolder(str(tmp_path)), 8, keys, {}, Limits())
