"""The other files of a model folder: what goes along with the weights, and what must not.

Every quantisation block is cut out of the configurations, their dtype keys are set, files that are
about quantisation stay behind (all by the table in `config_rules`), and everything else is copied.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from anamnesis.errors import FormatError, LimitError
from anamnesis.limits import INDEX_BYTES, NOTHING, Allow, GiB, Limits, MiB
from anamnesis.pipeline.alike import refuse_alike
from anamnesis.pipeline.config_rules import LONG, clean, is_config, left_out, stating
from anamnesis.pipeline.quant_config import Chosen, described, files_beside
from anamnesis.readers.choice import UNFINISHED, is_training
from anamnesis.readers.folder import RemoteFolder, follow
from anamnesis.readers.schemes._stated import OTHER_BYTES, may_state, stated
from anamnesis.readers.settings_files import is_yaml
from anamnesis.readers.source import SourceFile, is_url, open_source
from anamnesis.readers.strict_json import loads
from anamnesis.readers.table import READERS
from anamnesis.readers.text_links import target_of
from anamnesis.readers.together import together
from anamnesis.readers.yaml_values import MOST_BYTES, read_yaml
from anamnesis.writers.stores import store_of

# Copied files are small; weights of another format that lie beside are not companions.
MAX_BYTES = 256 * MiB
COMPANION_BYTES = GiB  # all of them together
_CHUNK_BYTES = MiB
_AT_A_TIME = 8  # from behind URLs, each with two chunks at most
_CONFIG_FACTOR = 8  # of memory, for the text and the values of a configuration
_WEIGHTS = frozenset((".bin", ".h5", ".imatrix", ".index", ".msgpack")).union(
    *(row.extensions for row in READERS.values())
)


@dataclass(frozen=True, slots=True)
class Companion:
    """A file that goes along: where it lies (a path or a URL), and its bytes.

    A path is elsewhere for a link stored as text, if links are followed. `same` is what the names
    of one file have in common, device and inode.
    """

    name: str
    path: str
    nbytes: int
    same: tuple[int, int] | None = None


def _beside(folder: str) -> Iterator[tuple[str, str, int | None]]:
    """Name, path and bytes of files beside the weights, none for what is no regular file."""
    for name, path, nbytes in _files_at(folder) if is_url(folder) else _files_in(folder):
        if name.startswith(".") or left_out(name) is not None:
            continue
        if not is_weights(name) and not is_training(name):
            yield name, path, nbytes


def _files_in(folder: str) -> Iterator[tuple[str, str, int | None]]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        try:
            status = entry.stat()
        except OSError:  # a link to nothing
            continue
        if not stat.S_ISDIR(status.st_mode):
            regular = stat.S_ISREG(status.st_mode)
            yield entry.name, entry.path, status.st_size if regular else None


def _files_at(url: str) -> Iterator[tuple[str, str, int | None]]:
    for name, nbytes in RemoteFolder(url).sizes().items():
        yield name, f"{url}/{name}", nbytes


def _note_others(folder: str, note: Callable[[str], None]) -> None:
    """Say which files a loader may look for and does not find."""
    if folder.lower().startswith(("http://", "https://")):
        note(f"{folder}: nothing lists it, so that no file beside the weights was copied")
    for _, path, nbytes in _beside(folder):
        if nbytes is None or nbytes > MAX_BYTES:
            note(f"{path}: was not copied: over {MAX_BYTES >> 20} MiB, or no regular file")


def companions(folder: str, allow: Allow = NOTHING) -> Iterator[Companion]:
    """Files that belong to the recovered model, `config.json` included; none over HTTP.

    Raises SecurityError for one that is a link out of the folder.
    """
    for name, path, nbytes in _beside(folder):
        if nbytes is None or nbytes > MAX_BYTES:
            continue
        if is_url(folder):
            yield Companion(name, path, nbytes)
            continue
        with contextlib.suppress(FormatError):  # a link stored as text, which is copied itself
            path = follow(folder, path, allow)
        status = os.stat(path)
        if status.st_size <= MAX_BYTES:
            yield Companion(name, path, status.st_size, (status.st_dev, status.st_ino))


def has_config(folder: str) -> bool:
    """Whether a `config.json` goes along; `folder` is "" for none."""
    if is_url(folder):
        return any(name == "config.json" for name, _, _ in _beside(folder))
    return bool(folder) and os.path.isfile(os.path.join(folder, "config.json"))


def is_weights(name: str) -> bool:
    """Whether a file of that name holds weights, a part of them, or is an index of such files.

    In capitals too: where file systems do not tell them apart, it would replace what is written.
    """
    name = name.lower()
    index = name.endswith(".index.json") or ".safetensors.index." in name
    ending = os.path.splitext(name)[1]
    return index or ending in _WEIGHTS or ending in UNFINISHED or ".onnx" in name


def copy_companions(
    folder: str,
    target: PurePath,
    dtype: str | None,
    note: Callable[[str], None],
    choices: Chosen = (),
    allow: Allow = NOTHING,
) -> list[str]:
    """Copy what goes along into `target`; the names. Configurations are cleaned on the way.

    `config.json` gets what loaders need of the tensors that `choices` say were encoded, and some
    need files of their own.

    Without a `dtype` nothing was decoded, and the dtypes that configurations name are kept. One
    that is no JSON cannot be cleaned: it is left out with a `note`, as is what is too large.
    """
    store = store_of(target)
    written: dict[tuple[int, int], PurePath] = {}
    found = list(companions(folder, allow))
    refuse_alike(target / companion.name for companion in found)
    _note_others(folder, note)

    def copy(companion: Companion) -> tuple[str, str]:
        """The name, or "" for what was left out; and what is to be said of it."""
        name, path = companion.name, companion.path
        final, said = target / name, ""
        if not is_url(path) and not allow.follow_links and target_of(path) is not None:
            said = f"{path}: is a link stored as text, and copied as such (see --follow-links)"
        with open_source(path, first_bytes=min(companion.nbytes, _CHUNK_BYTES)) as file:
            try:
                _refuse_stating(folder, name, file, dtype)
                changed = _changed(os.path.join(folder, name), file, dtype, choices)
            except FormatError as error:
                return "", f"left out: {error}"
            if changed is not None:
                store.write(final, [changed])
            else:
                same = written.setdefault(companion.same, final) if companion.same else final
                if same == final or not store.link(same, final):
                    store.write(final, _chunks(file))
        return name, said

    copied = []
    for name, said in together(folder, copy, found, _AT_A_TIME):
        if said:
            note(said)
        if name:
            copied.append(name)
    for name, document in files_beside(choices).items():
        store.write(target / name, [json.dumps(document, indent=2).encode() + b"\n"])
        copied.append(name)
    return copied


def check_companions(folder: str, out_bytes: int, limits: Limits, allow: Allow) -> None:
    """LimitError when what goes along is too much, with the `out_bytes` of the weights or alone.

    A file with several names, links or hard links, counts once, as it is written once.
    """
    sizes: dict[object, int] = {}
    for companion in companions(folder, allow):
        sizes[companion.same or companion.path] = companion.nbytes
        if is_config(companion.name):
            limits.memory(companion.nbytes * _CONFIG_FACTOR, companion.path)
    total = sum(sizes.values())
    what = f"{folder}: files beside the weights"
    if total > COMPANION_BYTES:
        raise LimitError(
            f"{what}: {total:,} bytes go along; the fixed limit is {COMPANION_BYTES:,}",
            limit="companions",
            need=total,
            have=COMPANION_BYTES,
        )
    limits.total(out_bytes + total, f"{what}, and the output")


def _read(file: SourceFile) -> bytes:
    """A configuration, which is read whole."""
    Limits().alloc(file.size, file.path, INDEX_BYTES)
    return file.read(0, file.size)


def _chunks(file: SourceFile) -> Iterator[memoryview]:
    """What a file holds, a piece at a time, in memory that is used again."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, file.size)))
    for at in range(0, file.size, _CHUNK_BYTES):
        view = buffer[: file.size - at]
        file.read_into(at, view)
        yield view
    file.check_unchanged()


