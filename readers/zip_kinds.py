"""What a ZIP archive is for, known by the names of its members.

Several containers are ZIP archives; the magic number says no more than that, and a suffix can
be wrong. Only the directory is read.
"""

from __future__ import annotations

from collections.abc import Iterable

from anamnesis.errors import UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.source import SourceFile
from anamnesis.readers.table import Reader
from anamnesis.readers.zip_directory import read_directory

_SCRIPT = "/constants.pkl"  # beside a data.pkl like a checkpoint's

_EXPORTED = "a program of torch.export; torch.export.load(FILE).state_dict has its weights"

# Endings of member names that only such archives have; the first that is there decides.
_OTHERS = {
    _SCRIPT: "a TorchScript program, which is code",
    "[Content_Types].xml": "an Office document",
    "META-INF/MANIFEST.MF": "a Java archive",
    "model.weights.h5": "a Keras model",
    "/archive_format": _EXPORTED,
    "serialized_exported_program.json": _EXPORTED,
    "MAR-INF/MANIFEST.json": "an archive of TorchServe; unpack it and name the weights in it",
    "TF_LITE_PREFILL_DECODE": "a MediaPipe task, a LiteRT (TensorFlow Lite) program",
}


def among(file: SourceFile, rows: Iterable[Reader], readable: str, limits: Limits) -> Reader:
    """The row, of those for ZIP archives, whose `holds` some member's name ends with.

    Raises UnsupportedError for archives of other kinds, and what `read_directory` raises.
    """
    names = [entry.name for entry in read_directory(file, limits).entries]
    if not _some(names, _SCRIPT):
        for row in rows:
            if _some(names, row.holds):
                return row
    known = [what for ending, what in _OTHERS.items() if _some(names, ending)]
    what = (
        known[0] if known else f"of {len(names):,} member(s) that no reader knows; unpack it first"
    )
    raise UnsupportedError(f"{file.path}: is a ZIP archive, {what}; readable are {readable}")


def _some(names: Iterable[str], ending: str) -> bool:
    return any(name.endswith(ending) for name in names)
