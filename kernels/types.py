"""Types of what kernels take.

`Array` is a numpy array whose dtype and shape the docstring gives: bodies are compiled for those of
each call, and one of them may read bytes as words, or write BF16 as well as float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[Any]"
