"""Which globals a checkpoint may name, and the record that each one stands for.

The rows are what state dicts need, out of `_get_allowed_globals` in torch's
_weights_only_unpickler.py, and NumPy's scalars, which trainers keep beside weights; nothing of
torch or NumPy is imported. Values that are no tensors (bytes, complex numbers, counters) become
records without content. What is called `torchao.…` stands for itself (`torch_subclasses.py`). Any
other global that is not in the table is a `SecurityError`, or with `Allow.leave_out_unknown` an
`Unknown`, and so is all that is made of it: nothing is run either way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from anamnesis.errors import FormatError, SecurityError
from anamnesis.readers.pickle_vm import Node
from anamnesis.readers.torch_records import STORAGE_CLASSES, TORCH_DTYPES, TorchTensor, view
from anamnesis.readers.torch_subclasses import is_wrapper, rebuilt

TORCHAO = "torchao"  # a class or function of that package, which stands for itself
NOTHING_RAN = "nothing was imported or called"


@dataclass(frozen=True, slots=True)
class Global:
    """An allowed global. `role` is "function", "class", "storage", "dtype", "name" or `TORCHAO`."""

    path: str
    role: str
    value: str = ""  # the dtype, of a storage or dtype
    call: Callable[[str, list[Any]], Any] | None = None


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value that is no tensor and has no number or text of its own: a device, bytes."""

    what: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """What stands for an object of a class, or of a function, that is not in the table."""

    path: str


def _dict(where: str, arguments: list[Any]) -> Node:
    """OrderedDict() and OrderedDict([[key, value], …]), which Python 2 wrote."""
    node = Node("dict", [])
    if not arguments:
        return node
    if len(arguments) > 1 or type(arguments[0]) is not Node:
        raise FormatError(f"{where}: OrderedDict: must be called with one list")
    source = arguments[0]
    if source.kind == "dict":
        node.items += source.items
    else:
        for item in source.items:
            if type(item) is not Node or item.kind == "dict" or len(item.items) != 2:
                raise FormatError(f"{where}: OrderedDict: its list must hold pairs")
            if type(item.items[0]) is Node:
                raise FormatError(f"{where}: OrderedDict: a key must be text or a number")
            node.items += item.items
    node.depth = source.depth
    return node


def _set(where: str, arguments: list[Any]) -> Node:
    items = arguments[0] if arguments else Node("list", [])
    if len(arguments) > 1 or type(items) is not Node:
        raise FormatError(f"{where}: set: must be called with one list")
    return Node("set", list(items.items), items.depth)


def _size(where: str, arguments: list[Any]) -> Node:
    items = arguments[0] if len(arguments) == 1 else None
    if type(items) is not Node or items.kind not in ("tuple", "list"):
        raise FormatError(f"{where}: torch.Size: must be called with one tuple")
    return Node("tuple", list(items.items), items.depth)


def _scalar(what: str) -> Callable[[str, list[Any]], Scalar]:
    def call(where: str, arguments: list[Any]) -> Scalar:
        return Scalar(what)

    return call


