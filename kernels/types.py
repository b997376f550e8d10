"""Types of what kernels take, by what numpy says of them; shapes are in docstrings.

`Array` is one whose dtype differs from call to call: bodies are compiled for those of each, and
one may read bytes as words, or write BF16 as well as float32. Inside bodies the same names are
those of short vectors (`bodies/_vector.py`), which are numpy arrays where nothing is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[Any]"
Bytes: TypeAlias = "npt.NDArray[np.uint8]"
Doubles: TypeAlias = "npt.NDArray[np.float64]"
Flags: TypeAlias = "npt.NDArray[np.bool_]"
Floats: TypeAlias = "npt.NDArray[np.float32]"
Halves: TypeAlias = "npt.NDArray[np.uint16]"  # 16 bits: BF16, binary16 or codes
Indices: TypeAlias = "npt.NDArray[np.int64]"
Ints: TypeAlias = "npt.NDArray[np.int32]"
Longs: TypeAlias = "npt.NDArray[np.uint64]"
Signed: TypeAlias = "npt.NDArray[np.int8]"
Words: TypeAlias = "npt.NDArray[np.uint32]"

Numbers: TypeAlias = "tuple[npt.NDArray[Any], bool]"  # bits of 16 or 32, and whether binary16

# Numbers of bodies: numba gives each the type that the call has.
Real: TypeAlias = "np.floating[Any]"
Integer: TypeAlias = "int | np.integer[Any]"


class Component(Protocol):
    """A whole component of a tensor: numbers in the stored shape, raw where numpy has no dtype.

    A named tuple, of this room or of another.
    """

    @property
    def dtype(self) -> str: ...

    @property
    def array(self) -> Array: ...

    def _replace(self, *, array: Array) -> Component: ...


# What kernels are called with (`kernels/__init__.py`), by a component's role or a parameter's name.
Views: TypeAlias = "Mapping[str, Bytes]"  # of a window: uint8 [units, bytes], or [lines, bytes]
Wholes: TypeAlias = "Mapping[str, Component]"  # components that windows do not cut
Params: TypeAlias = "Mapping[str, Any]"  # settings of the tensor, and what `prepare` made of wholes
Outputs: TypeAlias = "Mapping[str, Array]"  # parts that an encoder fills
