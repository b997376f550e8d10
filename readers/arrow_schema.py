"""The schema of an Arrow file: which columns hold tensors, and the list of tensors.

Source: format/Schema.fbs of apache/arrow (`Schema`, `Field`, `Type`). Only the columns that the
Arrow sink of this package writes are understood; see writers/arrow.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.arrow_flatbuffer import Table
from anamnesis.readers.arrow_listing import LISTING
from anamnesis.readers.dtypes import DTYPES
from anamnesis.words import and_more

BFLOAT16 = "lance.bfloat16"
_SHOWN = 8
_MOST_FIELDS = 10_000  # of a foreign file, to name the first of them
_MOST_PAIRS = 64
# union Type
_INT, _FLOAT, _UTF8, _FIXED_BINARY, _LARGE_LIST = 2, 3, 5, 15, 21
_TYPES = (
    "? null int float binary utf8 bool decimal date time timestamp interval list struct union "
    "fixed_size_binary fixed_size_list map duration large_binary large_utf8 large_list "
    "run_end_encoded binary_view utf8_view list_view large_list_view"
).split()
_FLOATS = {0: "f2", 1: "f4", 2: "f8"}


@dataclass(frozen=True, slots=True)
class Columns:
    """What a schema says: the dtype of every column of values, in order; all names are one
    dictionary with the id `dictionary`."""

    dtypes: tuple[str, ...]
    dictionary: int
    listing: bytes


def read_schema(schema: Table, path: str) -> Columns:
    """The columns of a tensor dataset.

    Raises UnsupportedError for other people's files and big-endian ones, FormatError for columns
    that this package would not have written.
    """
    endianness = schema.number(0, "h")
    if endianness:
        raise UnsupportedError(f"{path}: schema: a big-endian Arrow file")
    fields = schema.tables(1, _MOST_FIELDS)
    listing = _pairs(schema, 2).get(LISTING)
    if listing is None:
        shown = [f"{_name(f)} {_kind(f)}" for f in fields[:_SHOWN]]
        more = and_more(len(fields), _SHOWN, ",")
        raise UnsupportedError(
            f"{path}: an Arrow file of other data (columns {', '.join(shown) or 'none'}{more}): "
            f"its schema has no {LISTING}, the list of tensors in a file that this program wrote"
        )
    if not 3 <= len(fields) <= 2 + len(DTYPES):
        raise FormatError(f"{path}: schema: {len(fields):,} columns; tensor, row and values needed")
    names, rows, *values = fields
    encoding = names.table(4)
    if names.raw(0) != b"tensor" or names.number(2, "B") != _UTF8 or encoding is None:
        raise FormatError(f"{path}: schema: column 0: must be tensor, utf8 in a dictionary")
    index = encoding.table(1)
    if index is not None and _integer(index) != "i4":
        raise FormatError(f"{path}: schema: column tensor: indices must be int32")
    if rows.raw(0) != b"row" or _kind(rows) != "i8":
        raise FormatError(f"{path}: schema: column 1: must be row, int64")
    dtypes = tuple(_dtype(field, path) for field in values)
    if len(set(dtypes)) < len(dtypes):
        raise FormatError(f"{path}: schema: two columns of one dtype")
    if any(field.table(4) is not None for field in (rows, *values)):
        raise FormatError(f"{path}: schema: only the column tensor has a dictionary")
    return Columns(dtypes, encoding.number(0, "q"), listing)


def _dtype(field: Table, path: str) -> str:
    where = f"{path}: schema: column {_name(field)}"
    field.text(0)
    dtype = _pairs(field, 6).get("dtype", b"").decode(errors="replace")
    children = field.tables(5, 1)
    if field.number(2, "B") != _LARGE_LIST or not children:
        raise FormatError(f"{where}: must be a large_list, found {_kind(field)}")
    if dtype not in DTYPES:
        raise FormatError(f"{where}: dtype: {dtype!r:.80} is none of {', '.join(DTYPES)}")
    kind = _kind(children[0])
    allowed = {DTYPES[dtype].numpy[1:]}
    if dtype == "BF16":
        allowed.add(f"{BFLOAT16} V2")
    if kind not in allowed or children[0].table(4) is not None or children[0].count(5):
        raise FormatError(f"{where}: items of {dtype} are {' or '.join(allowed)}, found {kind}")
    return dtype


def _kind(field: Table) -> str:
    """The type as numpy has it, where there is one; else Arrow's name; extensions before it."""
    number = field.number(2, "B")
    kind = _TYPES[number] if number < len(_TYPES) else f"type {number}"
    about = field.table(3)
    if about is not None and number == _INT:
        kind = _integer(about)
    elif about is not None and number == _FLOAT:
        kind = _FLOATS.get(about.number(0, "h"), kind)
    elif about is not None and number == _FIXED_BINARY:
        kind = f"V{about.number(0, 'i')}"
    extension = _pairs(field, 6).get("ARROW:extension:name")
    if extension is None:
        return kind
    if extension == BFLOAT16.encode():
        return f"{BFLOAT16} {kind}"
    return f"{extension.decode(errors='replace')!r:.80} {kind}"


def _integer(about: Table) -> str:
    bits = about.number(0, "i")
    return f"{'i' if about.number(1, 'B') else 'u'}{bits // 8}" if bits % 8 == 0 else "int"


def _name(field: Table) -> str:
    """As far as it is fit to be shown."""
    return f"{(field.raw(0) or b'').decode(errors='replace')!r:.80}"


def _pairs(table: Table, field: int) -> Mapping[str, bytes]:
    """Custom metadata; keys are given once."""
    found: dict[str, bytes] = {}
    for pair in table.tables(field, _MOST_PAIRS):
        key = pair.text(0) or ""
        if key in found:
            raise FormatError(f"{table.where}: metadata key {key!r:.80} is given twice")
        found[key] = pair.raw(1) or b""
    return found