def _encoded(where: str, arguments: list[Any]) -> Scalar:
    """_codecs.encode(text, "latin1"), as protocol 2 spells bytes; no other codec is one."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise SecurityError(
            f"{where}: a call of '_codecs.encode' that spells no bytes; {NOTHING_RAN}"
        )
    return Scalar("bytes")


def _no_bytes(where: str, arguments: list[Any]) -> Scalar:
    """bytes(), as protocol 2 spells those that are empty."""
    if arguments:
        raise SecurityError(f"{where}: a call of 'builtins.bytes'; {NOTHING_RAN}")
    return Scalar("bytes")


def _bytearray(where: str, arguments: list[Any]) -> Scalar:
    """bytearray(), bytearray(bytes) and, of protocol 2, bytearray(text, "latin-1")."""
    kinds = [type(argument) for argument in arguments]
    if kinds not in ([], [bytes], [Scalar], [str, str]):
        raise SecurityError(f"{where}: a call of 'builtins.bytearray' with no bytes; {NOTHING_RAN}")
    return Scalar("bytearray")


def _tensor(where: str, arguments: list[Any]) -> TorchTensor:
    """_rebuild_tensor(storage, storage_offset, size, stride)."""
    _count(where, "_rebuild_tensor", arguments, 4, 4)
    storage, offset, size, stride = arguments
    return view(where, storage, offset, size, stride)


def _tensor_v2(where: str, arguments: list[Any]) -> TorchTensor:
    """_rebuild_tensor_v2(…, requires_grad, backward_hooks, metadata=None)."""
    _count(where, "_rebuild_tensor_v2", arguments, 6, 7)
    storage, offset, size, stride = arguments[:4]
    return _with_metadata(view(where, storage, offset, size, stride), arguments[6:])


def _tensor_v3(where: str, arguments: list[Any]) -> TorchTensor:
    """_rebuild_tensor_v3(…, requires_grad, backward_hooks, dtype, metadata=None)."""
    _count(where, "_rebuild_tensor_v3", arguments, 7, 8)
    dtype = arguments[6]
    if type(dtype) is not Global or dtype.role != "dtype":
        raise FormatError(f"{where}: _rebuild_tensor_v3: dtype: must be a torch dtype")
    storage, offset, size, stride = arguments[:4]
    tensor = view(where, storage, offset, size, stride, dtype.value)
    return _with_metadata(tensor, arguments[7:])


def _parameter(where: str, arguments: list[Any]) -> TorchTensor | Node:
    """_rebuild_parameter(data, requires_grad, backward_hooks), and one more with state."""
    _count(where, "_rebuild_parameter", arguments, 1, 4)
    data = arguments[0]
    if type(data) is not TorchTensor and not is_wrapper(data):
        raise FormatError(f"{where}: _rebuild_parameter: its data is no tensor")
    return data  # type: ignore[no-any-return]


def _wrapper(where: str, arguments: list[Any]) -> Any:
    raise FormatError(f"{where}: _rebuild_wrapper_subclass: a tensor without attributes")


def _from_type(where: str, arguments: list[Any]) -> TorchTensor | Node:
    """_rebuild_from_type_v2(function, type, arguments, state): a tensor with attributes."""
    _count(where, "_rebuild_from_type_v2", arguments, 4, 4)
    function, kind, inner, state = arguments
    if type(function) is Global and type(kind) is Global and kind.role == TORCHAO:
        if function.call is _wrapper:
            return rebuilt(where, kind.path, inner, state)
        raise FormatError(f"{where}: {kind.path:.200}: is rebuilt as no tensor of its class")
    if type(function) is not Global or function.role != "function" or function.call is None:
        raise FormatError(f"{where}: _rebuild_from_type_v2: its function rebuilds no tensor")
    if function.call is _from_type or type(kind) is not Global or kind.role != "class":
        raise FormatError(f"{where}: _rebuild_from_type_v2: its type is no kind of tensor")
    if type(inner) is not Node or inner.kind != "tuple":
        raise FormatError(f"{where}: _rebuild_from_type_v2: its arguments are no tuple")
    tensor = function.call(where, inner.items)
    if type(tensor) is not TorchTensor:
        raise FormatError(f"{where}: _rebuild_from_type_v2: its function rebuilds no tensor")
    return tensor


def _refused(what: str) -> Callable[[str, list[Any]], TorchTensor]:
    """A tensor that is recognised and not converted; whoever finds it names it."""

    def call(where: str, arguments: list[Any]) -> TorchTensor:
        return TorchTensor("uint8", (0,), refused=what)

    return call


def _with_metadata(tensor: TorchTensor, metadata: list[Any]) -> TorchTensor:
    """A tensor may say that its numbers are to be negated or conjugated when read."""
    if not metadata or metadata[0] is None:
        return tensor
    if type(metadata[0]) is Node and not metadata[0].items:
        return tensor
    what = "a tensor with a lazy sign or conjugate (metadata)"
    return replace(tensor, refused=what)


def _count(where: str, name: str, arguments: list[Any], least: int, most: int) -> None:
    if not least <= len(arguments) <= most:
        raise FormatError(f"{where}: {name}: has {len(arguments)} arguments, not {least}..{most}")


def dict_like(cls: Any) -> bool:
    """Whether a call of `cls` makes a dict."""
    return type(cls) is Global and cls.call is _dict


_Row = tuple[str, Callable[[str, list[Any]], Any] | None]
_ROWS: dict[tuple[str, str], _Row] = {
    ("__builtin__", "bytearray"): ("class", _bytearray),
    ("__builtin__", "bytes"): ("class", _no_bytes),
    ("__builtin__", "complex"): ("class", _scalar("complex")),
    ("__builtin__", "set"): ("class", _set),
    ("_codecs", "encode"): ("function", _encoded),
    ("builtins", "bytearray"): ("class", _bytearray),
    ("builtins", "complex"): ("class", _scalar("complex")),
    ("builtins", "set"): ("class", _set),
    ("collections", "Counter"): ("class", _dict),
    ("collections", "OrderedDict"): ("class", _dict),
    ("numpy", "dtype"): ("class", _scalar("numpy.dtype")),
    ("numpy._core.multiarray", "scalar"): ("function", _scalar("numpy scalar")),
    ("numpy.core.multiarray", "scalar"): ("function", _scalar("numpy scalar")),
    ("torch", "Size"): ("class", _size),
    ("torch", "Tensor"): ("class", None),
    ("torch", "device"): ("class", _scalar("device")),
    ("torch", "per_channel_affine"): ("name", None),
    ("torch", "per_channel_affine_float_qparams"): ("name", None),
    ("torch", "per_channel_symmetric"): ("name", None),
    ("torch", "per_tensor_affine"): ("name", None),
    ("torch", "per_tensor_symmetric"): ("name", None),
    ("torch._tensor", "_rebuild_from_type"): ("function", _from_type),
    ("torch._tensor", "_rebuild_from_type_v2"): ("function", _from_type),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): (
        "function",
        _refused("a tensor without data (torch.device('meta'))"),
    ),
    ("torch._utils", "_rebuild_nested_tensor"): ("function", _refused("a nested tensor")),
    ("torch._utils", "_rebuild_parameter"): ("function", _parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): ("function", _parameter),
    ("torch._utils", "_rebuild_qtensor"): ("function", _refused("a quantised tensor of torch")),
    ("torch._utils", "_rebuild_sparse_tensor"): ("function", _refused("a sparse tensor")),
    ("torch._utils", "_rebuild_tensor"): ("function", _tensor),
    ("torch._utils", "_rebuild_tensor_v2"): ("function", _tensor_v2),
    ("torch._utils", "_rebuild_tensor_v3"): ("function", _tensor_v3),
    ("torch._utils", "_rebuild_wrapper_subclass"): ("function", _wrapper),
    ("torch.nn.parameter", "Buffer"): ("class", None),
    ("torch.nn.parameter", "Parameter"): ("class", None),
    ("torch.serialization", "_get_layout"): ("function", _scalar("layout")),
    ("torch.tensor", "_rebuild_from_type"): ("function", _from_type),
    ("torch.tensor", "_rebuild_from_type_v2"): ("function", _from_type),
}


def _table() -> dict[tuple[str, str], Global]:
    table = {
        (module, name): Global(f"{module}.{name}", role, call=call)
        for (module, name), (role, call) in _ROWS.items()
    }
    for name, dtype in STORAGE_CLASSES.items():
        table["torch", name] = Global(f"torch.{name}", "storage", dtype)
    table["torch.storage", "UntypedStorage"] = Global(
        "torch.storage.UntypedStorage", "storage", "uint8"
    )
    for name in TORCH_DTYPES:
        table["torch", name] = Global(f"torch.{name}", "dtype", name)
    return table


# By module and name apart: a dotted name must not reach into an allowed module.
ALLOWED: dict[tuple[str, str], Global] = _table()
REBUILD_TENSOR = ALLOWED["torch._utils", "_rebuild_tensor_v2"]
