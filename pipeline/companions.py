"""The other files of a model folder: what goes along with the weights, and what must not.

Every quantisation block is cut out of the configurations, their dtype keys are set, files that are
about quantisation stay behind (all by the table in `config_rules`), and everything else is copied.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from anamnesis.errors import FormatError, LimitError
from anamnesis.limits import INDEX_BYTES, NOTHING, Allow, GiB, Limits, MiB
from anamnesis.pipeline.alike import refuse_alike
from anamnesis.pipeline.config_rules import LONG, clean, is_config, left_out, stating
from anamnesis.pipeline.quant_config import Chosen, described
from anamnesis.readers.choice import is_training
from anamnesis.readers.folder import follow
from anamnesis.readers.schemes._stated import OTHER_BYTES, may_state, stated
from anamnesis.readers.settings_files import is_yaml
from anamnesis.readers.source import LocalFile
from anamnesis.readers.strict_json import loads
from anamnesis.readers.table import READERS
from anamnesis.readers.text_links import target_of
from anamnesis.readers.yaml_values import MOST_BYTES, read_yaml
from anamnesis.writers.stores import store_of

# Copied files are small; weights of another format that lie beside are not companions.
MAX_BYTES = 256 * MiB
COMPANION_BYTES = GiB  # all of them together
_CHUNK_BYTES = MiB
_CONFIG_FACTOR = 8  # of memory, for the text and the values of a configuration
_WEIGHTS = frozenset((".bin", ".h5", ".imatrix", ".index", ".msgpack", ".part")).union(
    *(row.extensions for row in READERS.values())
)
# Of downloads that did not end: huggingface_hub, aria2, browsers, wget-likes.
_UNFINISHED = frozenset(".aria2 .crdownload .download .incomplete .partial .tmp".split())


def _beside(source: Path) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """Files beside the weights that are no part of them, and whether they can be copied."""
    for entry in sorted(os.scandir(source), key=lambda e: e.name):
        if entry.name.startswith(".") or left_out(entry.name) is not None:
            continue
        if is_weights(entry.name) or is_training(entry.name):
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nothing
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield entry, stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES


def _note_others(source: Path, note: Callable[[str], None]) -> None:
    """Say which files a loader may look for and does not find."""
    for entry, fits in _beside(source):
        if not fits:
            note(f"{entry.path}: was not copied: over {MAX_BYTES >> 20} MiB, or no regular file")


def companions(source: Path, allow: Allow = NOTHING) -> Iterator[tuple[str, Path]]:
    """Names and paths of files that belong to the recovered model, `config.json` included.

    A path is elsewhere for a link stored as text, if links are followed; else that is copied.
    Raises SecurityError for one that is a link out of the folder.
    """
    for entry, fits in _beside(source):
        if not fits:
            continue
        try:
            path = Path(follow(str(source), entry.path, allow))
        except FormatError:  # a link stored as text
            path = Path(entry.path)
        if path.stat().st_size <= MAX_BYTES:
            yield entry.name, path


def is_weights(name: str) -> bool:
    """Whether a file of that name holds weights, a part of them, or is an index of such files.

    In capitals too: where file systems do not tell them apart, it would replace what is written.
    """
    name = name.lower()
    index = name.endswith(".index.json") or ".safetensors.index." in name
    ending = os.path.splitext(name)[1]
    return index or ending in _WEIGHTS or ending in _UNFINISHED or ".onnx" in name


def copy_companions(
    source: Path,
    target: PurePath,
    dtype: str | None,
    note: Callable[[str], None],
    choices: Chosen = (),
    allow: Allow = NOTHING,
) -> list[str]:
    """Copy what goes along into `target`; the names. Configurations are cleaned on the way.

    `config.json` gets what loaders need of the tensors that `choices` say were encoded.

    Without a `dtype` nothing was decoded, and the dtypes that configurations name are kept. One
    that is no JSON cannot be cleaned: it is left out with a `note`, as is what is too large.
    """
    copied = []
    store = store_of(target)
    written: dict[tuple[int, int], PurePath] = {}  # by the device and inode of the source
    found = list(companions(source, allow))
    refuse_alike(target / name for name, _ in found)
    _note_others(source, note)
    for name, path in found:
        final = target / name
        if not allow.follow_links and target_of(str(path)) is not None:
            note(f"{path}: is a link stored as text, and copied as such (see --follow-links)")
        with LocalFile(path) as file:
            try:
                _refuse_stating(source / name, file, dtype)
                changed = _changed(source / name, file, dtype, choices)
            except FormatError as error:
                note(f"left out: {error}")
                continue
            if changed is not None:
                store.write(final, [changed])
            else:
                same = written.setdefault((file.id.device, file.id.inode), final)
                if same == final or not store.link(same, final):
                    store.write(final, _chunks(file))
        copied.append(name)
    return copied


def check_companions(source: Path, out_bytes: int, limits: Limits, allow: Allow) -> None:
    """LimitError when what goes along is too much, with the `out_bytes` of the weights or alone.

    A file with several names, links or hard links, counts once, as it is written once.
    """
    sizes: dict[tuple[int, int], int] = {}
    for name, path in companions(source, allow):
        status = path.stat()
        sizes[status.st_dev, status.st_ino] = status.st_size
        if is_config(name):
            limits.memory(status.st_size * _CONFIG_FACTOR, str(path))
    total = sum(sizes.values())
    what = f"{source}: files beside the weights"
    if total > COMPANION_BYTES:
        raise LimitError(
            f"{what}: {total:,} bytes go along; the fixed limit is {COMPANION_BYTES:,}",
            limit="companions",
            need=total,
            have=COMPANION_BYTES,
        )
    limits.total(out_bytes + total, f"{what}, and the output")


def _read(file: LocalFile) -> bytes:
    """A configuration, which is read whole."""
    Limits().alloc(file.size, file.path, INDEX_BYTES)
    return file.read(0, file.size)


def _chunks(file: LocalFile) -> Iterator[memoryview]:
    """What a file holds, a piece at a time, in memory that is used again."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, file.size)))
    for at in range(0, file.size, _CHUNK_BYTES):
        view = buffer[: file.size - at]
        file.read_into(at, view)
        yield view
    file.check_unchanged()


