"""The small files of a model folder that a GGUF is made of; of one behind a URL, a copy of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from anamnesis import owned
from anamnesis.limits import Limits, MiB
from anamnesis.readers.folder import Folder, LocalFolder, folder_of
from anamnesis.readers.model import Model
from anamnesis.readers.source import SourceFile, is_url

_MOST = 256 * MiB  # of one of them
_NAMES = (
    *("README.md", "config.json", "generation_config.json", "tokenizer_config.json"),
    *("tokenizer.json", "tokenizer.model", "tokenizer.jsonl", "tiktoken.model", "spiece.model"),
    *("sentencepiece.bpe.model", "added_tokens.json", "vocab.txt"),
    *("chat_template.jinja", "chat_template.json"),
    *("preprocessor_config.json", "processor_config.json", "modules.json"),
)
_POOLING = ("1_Pooling", "config.json")  # of sentence-transformers


class _Copied(LocalFolder):
    """A folder behind a URL, whose small files lie on this machine."""

    def __init__(self, url: str, here: str) -> None:
        super().__init__(url)
        self._here = LocalFolder(here)

    @property
    def here(self) -> str:
        """Where they lie."""
        return self._here.path

    def join(self, name: str) -> str:
        """The URL of `name`."""
        return f"{self.path}/{name}"

    def open(self, name: str) -> SourceFile | None:
        """The file `name`, or None when there is none, or it is none of the small ones."""
        return self._here.open(name)


@contextmanager
def small_files(model: Model, limits: Limits) -> Iterator[LocalFolder]:
    """The folder of a model, or that its file lies in; behind a URL a copy of the small files.

    The copies are those of the commit at which the model was opened, in a folder of its name.
    Raises LimitError for one that is larger than the caller allows.
    """
    remote = folder_of(model.files[0].path) if is_url(model.path) else None
    if remote is None:
        yield LocalFolder(model.path if os.path.isdir(model.path) else _beside(model))
        return
    name = remote.path.rpartition("/")[2].partition("@")[0]
    with TemporaryDirectory(prefix="anamnesis-") as above:
        here = Path(above) / (re.sub(r"[^\w.-]", "_", name).strip(".") or "model")
        made: list[Path] = []
        try:
            _copy(remote, here, made, limits)
            yield _Copied(remote.path, str(here))
        finally:
            owned.settle(*made)


def _beside(model: Model) -> str:
    """Where the first file of a model lies."""
    return os.path.dirname(model.files[0].path) or "."


def _copy(remote: Folder, here: Path, made: list[Path], limits: Limits) -> None:
    """Copy the small files to `here`; everything that is made is in `made` before it is."""
    for folder in (here, here / _POOLING[0]):
        made.append(folder)
        owned.make_folder(folder)
    with suppress(OSError):  # what is listed and not there is not asked for
        remote.names()
    for name in (*_NAMES, "/".join(_POOLING)):
        data = _read(remote, name, limits)
        if data is not None:
            made.append(here / name)
            _write(here / name, data)


def _read(remote: Folder, name: str, limits: Limits) -> bytes | None:
    file = remote.open(name)
    if file is None:
        return None
    with file:
        limits.alloc(file.size, remote.join(name), _MOST)
        return file.read(0, file.size)


def _write(path: Path, data: bytes) -> None:
    fd = owned.create(path, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
