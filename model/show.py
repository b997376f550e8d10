"""Open models and tensors as a terminal and a notebook show them.

Names come from files: what does not print is escaped, and HTML is quoted.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from anamnesis.pipeline.progress import printable
from anamnesis.pipeline.units import size
from anamnesis.readers.base import Tensor
from anamnesis.readers.model import Model

_FIRST, _LAST = 12, 4  # tensors shown of a long model
_HEAD = ("tensor", "shape", "scheme", "stored")
_WIDEST = 60


def model_text(model: Model) -> str:
    """A line on the model, and a table of its tensors."""
    rows = [_HEAD, *_rows(model.tensors)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [f"<OpenModel {_title(model)}>"]
    for *texts, stored in rows:
        left = (f"{text:<{width}}" for text, width in zip(texts, widths, strict=False))
        lines.append("  ".join([*left, f"{stored:>{widths[-1]}}"]).rstrip())
    return "\n".join(lines)


def model_html(model: Model) -> str:
    """The same for a notebook."""
    head = "".join(f"<th>{name}</th>" for name in _HEAD)
    body = "".join(_html_row(row) for row in _rows(model.tensors))
    return (
        f"<p><b>{escape(_title(model))}</b></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def tensor_text(tensor: Tensor) -> str:
    """Name, shape and scheme in a line, and the dtype where it is not the usual one."""
    usual = "BF16" if tensor.quantised else tensor.components[0].stored.dtype
    other = "" if tensor.out_dtype == usual else f" as {tensor.out_dtype}"
    return f"<LazyTensor {_name(tensor)!r} {list(tensor.shape)} {tensor.scheme}{other}>"


def tensor_html(tensor: Tensor) -> str:
    """A tensor and the stored parts that it is made of."""
    parts = [
        (c.role, f"{c.stored.dtype} {list(c.stored.shape)}", _clean(c.stored.name), c.stored.nbytes)
        for c in tensor.components
    ]
    body = "".join(_html_row((*part[:3], size(part[3]))) for part in parts)
    about = f"{_name(tensor)} {list(tensor.shape)}: {tensor.scheme} to {tensor.out_dtype}"
    return (
        f"<p><b>{escape(about)}</b></p><table><thead><tr><th>part</th><th>stored as</th>"
        f"<th>name</th><th>bytes</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _title(model: Model) -> str:
    stored = sum(t.stored_bytes for t in model.tensors)
    return (
        f"{_clean(model.path)!r}: {len(model.tensors):,} tensors, {model.container}, "
        f"{size(stored)} stored"
    )


def _rows(tensors: Sequence[Tensor]) -> list[tuple[str, str, str, str]]:
    left_out = len(tensors) - _FIRST - _LAST
    shown = tensors if left_out <= 1 else (*tensors[:_FIRST], *tensors[-_LAST:])
    rows = [(_name(t), str(list(t.shape)), t.scheme, size(t.stored_bytes)) for t in shown]
    if left_out > 1:
        rows.insert(_FIRST, (f"… {left_out:,} more", "", "", ""))
    return rows


def _name(tensor: Tensor) -> str:
    return _clean(tensor.name)


def _clean(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _html_row(cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
