"""The entry of a compiled kernel, in LLVM IR, and the memory that kernels ask for.

numba's native calling convention (numba/core/callconv.py, `CPUCallConv`) is

    int32 kernel(return value *, exception **, values...)

where an array is meminfo, parent, item count, item bytes, data, shape and strides
(numba/core/datamodel/models.py, `ArrayModel`). The entry, which ctypes calls, is given
the array object instead and reads the last three from it: they are part of numpy's binary interface
(numpy/ndarraytypes.h, `PyArrayObject_fields`: head, data, int nd, dimensions, strides).

Kernels allocate by numba's functions (numba/core/runtime/nrt.cpp), which need numba, so here are
two that do the same. A MemInfo is: references, destructor, its argument, data, size, allocator.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

NAME = "anamnesis_kernel"
GIVEN = {"NRT_MemInfo_alloc_aligned", "NRT_MemInfo_call_dtor"}
_HEAD = object.__basicsize__
_DATA, _SHAPE, _STRIDES = _HEAD, _HEAD + 16, _HEAD + 24

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

Takes = Sequence[str | tuple[int, int]]


def values(takes: Takes) -> list[str]:
    """The LLVM types of the values that a kernel is given."""
    return [kind for kind, _ in _loads(takes, [])]


def text(symbol: str, takes: Takes) -> str:
    """A module with the entry of the kernel that numba named `symbol`.

    The entry `takes` scalars of LLVM types, and array objects of `(dimensions, item bytes)`.
    """
    body: list[str] = []
    given = ["ptr %result", "ptr %exception", *(" ".join(v) for v in _loads(takes, body))]
    kinds = ["ptr", "ptr", *values(takes)]
    parameters = [f"{t if isinstance(t, str) else 'ptr'} %a{i}" for i, t in enumerate(takes)]
    lines = [
        _MEMORY,
        f'declare i32 @"{symbol}"({", ".join(kinds)})',
        f"define i32 @{NAME}({', '.join(parameters)}) {{",
        "%result = alloca ptr",
        "%exception = alloca ptr",
        *body,
        f'%status = call i32 @"{symbol}"({", ".join(given)})',
        "ret i32 %status",
        "}",
    ]
    return "\n".join(lines)


def _loads(takes: Takes, body: list[str]) -> Iterator[tuple[str, str]]:
    """The type and name of each value; lines that compute them are added to `body`."""
    for i, kind in enumerate(takes):
        if isinstance(kind, str):
            yield kind, f"%a{i}"
            continue
        ndim, item_bytes = kind
        body.append(f"%a{i}.n0 = add i64 0, 1")
        for name, offset in (("data", _DATA), ("shape", _SHAPE), ("strides", _STRIDES)):
            body.append(f"%a{i}.{name}.at = getelementptr i8, ptr %a{i}, i64 {offset}")
            body.append(f"%a{i}.{name} = load ptr, ptr %a{i}.{name}.at")
        for name in ("shape", "strides"):
            for axis in range(ndim):
                at = f"%a{i}.{name}{axis}"
                body.append(f"{at}.at = getelementptr i64, ptr %a{i}.{name}, i64 {axis}")
                body.append(f"{at} = load i64, ptr {at}.at")
        for axis in range(ndim):
            body.append(f"%a{i}.n{axis + 1} = mul i64 %a{i}.n{axis}, %a{i}.shape{axis}")
        yield from (("ptr", "null"), ("ptr", "null"))
        yield from (("i64", f"%a{i}.n{ndim}"), ("i64", str(item_bytes)), ("ptr", f"%a{i}.data"))
        for name in ("shape", "strides"):
            yield from (("i64", f"%a{i}.{name}{axis}") for axis in range(ndim))


@cache
def fits() -> bool:
    """Whether array objects are laid out as the entry takes them to be."""
    array: np.ndarray = np.empty((2, 3, 5), np.uint16)

    def number(offset: int) -> int:
        return ctypes.c_ssize_t.from_address(id(array) + offset).value

    shape, strides = number(_SHAPE), number(_STRIDES)
    if ctypes.sizeof(ctypes.c_void_p) != 8 or number(_DATA) != array.__array_interface__["data"][0]:
        return False
    if ctypes.c_int.from_address(id(array) + _DATA + 8).value != 3 or strides - shape != 24:
        return False  # numpy has one after the other; anything else may be no address
    return list((ctypes.c_ssize_t * 6).from_address(shape)) == [2, 3, 5, 30, 10, 2]
