"""llama.cpp's importance matrices as GGUF files, `general.type` imatrix.

Layout (tools/imatrix/imatrix.cpp, `save_imatrix`; read by common/imatrix-loader.cpp):

    imatrix.datasets      names of the texts that were run
    imatrix.chunk_count   how many chunks of them, imatrix.chunk_size their tokens
    NAME.in_sum2          F32 [matrices, columns]: sums of the squares of a matrix's inputs
    NAME.counts           F32 [matrices, 1]: how often each matrix was used
    NAME.in_sum           F32, sums of the inputs, which quantising does not use

A matrix that was never used, as experts may be, has no means: all of its columns count alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.base import Stored
from anamnesis.readers.files import Files
from anamnesis.readers.gguf import open_gguf
from anamnesis.readers.imatrix_entry import Entry

_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
COUNTS = 1 << 22  # of all tensors together: of experts, of which a model has some ten thousands
_COUNT_BYTES = 40  # of one in memory: a number of Python's in a tuple
_SUMS, _COUNTS, _PLAIN_SUMS = ".in_sum2", ".counts", ".in_sum"


def read_gguf(path: str, limits: Limits) -> tuple[dict[str, Entry], tuple[str, ...], int]:
    """Entries by name, names of texts, and the number of chunks.

    Raises what `open_gguf` does, FormatError where the file is no importance matrix, and
    UnsupportedError for a big-endian one.
    """
    container = open_gguf(path, limits)
    metadata = container.metadata
    if any(tensor.view is not None for tensor in container.stored.values()):
        raise UnsupportedError(f"{path}: a big-endian importance matrix is not implemented")
    kind = metadata.get("general.type", "imatrix")
    missing = [key for key in _KEYS if key not in metadata]
    if kind != "imatrix" or missing:
        found = f"general.type {kind!r:.100}" if kind != "imatrix" else f"no {missing[0]}"
        raise FormatError(f"{path}: is no importance matrix: found {found}; allowed: imatrix")
    chunks, datasets = metadata["imatrix.chunk_count"], metadata["imatrix.datasets"]
    if type(chunks) is not int:
        raise FormatError(f"{path}: imatrix.chunk_count: found {chunks!r:.100}; allowed: a number")
    texts = datasets if isinstance(datasets, list) else []
    names = tuple(text for text in texts if isinstance(text, str))
    files = Files()
    try:
        entries = _entries(path, container.stored, files, limits)
    finally:
        files.close()
    if not entries:
        raise FormatError(f"{path}: importance matrix: has no tensor that ends in {_SUMS}")
    return entries, names, max(0, chunks)


def _entries(
    path: str, stored: Mapping[str, Stored], files: Files, limits: Limits
) -> dict[str, Entry]:
    entries = {}
    counts = sum(math.prod(t.shape) for name, t in stored.items() if name.endswith(_COUNTS))
    limits.items(counts, f"{path}: counts of all tensors", COUNTS)
    limits.memory(_COUNT_BYTES * counts, f"{path}: {counts:,} counts")
    for name, tensor in stored.items():
        for ending in (_SUMS, _COUNTS, _PLAIN_SUMS):
            if name.endswith(ending):
                base = name.removesuffix(ending)
                others = stored.get(base + _SUMS), stored.get(base + _COUNTS)
                _check(path, base, tensor, *others)
        if name.endswith(_SUMS):
            base = name.removesuffix(_SUMS)
            divisors = _divisors(path, base, stored[base + _COUNTS], files, limits)
            count = math.prod(tensor.shape)
            if count and count % len(divisors) == 0:
                entries[base] = Entry(tensor.file, tensor.offset, count, divisors)
            elif count:
                raise FormatError(
                    f"{path}: tensor {name!r:.200}: {count:,} sums are no multiple of its "
                    f"{len(divisors):,} counts"
                )
    return entries


def _check(
    path: str, base: str, tensor: Stored, sums: Stored | None, counts: Stored | None
) -> None:
    """FormatError for a tensor of sums or counts that is alone, or not in F32."""
    where = f"{path}: tensor {tensor.name!r:.200}"
    if sums is None or counts is None:
        missing = _SUMS if sums is None else _COUNTS
        raise FormatError(f"{where}: there is no {base + missing!r:.200} beside it")
    if tensor.dtype != "F32":
        raise FormatError(f"{where}: found {tensor.dtype}; allowed: F32")
    if tensor.name.endswith(_PLAIN_SUMS) and math.prod(tensor.shape) != math.prod(sums.shape):
        raise FormatError(
            f"{where}: has {math.prod(tensor.shape):,} sums, {sums.name!r:.200} has "
            f"{math.prod(sums.shape):,}"
        )


def _divisors(
    path: str, base: str, counts: Stored, files: Files, limits: Limits
) -> tuple[float, ...]:
    """How often each matrix was used, 0 for never; at least one of them."""
    import numpy as np  # noqa: PLC0415 - other readers need no arrays

    where = f"{path}: tensor {counts.name!r:.200}"
    limits.alloc(16 * counts.nbytes, where)
    data = files(counts.file).read(counts.offset, counts.nbytes)
    found = np.frombuffer(data, "<f4").astype(np.float64)
    if not len(found):
        raise FormatError(f"{where}: has no counts")
    if not np.isfinite(found).all() or np.abs(found).max() >= 1 << 53:
        raise FormatError(f"{where}: found a count that is no number; allowed: finite ones")
    # lround: ties go away from zero, and what is below none is none.
    whole = np.floor(np.maximum(found, 0) + 0.5)
    return tuple(whole.tolist())
