"""Types of what makes an intrinsic: numba's while it types a call, LLVM's while it is lowered.

    typing:  `(typingctx, a type for each argument)` gives a signature and its builder, or None
    builder: `(context, builder, signature, args)` gives the LLVM value of the result

Names alone, which cost no import when kernels run from object code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from llvmlite import ir
    from numba import types

Builder: TypeAlias = "ir.IRBuilder"
Type: TypeAlias = "types.Type"  # numba's, of an argument or a result
Kind: TypeAlias = "ir.Type"  # LLVM's
Value: TypeAlias = "ir.Value"  # of LLVM: what an instruction gives
Values: TypeAlias = Sequence[Value]


class Typing(Protocol):
    """What types a call; intrinsics here ask nothing of it."""


class Context(Protocol):
    """What lowers a call, as far as it is used here."""

    def codegen(self) -> Any: ...

    def cast(self, builder: Builder, value: Value, kind: Type, to: Type, /) -> Any: ...

    def get_abi_sizeof(self, kind: Kind, /) -> int: ...

    def get_data_type(self, kind: Type, /) -> Any: ...

    def get_dummy_value(self) -> Any: ...

    def get_value_type(self, kind: Type, /) -> Any: ...

    def make_array(self, kind: Type, /) -> Any: ...

    def make_tuple(self, builder: Builder, kind: Type, values: Values, /) -> Any: ...

    def populate_array(self, array: Any, /, **fields: Any) -> Any: ...


class Signature(Protocol):
    """The types of a call."""

    args: Sequence[Type]
