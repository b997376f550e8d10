"""What `inspect` and `parse` say of a model, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anamnesis.errors import printable
from anamnesis.pipeline.html import html_table
from anamnesis.pipeline.tabular import Tabular
from anamnesis.pipeline.units import size
from anamnesis.readers.base import Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.model import Model

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class SchemeReport:
    """The tensors of one scheme; `details` holds the settings that were seen (bits, group size)."""

    tensors: int
    stored_bytes: int
    details: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """The settings as text: `bits 4, group_size 64/128`."""
        pairs = self.details.items()
        return ", ".join(f"{key} {'/'.join(str(v) for v in values)}" for key, values in pairs)


@dataclass(frozen=True, slots=True, repr=False)
class Report(Tabular):
    """A model by its headers. `bf16_bytes` is its size with every float tensor as BF16.

    For Arrow's tools it is a table with a row a tensor: see `to_arrow`.
    """

    path: str
    container: str
    tensors: int
    stored_tensors: int
    stored_bytes: int
    bf16_bytes: int
    schemes: Mapping[str, SchemeReport]
    metadata: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    _tensors: tuple[Tensor, ...] = field(default=(), repr=False)

    @property
    def entries(self) -> tuple[dict[str, Any], ...]:
        """One for each tensor, as `parse --json` has them."""
        return tuple(map(_entry, self._tensors))

    def to_arrow(self) -> pa.Table:
        """A row a tensor: `tensor`, `shape`, `scheme`, `out_dtype`, `elements`, `stored_bytes`.

        `components` lists the stored parts: name, dtype, shape, nbytes.
        """
        import pyarrow as pa

        rows = [_arrow_row(tensor) for tensor in self._tensors]
        return pa.Table.from_pylist(rows, schema=_schema())

    def __repr__(self) -> str:
        """A line, and one a scheme; never the metadata, which may hold a whole vocabulary."""
        width = max(map(len, self.schemes), default=0)
        lines = [f"<Report {printable(self._title())}>"]
        for name, scheme in self.schemes.items():
            counts = f"{scheme.tensors:>7,}  {size(scheme.stored_bytes):>10}"
            lines.append(f"  {name:<{width}}  {counts}  {printable(scheme.about)}".rstrip())
        return "\n".join(lines)

    def _title(self) -> str:
        return (
            f"{self.path}: {self.container}, {self.tensors:,} tensors, "
            f"{size(self.stored_bytes)}, {size(self.bf16_bytes)} as BF16"
        )

    def _repr_html_(self) -> str:
        rows = [
            (name, scheme.tensors, size(scheme.stored_bytes), scheme.about)
            for name, scheme in self.schemes.items()
        ]
        head = ["scheme", "tensors", "stored", "details"]
        return html_table(self._title(), head, rows, len(rows), self.notes)

    def to_dict(self, *, entries: bool = False) -> dict[str, Any]:
        """The JSON object that `inspect --json` (with `entries`, `parse --json`) prints."""
        document: dict[str, Any] = {
            "path": self.path,
            "container": self.container,
            "tensors": self.tensors,
            "stored_tensors": self.stored_tensors,
            "stored_bytes": self.stored_bytes,
            "bf16_bytes": self.bf16_bytes,
            "schemes": {
                name: {"tensors": scheme.tensors, "stored_bytes": scheme.stored_bytes}
                for name, scheme in self.schemes.items()
            },
            "metadata": dict(self.metadata),
        }
        if entries:
            document["entries"] = list(self.entries)
        return document


_SETTINGS = ("bits", "group_size", "block", "act_order")


def report(model: Model) -> Report:
    """Count a model's tensors by scheme."""
    schemes: dict[str, list[Tensor]] = {}
    for tensor in model.tensors:
        schemes.setdefault(tensor.scheme, []).append(tensor)
    return Report(
        path=model.path,
        container=model.container,
        tensors=len(model.tensors),
        stored_tensors=len(model.stored),
        stored_bytes=sum(s.nbytes for s in model.stored.values()),
        bf16_bytes=sum(_bf16_bytes(t) for t in model.tensors),
        schemes={name: _scheme(tensors) for name, tensors in sorted(schemes.items())},
        metadata=model.metadata,
        notes=model.notes,
        _tensors=model.tensors,
    )


def _scheme(tensors: list[Tensor]) -> SchemeReport:
    details: dict[str, tuple[Any, ...]] = {}
    settings = {id(t.params): t.params for t in tensors}  # dense tensors share theirs
    for key in _SETTINGS:
        values = {_hashable(params.get(key)) for params in settings.values()} - {None}
        if values:
            details[key] = tuple(sorted(values, key=str))
    dtypes = {t.out_dtype for t in tensors if not t.quantised}
    if dtypes:
        details["dtype"] = tuple(sorted(dtypes))
    return SchemeReport(len(tensors), sum(t.stored_bytes for t in tensors), details)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _bf16_bytes(tensor: Tensor) -> int:
    if not tensor.quantised and DTYPES[tensor.out_dtype].kind != "float":
        return tensor.stored_bytes
    return 2 * tensor.elems


def _entry(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "scheme": tensor.scheme,
        "out_dtype": tensor.out_dtype,
        "components": [
            {
                "name": c.stored.name,
                "dtype": c.stored.dtype,
                "shape": list(c.stored.shape),
                "nbytes": c.stored.nbytes,
            }
            for c in tensor.components
        ],
    }


def _arrow_row(tensor: Tensor) -> dict[str, Any]:
    entry = _entry(tensor)
    parts = [{**part, "name": _utf8(part["name"])} for part in entry["components"]]
    return {
        "tensor": _utf8(tensor.name),
        "shape": entry["shape"],
        "scheme": tensor.scheme,
        "out_dtype": tensor.out_dtype,
        "elements": tensor.elems,
        "stored_bytes": tensor.stored_bytes,
        "components": parts,
    }


def _utf8(text: str) -> str:
    """Text that UTF-8 can hold: what a file calls its things may be half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    part = {"name": text, "dtype": text, "shape": pa.list_(whole), "nbytes": whole}
    columns: dict[str, pa.DataType] = {
        "tensor": text,
        "shape": pa.list_(whole),
        "scheme": text,
        "out_dtype": text,
        "elements": whole,
        "stored_bytes": whole,
        "components": pa.list_(pa.struct(list(part.items()))),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])