def _changed(path: str, file: SourceFile, dtype: str | None, choices: Chosen) -> bytes | None:
    """What is written for a file that speaks of quantisation, or may; None for its very bytes.

    Raises FormatError for settings that are no JSON.
    """
    name = os.path.basename(path)
    if is_config(name):
        return _cleaned(path, _read(file), dtype, choices)
    if not may_state(name) or file.size > OTHER_BYTES:
        return None
    try:
        data = _read(file)
        document = loads(data, path, Limits(), python=True)
    except FormatError:
        return None
    if not isinstance(document, dict) or not stated({name: document}, {}):
        return None
    return _cleaned(path, data, dtype, choices)


def _refuse_stating(folder: str, name: str, file: SourceFile, dtype: str | None) -> None:
    """FormatError for YAML that states how weights were stored which were decoded."""
    path = os.path.join(folder, name)
    if dtype is None or not is_yaml(name) or file.size > MOST_BYTES:
        return
    try:
        document = read_yaml(_read(file), path)
    except FormatError:
        return  # of which no statement is taken, either
    if said := stating(name, document):
        raise FormatError(
            f"{os.path.join(folder, said)} is no longer true, and YAML is not rewritten"
        )


def _cleaned(path: str, data: bytes, dtype: str | None, choices: Chosen) -> bytes:
    """A configuration as it has to be; the very same bytes when no rule has anything to say."""
    name = os.path.basename(path)
    config = loads(data, path, Limits(), python=True)
    if not isinstance(config, dict):
        return data
    if name == "config.json":
        found = described(clean_config(config, dtype), choices)
    else:
        found = clean(name, config, dtype)
    if found == config:
        return data
    return json.dumps(found, indent=2, ensure_ascii=False).encode() + b"\n"


def clean_config(config: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    """A model's config without quantisation blocks, at any depth, and with its dtype set.

    Both spellings of the key are set at the top (`torch_dtype`, and `dtype` of transformers 5);
    in nested configs only those that were there.
    """
    cleaned: dict[str, Any] = clean("config.json", config, dtype)
    if dtype is None:
        return cleaned
    return {**cleaned, "torch_dtype": LONG[dtype], "dtype": LONG[dtype]}
