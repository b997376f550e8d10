"""Compile a kernel: read the kernel files once more, this time with numba, and keep object code.

A kernel file imports from `_jit` names that stand for numba's. Here the same files become modules
of another package, in which `_jit` is `_numba` and so the names are the real ones. Both exist side
by side: calls and glue stay with the first, and the second gives functions to the compiler.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from llvmlite import binding

from anamnesis import kernels
from anamnesis.kernels import _entry, _numba, _objects
from anamnesis.kernels._numba import none

_FROM = "anamnesis.kernels"
_TO = "anamnesis.kernels._compiled"


def object_code(function: Any, arguments: tuple[Any, ...], key: _entry.Key) -> bytes:
    """A kernel compiled for the types of `arguments`, `key`, as `_objects.pack` makes it.

    Without object files where numba made something else of these types than the entry of the kernel
    takes them to be, or the kernel needs more of numba than memory.
    """
    compiler = _again(function)
    signature = _numba.signature(arguments)
    compiler.compile(signature)
    made = compiler.overloads[signature]
    library, symbol = made.library, made.fndesc.llvm_func_name
    module = library._final_module
    values = [str(a.type) for a in module.get_function(symbol).arguments][2:]
    needs = {f.name for f in module.functions if f.is_declaration}
    needs |= {v.name for v in module.global_variables if v.is_declaration}
    foreign = {name for name in needs - _entry.GIVEN if not name.startswith("llvm.")}
    entry = _entry.Entry(symbol, key)
    if values != entry.kinds or foreign or made.signature.return_type != none:
        return _objects.pack([])
    machine = _objects.target_machine()
    first = machine.emit_object(binding.parse_assembly(entry.text))
    return _objects.pack([first, library._get_compiled_object()])


def dispatcher(function: Any) -> Any:
    """A kernel as numba calls it, compiled with what that takes."""
    return _numba.callable_from_python(_again(function))


def _again(function: Any) -> Any:
    """The same kernel of the other package; for one that no kernel file has, a copy."""
    package, _, name = function.__module__.rpartition(".")
    if package == _FROM:
        factory, constants = getattr(function, "variant", (function.__qualname__, None))
        found = getattr(again(name), factory)
        return found if constants is None else found(*constants)
    names = dict(function.__globals__)
    for name in function.__code__.co_names:
        if str(getattr(names.get(name), "__module__", "")).startswith(_FROM):
            names[name] = _replaced(names[name])
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    return _numba.jit(copy)


def _replaced(value: Any) -> Any:
    """What a name in a kernel file stands for once more."""
    for full, module in list(sys.modules.items()):
        package, _, name = full.rpartition(".")
        if package == _FROM:
            for attribute, found in vars(module).items():
                if found is value:
                    return getattr(again(name), attribute)
    return value


def again(name: str) -> ModuleType:
    """A kernel file as a module in which everything has numba's meaning."""
    return import_module(f"{_TO}.{name}")


class _Redirected(ExecutionLoader):
    """Loads a kernel file whose imports of kernel files are of the other package."""

    def get_filename(self, fullname: str) -> str:
        return str(Path(__file__).with_name(fullname.rpartition(".")[2] + ".py"))

    def get_source(self, fullname: str) -> str:
        return Path(self.get_filename(fullname)).read_text()

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_source(fullname), path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{_FROM}."):
                node.module = _TO + str(node.module).removeprefix(_FROM)
        return compile(tree, path, "exec")


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(f"{_TO}."):
            return None
        loader = _Redirected()
        return spec_from_file_location(fullname, loader.get_filename(fullname), loader=loader)


def _make_package() -> None:
    package = ModuleType(_TO)
    package.__path__ = []
    plain = {k: v for k, v in vars(kernels).items() if not isinstance(v, ModuleType)}
    package.__dict__.update({k: v for k, v in plain.items() if not k.startswith("__")})
    sys.modules[_TO] = package
    sys.modules[f"{_TO}._jit"] = _numba
    sys.meta_path.append(_Finder())


_make_package()
