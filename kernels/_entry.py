"""The entry of a compiled kernel, in LLVM IR, and the memory that kernels ask for.

The entry is a function of CPython's, `METH_FASTCALL`: (self, arguments, count). It compares the
types of what it is given with those that the kernel was compiled for, takes the values out, and
calls the kernel without the GIL; the result is None, or NotImplemented where something else is to
be done. What it needs of Python, addresses, is in a table that is filled after loading.

numba's native calling convention (numba/core/callconv.py, `CPUCallConv`) is

    int32 kernel(return value *, exception **, values...)

where an array is meminfo, parent, item count, item bytes, data, shape and strides
(numba/core/datamodel/models.py, `ArrayModel`). The last three are read from the array object, whose
layout is part of numpy's binary interface (numpy/ndarraytypes.h, `PyArrayObject_fields`: head,
data, int nd, dimensions, strides, base, descr, int flags).

Kernels allocate by numba's functions (numba/core/runtime/nrt.cpp), which need numba, so here are
two that do the same. A MemInfo is: references, destructor, its argument, data, size, allocator.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

NAME, TABLE = "anamnesis_kernel", "anamnesis_table"
GIVEN = {"NRT_MemInfo_alloc_aligned", "NRT_MemInfo_call_dtor"}
SCALARS: dict[Any, str] = {
    bool: "i8",
    int: "i64",
    float: "double",
    np.bool_: "i8",
    np.float32: "float",
    np.float64: "double",
    **{getattr(np, f"int{bits}"): f"i{bits}" for bits in (8, 16, 32, 64)},
    **{getattr(np, f"uint{bits}"): f"i{bits}" for bits in (8, 16, 32)},
}
_C, _F, _WRITEABLE = 1, 2, 0x400  # numpy/ndarraytypes.h, NPY_ARRAY_*
_HEAD = object.__basicsize__
_TYPE = _HEAD - 8
_DATA, _NDIM, _SHAPE, _STRIDES, _DESCR, _FLAGS = (
    _HEAD + offset for offset in (0, 8, 16, 24, 40, 48)
)
# The first entries of the table; those of the argument types follow.
_FUNCTIONS = {
    "PyEval_SaveThread": "ptr ()",
    "PyEval_RestoreThread": "void (ptr)",
    "PyLong_AsLongLong": "i64 (ptr)",
    "PyFloat_AsDouble": "double (ptr)",
    "PyObject_IsTrue": "i32 (ptr)",
    "PyTuple_GetItem": "ptr (ptr, i64)",
    "PyTuple_Size": "i64 (ptr)",
    "PyErr_Occurred": "ptr ()",
    "PyErr_Clear": "void ()",
    "Py_IncRef": "void (ptr)",
}
_OBJECTS = (None, NotImplemented)

_MEMORY = """
declare ptr @malloc(i64)
declare void @free(ptr)

define ptr @NRT_MemInfo_alloc_aligned(i64 %size, i32 %align) {
  %alignment = zext i32 %align to i64
  %spare = add i64 %alignment, 48
  %total = add i64 %size, %spare
  %info = call ptr @malloc(i64 %total)
  %failed = icmp eq ptr %info, null
  br i1 %failed, label %done, label %fill
fill:
  call void @llvm.memset.p0.i64(ptr %info, i8 0, i64 48, i1 false)
  store i64 1, ptr %info
  %begin = ptrtoint ptr %info to i64
  %last = add i64 %begin, 47
  %beyond = add i64 %last, %alignment
  %mask = sub i64 0, %alignment
  %aligned = and i64 %beyond, %mask
  %data = inttoptr i64 %aligned to ptr
  %data_field = getelementptr i8, ptr %info, i64 24
  store ptr %data, ptr %data_field
  %size_field = getelementptr i8, ptr %info, i64 32
  store i64 %size, ptr %size_field
  br label %done
done:
  ret ptr %info
}

define void @NRT_MemInfo_call_dtor(ptr %info) {
  call void @free(ptr %info)
  ret void
}

declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""

# What a kernel takes: a tuple of such, an array's `(dtype, dimensions, flags)`, or a type.
Key = tuple[Any, ...]


def array_key(array: Any) -> tuple[Any, int, int]:
    """An array's part of a key: numba sees C order where it can, Fortran's next."""
    flags = array.flags.num
    return array.dtype, array.ndim, flags & _mask(flags)


def _mask(flags: int) -> int:
    return _WRITEABLE | (_C if flags & _C else _C | _F)


def is_array(part: Any) -> bool:
    """Whether a part of a key is an array's."""
    return isinstance(part, tuple) and bool(part) and isinstance(part[0], np.dtype)


def table(key: Key) -> list[int]:
    """What the table of an entry for `key` holds in this process."""
    functions = [getattr(ctypes.pythonapi, name) for name in _FUNCTIONS]
    addresses = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]
    return addresses + [id(thing) for thing in (*_OBJECTS, *_compared(key))]


def _compared(key: Key) -> list[Any]:
    """The objects that an entry compares with, in its order."""
    found: list[Any] = []
    for part in key:
        if is_array(part):
            found += [np.ndarray, part[0]]
        elif isinstance(part, tuple):
            found += [tuple, *_compared(part)]
        else:
            found.append(part)
    return found


class Entry:
    """A module with the entry of the kernel that numba named `symbol`, as `text`.

    `kinds` are the LLVM types of the values that it gives the kernel.
    """

    def __init__(self, symbol: str, key: Key) -> None:
        self._body: list[str] = []
        self._names = 0
        self._next = len(_FUNCTIONS) + len(_OBJECTS)
        self._values: list[tuple[str, str]] = []
        self._check(f"icmp eq i64 %count, {len(key)}")
        for i, part in enumerate(key):
            at = self._set(f"getelementptr ptr, ptr %args, i64 {i}")
            self._take(self._set(f"load ptr, ptr {at}"), part)
        self.kinds = [kind for kind, _ in self._values]
        thread = self._call("PyEval_SaveThread")
        given = ", ".join(["ptr %result", "ptr %exception", *(" ".join(v) for v in self._values)])
        status = self._set(f'call i32 @"{symbol}"({given})')
        self._call("PyEval_RestoreThread", f"ptr {thread}")
        self._check(f"icmp eq i32 {status}, 0")
        declared = ", ".join(["ptr", "ptr", *self.kinds])
        self.text = "\n".join(
            [
                _MEMORY,
                f"@{TABLE} = global [{self._next} x ptr] zeroinitializer",
                f'declare i32 @"{symbol}"({declared})',
                f"define ptr @{NAME}(ptr %self, ptr %args, i64 %count) {{",
                "%result = alloca ptr",
                "%exception = alloca ptr",
                *self._body,
                *self._return(0),
                "no:",
                *self._return(1),
                "}",
            ]
        )

    def _set(self, operation: str) -> str:
        self._names += 1
        self._body.append(f"%v{self._names} = {operation}")
        return f"%v{self._names}"

    def _check(self, condition: str) -> None:
        """Go on if it holds."""
        holds = self._set(condition)
        self._names += 1
        self._body.append(f"br i1 {holds}, label %l{self._names}, label %no")
        self._body.append(f"l{self._names}:")

    def _entry(self, index: int) -> str:
        at = self._set(f"getelementptr ptr, ptr @{TABLE}, i64 {index}")
        return self._set(f"load ptr, ptr {at}")

    def _call(self, name: str, *arguments: str) -> str:
        result = _FUNCTIONS[name].split()[0]
        function = self._entry(list(_FUNCTIONS).index(name))
        call = f"call {result} {function}({', '.join(arguments)})"
        if result != "void":
            return self._set(call)
        self._body.append(call)
        return ""

    def _return(self, index: int) -> list[str]:
        self._body = []
        if index:
            self._call("PyErr_Clear")  # of a number that does not fit
        thing = self._entry(len(_FUNCTIONS) + index)
        self._call("Py_IncRef", f"ptr {thing}")
        return [*self._body, f"ret ptr {thing}"]

    def _field(self, thing: str, offset: int, kind: str) -> str:
        at = self._set(f"getelementptr i8, ptr {thing}, i64 {offset}")
        return self._set(f"load {kind}, ptr {at}")

    def _same(self, thing: str) -> None:
        """Go on if it is the next thing of the table."""
        wanted = self._entry(self._next)
        self._next += 1
        self._check(f"icmp eq ptr {thing}, {wanted}")

    def _take(self, thing: str, part: Any) -> None:
        self._same(self._field(thing, _TYPE, "ptr"))
        if is_array(part):
            self._array(thing, *part)
        elif isinstance(part, tuple):
            size = self._call("PyTuple_Size", f"ptr {thing}")
            self._check(f"icmp eq i64 {size}, {len(part)}")
            for i, inner in enumerate(part):
                self._take(self._call("PyTuple_GetItem", f"ptr {thing}", f"i64 {i}"), inner)
        else:
            self._values.append((SCALARS[part], self._number(thing, SCALARS[part], part)))

    def _number(self, thing: str, kind: str, part: Any) -> str:
        if part in (bool, np.bool_):
            return self._set(f"trunc i32 {self._call('PyObject_IsTrue', f'ptr {thing}')} to i8")
        if kind in ("float", "double"):
            value = self._call("PyFloat_AsDouble", f"ptr {thing}")
            return value if kind == "double" else self._set(f"fptrunc double {value} to float")
        value = self._call("PyLong_AsLongLong", f"ptr {thing}")
        error = self._call("PyErr_Occurred")
        self._check(f"icmp eq ptr {error}, null")
        return value if kind == "i64" else self._set(f"trunc i64 {value} to {kind}")

    def _array(self, thing: str, dtype: Any, ndim: int, flags: int) -> None:
        self._same(self._field(thing, _DESCR, "ptr"))
        self._check(f"icmp eq i32 {self._field(thing, _NDIM, 'i32')}, {ndim}")
        bits = self._field(thing, _FLAGS, "i32")
        bits = self._set(f"and i32 {bits}, {_mask(flags)}")
        self._check(f"icmp eq i32 {bits}, {flags}")
        shape, strides = (self._field(thing, offset, "ptr") for offset in (_SHAPE, _STRIDES))
        sides = [self._field(shape, 8 * axis, "i64") for axis in range(ndim)]
        count = "1"
        for side in sides:
            count = self._set(f"mul i64 {count}, {side}")
        self._values += [("ptr", "null"), ("ptr", "null"), ("i64", count)]
        self._values += [("i64", str(dtype.itemsize)), ("ptr", self._field(thing, _DATA, "ptr"))]
        self._values += [("i64", side) for side in sides]
        self._values += [("i64", self._field(strides, 8 * axis, "i64")) for axis in range(ndim)]


@cache
def fits() -> bool:
    """Whether array objects are laid out as the entry takes them to be."""
    array: np.ndarray = np.empty((2, 3, 5), np.uint16)

    def number(offset: int, kind: Any = ctypes.c_ssize_t) -> int:
        return int(kind.from_address(id(array) + offset).value)

    if ctypes.sizeof(ctypes.c_void_p) != 8 or number(_TYPE) != id(np.ndarray):
        return False
    shape, strides = number(_SHAPE), number(_STRIDES)
    if number(_DATA) != array.__array_interface__["data"][0] or strides - shape != 24:
        return False  # numpy has one after the other; anything else may be no address
    if number(_NDIM, ctypes.c_int) != 3 or number(_DESCR) != id(array.dtype):
        return False
    if number(_FLAGS, ctypes.c_int) != array.flags.num:
        return False
    return list((ctypes.c_ssize_t * 6).from_address(shape)) == [2, 3, 5, 30, 10, 2]
