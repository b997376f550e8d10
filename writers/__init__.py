"""The table of output formats: layout before data, any window at its offset.

A row's module gives `layout(items, path, max_shard_bytes) -> Layout`, which fixes every byte of
every output file except the values, and `check(path, out_file)`, which reopens a finished file
before it gets its final name.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePath

from anamnesis.errors import UsageError
from anamnesis.readers.source import URL_WITHOUT_SLASHES, is_url
from anamnesis.words import nearest
from anamnesis.writers.base import WriterModule


@dataclass(frozen=True, slots=True)
class Writer:
    """A row: the module, the file name ending that means one file, and the dtypes it can store.

    `compressions`, and `bf16`, the types that BF16 may have, begin with the usual one.
    `memory_bytes` is what packing a finished file takes, besides the buffers of tasks.
    """

    module: str
    suffix: str
    dtypes: tuple[str, ...]
    compressions: tuple[str, ...] = ("none",)
    bf16: tuple[str, ...] = ()
    memory_bytes: int = 0


FOLDER = "/"  # in place of a suffix: the output is always a folder

WRITERS: dict[str, Writer] = {
    "arrow": Writer(
        "arrow",
        ".arrow",
        ("bf16", "f16", "f32"),
        ("none", "lz4", "zstd"),
        ("extension", "uint16"),
    ),
    "gguf": Writer("gguf", ".gguf", ("bf16", "f16", "f32")),
    "hf": Writer("safetensors", FOLDER, ("bf16", "f16", "f32")),
    "parquet": Writer(
        "parquet",
        ".parquet",
        ("bf16", "f16", "f32"),
        ("zstd", "lz4", "none"),
        ("float32", "uint16", "extension"),
        128 << 20,  # measured on row groups of 8 MiB: 125
    ),
    "safetensors": Writer("safetensors", ".safetensors", ("bf16", "f16", "f32")),
}


# Names of files that no row writes: a folder of such a name would be taken for one. PyTorch's are
# not among them, since folders are called after the checkpoint that they were made of (`x.pt`).
_OTHER_SUFFIXES = frozenset(
    (
        ".7z .avro .bin .bz2 .csv .feather .ggml .gguf .gz .h5 .hdf5 .ipc .json .jsonl .msgpack "
        ".npy .npz .onnx .orc .parquet .pickle .pkl .pq .tar .toml .tsv .txt .xz .yaml .yml .zip "
        ".zst"
    ).split()
)
_BUCKETS = frozenset("abfs abfss az gcs gs s3 s3a".split())  # come first in the URLs of these
_MISSPELT = 0.85  # .safetensor, .parqet


def format_of(path: str, asked: str | None = None) -> str:
    """The format of the output at `path`: the one that was `asked` for, else by the suffix.

    A path without a suffix of the table is a folder, of safetensors unless another is asked for.
    Raises UsageError when the suffix is another format's, or of files that no format here writes,
    for `-`, and for a URL that nothing can be written to.
    """
    if path == "-":
        raise UsageError(
            "output.path: -: nothing is written to standard output; name a file or a folder (./-)"
        )
    _refuse_url(path)
    suffix = PurePath(path).suffix
    if path.endswith("/") and any(row.suffix == suffix for row in WRITERS.values()):
        raise UsageError(
            f"output.path: {path}: ends in a slash, as folders do, and a name in {suffix} is of "
            "one file; leave the slash out, or give the folder another name"
        )
    if asked is not None and suffix == WRITERS[asked].suffix:
        return asked
    by_suffix = [name for name, row in WRITERS.items() if suffix and row.suffix == suffix]
    if by_suffix and asked is None:
        return f"{suffix[1:]}" if suffix[1:] in by_suffix else by_suffix[0]
    if by_suffix:
        raise UsageError(
            f"output.path: {path}: its suffix says {by_suffix[0]}, output.format (--to) says "
            f"{asked}; change one of them"
        )
    ours = sorted({row.suffix for row in WRITERS.values() if row.suffix != FOLDER})
    known, files = _OTHER_SUFFIXES.union(ours), ", ".join(ours)
    if suffix.lower() in known:
        raise UsageError(
            f"output.path: {path}: files that end in {suffix} are not written; a file ends in one "
            f"of {files}, and a folder needs another name"
        )
    near = suffix[1:].isalpha() and nearest(suffix, sorted(known), _MISSPELT)
    if near:
        one_of = f"a file ends in one of {files}, and a"
        start = f"did you mean {near[0]}? A" if near[0] in ours else one_of
        raise UsageError(
            f"output.path: {path}: would be a folder, as its suffix is of no file; {start} folder "
            "needs another name"
        )
    return asked or "safetensors"


def _refuse_url(path: str) -> None:
    """UsageError for a URL that is misspelt, of a bucket alone, or of what is only read."""
    said = f"output.path: {path}: "
    if found := URL_WITHOUT_SLASHES.fullmatch(path):
        raise UsageError(f"{said}a URL has two slashes: {found[1]}://{found[2]}")
    if not is_url(path):
        return
    scheme, _, rest = path.partition("://")
    if scheme.lower() == "hf":
        raise UsageError(
            f"{said}the hub is read, and not written to; make a folder here, and send it with "
            "`hf upload`"
        )
    if scheme.lower() in ("http", "https"):
        raise UsageError(f"{said}nothing is written by HTTP; write to a folder, or to a store")
    if scheme.lower() in _BUCKETS and "/" not in rest.strip("/"):
        name = rest.strip("/") or "BUCKET"
        raise UsageError(f"{said}is a bucket; name a folder in it, as {scheme}://{name}/llama-bf16")


def named_format(path: str) -> str:
    """The format that the suffix of `path` says; UsageError where that is a folder."""
    form = format_of(path)
    if PurePath(path).suffix != WRITERS[form].suffix:
        raise UsageError(
            f"output.format (--to): {path} is a folder, whose name says no format; allowed: "
            f"{' | '.join(WRITERS)}"
        )
    return form


def writer(name: str) -> WriterModule:
    """The module of an output format, imported on first use."""
    module: WriterModule = import_module(f"anamnesis.writers.{WRITERS[name].module}")
    return module


def usual_shard_size(name: str) -> int:
    """Most bytes of a file when nobody says: of a GGUF, all of them."""
    return (1 << 63) - 1 if name == "gguf" else 5_000_000_000
