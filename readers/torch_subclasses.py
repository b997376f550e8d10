"""torchao's tensors in a pickle: classes around plain tensors, read as what they hold.

torch.save writes a wrapper subclass as

    _rebuild_from_type_v2(_rebuild_wrapper_subclass, CLASS, (CLASS, dtype, size, …), {NAME: …})

(torch/_tensor.py, `__reduce_ex__`). Such a tensor becomes a dict of its attributes that are
tensors, or wrappers again, and of settings: numbers, text, tuples, dtypes, and members of torchao's
enumerations as text. Three more say what it was: `_torchao`, the class, `_dtype` and `_size`.
Nothing is imported or called; all else of torchao stands for itself, without content.
"""

from __future__ import annotations

from typing import Any

from anamnesis.errors import FormatError
from anamnesis.readers.pickle_vm import Node
from anamnesis.readers.torch_records import TorchTensor

PACKAGE = "torchao"
KIND = "_torchao"  # the key of the class, which tells such a dict from others
_OWN = (KIND, "_dtype", "_size")
_MOST_ITEMS = 8  # of a setting: a longer list may be shared by many, and is not copied for each


class Setting:
    """A value of a class of torchao, of which only the name and a number or text are kept."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what


def is_torchao(module: str) -> bool:
    """Whether a global's module is of the package."""
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def setting(path: str, arguments: list[Any]) -> Setting:
    """What a call of a class stands for: of an enumeration, the value of its member."""
    simple = len(arguments) == 1 and type(arguments[0]) in (int, str)
    return Setting(f"{arguments[0]}"[:64] if simple else path[-64:])


def rebuilt(where: str, path: str, arguments: Any, state: Any) -> Node:
    """The dict of a wrapper of class `path`; raises FormatError for what is none."""
    if type(arguments) is not Node or len(arguments.items) < 3:
        raise FormatError(f"{where}: _rebuild_wrapper_subclass: has no class, dtype and size")
    if type(state) is not Node or state.kind != "dict":
        raise FormatError(f"{where}: {path:.200}: a tensor without attributes")
    items: list[Any] = [KIND, path.rpartition(".")[2]]
    items += ["_dtype", arguments.items[1], "_size", _plain(arguments.items[2])]
    for key, value in state.pairs():
        if type(key) is not str or key in _OWN or "." in key:
            raise FormatError(f"{where}: {path:.200}: an attribute {key!r:.80}")
        items += [key, _plain(value)]
    return Node("dict", items, max(state.depth, arguments.depth) + 1)


def is_wrapper(value: Any) -> bool:
    """Whether a node is a tensor of torchao's."""
    return type(value) is Node and value.kind == "dict" and value.items[:1] == [KIND]


def _plain(value: Any) -> Any:
    """Short lists of numbers as tuples, members of enumerations as text; others as they are."""
    if type(value) is Setting:
        return value.what
    if type(value) is not Node or value.kind not in ("list", "tuple"):
        return value
    if len(value.items) > _MOST_ITEMS or any(type(i) in (TorchTensor, Node) for i in value.items):
        return value
    return Node("tuple", list(value.items), value.depth)