def _changed(path: Path, file: LocalFile, dtype: str | None, choices: Chosen) -> bytes | None:
    """What is written for a file that speaks of quantisation, or may; None for its very bytes.

    Raises FormatError for settings that are no JSON.
    """
    if is_config(path.name):
        return _cleaned(path, _read(file), dtype, choices)
    if not may_state(path.name) or file.size > OTHER_BYTES:
        return None
    try:
        data = _read(file)
        document = loads(data, str(path), Limits(), python=True)
    except FormatError:
        return None
    if not isinstance(document, dict) or not stated({path.name: document}, {}):
        return None
    return _cleaned(path, data, dtype, choices)


def _refuse_stating(path: Path, file: LocalFile, dtype: str | None) -> None:
    """FormatError for YAML that states how weights were stored which were decoded."""
    if dtype is None or not is_yaml(path.name) or file.size > MOST_BYTES:
        return
    try:
        document = read_yaml(_read(file), str(path))
    except FormatError:
        return  # of which no statement is taken, either
    if said := stating(path.name, document):
        raise FormatError(f"{path.parent / said} is no longer true, and YAML is not rewritten")


def _cleaned(path: Path, data: bytes, dtype: str | None, choices: Chosen) -> bytes:
    """A configuration as it has to be; the very same bytes when no rule has anything to say."""
    config = loads(data, str(path), Limits(), python=True)
    if not isinstance(config, dict):
        return data
    if path.name == "config.json":
        found = described(clean_config(config, dtype), choices)
    else:
        found = clean(path.name, config, dtype)
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
