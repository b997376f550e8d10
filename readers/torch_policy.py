"""What the pickle machine asks about a checkpoint: records for what the table of globals has.

A global that is not in it is a `SecurityError`, or with `Allow.leave_out_unknown` an `Unknown`, and
so is all that is made of it: nothing is run either way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anamnesis.errors import FormatError, SecurityError
from anamnesis.readers.pickle_vm import Node
from anamnesis.readers.torch_globals import (
    ALLOWED,
    NOTHING_RAN,
    TORCHAO,
    Global,
    Scalar,
    Unknown,
    dict_like,
)
from anamnesis.readers.torch_records import TorchTensor
from anamnesis.readers.torch_steps import TensorSteps
from anamnesis.readers.torch_subclasses import Setting, is_torchao, setting

_PATH_CHARACTERS = 200  # of an unknown global that are kept


class StateDictPolicy:
    """Records for what is in the table; SecurityError for everything else, or an `Unknown`."""

    def __init__(
        self, where: str, load: Callable[[Any], Any], *, leave_out_unknown: bool = False
    ) -> None:
        """`load` answers for persistent ids."""
        self._where, self.persistent = where, load
        self.run_entries = TensorSteps(where, load).run
        self._lenient = leave_out_unknown

    def find(self, module: str, name: str) -> Any:
        found = ALLOWED.get((module, name))
        if found is None and is_torchao(module):
            return Global(f"{module}.{name}"[:_PATH_CHARACTERS], TORCHAO)
        if found is None:
            return self._unknown(f"global {_shown(module, name)}", f"{module}.{name}")
        return found

    def extension(self, code: int) -> Any:
        what = f"global number {code} of copyreg's extension registry"
        return self._unknown(what, f"copyreg extension {code}")

    def call(self, function: Any, arguments: Any) -> Any:
        if type(function) is Unknown:
            return function
        if type(function) is not Global:
            raise FormatError(f"{self._where}: REDUCE of something that is no function")
        if type(arguments) is not Node or arguments.kind != "tuple":
            raise FormatError(f"{self._where}: {function.path}: its arguments are no tuple")
        for argument in arguments.items:
            if type(argument) is Unknown:  # a tensor of an unknown class, say
                return argument
        if function.role == TORCHAO:
            return setting(function.path, arguments.items)
        if function.call is None:
            return self._unknown(f"a call of {function.path}", function.path)
        return function.call(self._where, arguments.items)

    def construct(self, how: str, cls: Any, arguments: Any) -> Any:
        if type(cls) is Unknown:
            return cls
        if how == "NEWOBJ" and dict_like(cls):
            return Node("dict", [])  # `__new__` of a dict takes no notice of arguments
        if type(cls) is Global and cls.role == TORCHAO:
            return Setting(cls.path[-64:])
        path = cls.path if type(cls) is Global else "something that is no class"
        return self._unknown(f"opcode {how}, which makes an object of {path}", path)

    def build(self, target: Any, state: Any) -> Any:
        """Attributes of a dict (`_metadata`) or a tensor are of no use here."""
        if type(target) in (Unknown, Scalar, Setting):
            return target
        if type(target) is TorchTensor or (type(target) is Node and target.kind == "dict"):
            for key in _keys(state):
                if type(key) is str and key.startswith("__"):
                    raise self._security(f"opcode BUILD, which sets {key!r:.100}")
            return target
        if type(target) is Global:
            raise self._security(f"opcode BUILD, which changes {target.path}")
        raise FormatError(f"{self._where}: BUILD on something that has no state")

    def is_tensor(self, value: Any) -> bool:
        return type(value) is TorchTensor

    def tolerates(self, what: str, value: Any) -> bool:
        return type(value) is Unknown

    def _unknown(self, what: str, path: str) -> Unknown:
        if self._lenient:
            return Unknown(path[:_PATH_CHARACTERS])
        error = self._security(what)
        raise SecurityError(f"{error}; --leave-out-unknown leaves such objects out, unrun")

    def _security(self, what: str) -> SecurityError:
        return SecurityError(
            f"{self._where}: names {what}, which no tensor needs; {NOTHING_RAN}. "
            "`amn inspect --globals` lists all that the file names"
        )


def _keys(state: Any) -> list[Any]:
    """Keys of a state, and of the dicts in the tuple that slots make it."""
    if type(state) is not Node:
        return []
    if state.kind == "dict":
        return state.items[::2]
    return [key for item in state.items if type(item) is Node for key in item.items[::2]]


def _shown(module: str, name: str) -> str:
    path = f"{module}.{name}"
    return repr(path[:200]) + (", …" if len(path) > 200 else "")
