"""BF16 as Arrow's users know it: the extension type that Lance publishes, `lance.bfloat16`.

Arrow has no bfloat16. Lance (pylance, python/python/lance/_arrow/bf16.py of
https://github.com/lance-format/lance) registers this name over 2 bytes of fixed_size_binary, with
empty metadata, when `lance` is imported; the import fails when another has registered the name
before. So nothing is registered here unless `register_bfloat16` is called, and then Lance's own
type is taken wherever Lance is installed.
"""

from __future__ import annotations

import contextlib
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from anamnesis.writers.arrow_schema import BFLOAT16


class BFloat16Array(pa.ExtensionArray):  # type: ignore[misc]
    """An array of `BFloat16Type`."""

    def to_numpy(self, zero_copy_only: bool = True, writable: bool = False) -> Any:
        """The numbers as `ml_dtypes.bfloat16`, a view of Arrow's memory unless `writable`.

        Raises ValueError for nulls.
        """
        import ml_dtypes  # noqa: PLC0415

        if self.null_count:
            raise ValueError("nulls have no number")
        found = np.frombuffer(self.storage.buffers()[1] or b"", ml_dtypes.bfloat16)
        found = found[self.storage.offset : self.storage.offset + len(self)]
        return found.copy() if writable else found


class BFloat16Type(pa.ExtensionType):  # type: ignore[misc]
    """`lance.bfloat16`: little-endian, stored as `fixed_size_binary(2)`."""

    def __init__(self) -> None:
        super().__init__(pa.binary(2), BFLOAT16)

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Any:
        """What the metadata says is not looked at: there is nothing to know."""
        return cls()

    def __arrow_ext_class__(self) -> type[BFloat16Array]:
        return BFloat16Array


def register_bfloat16() -> pa.DataType:
    """Make this process's pyarrow know `lance.bfloat16`; the type that it then knows.

    A type that is registered already is left alone, and that of an installed Lance comes before
    ours. Calling it again does nothing.
    """
    known = _registered()
    if known is None and find_spec("lance") is not None:
        with contextlib.suppress(ImportError):
            import_module("lance.arrow")  # which registers its type
        known = _registered()
    if known is None:
        with contextlib.suppress(pa.ArrowKeyError):  # another thread was quicker
            pa.register_extension_type(BFloat16Type())
        known = _registered()
    return known


def _registered() -> pa.DataType | None:
    """The type that pyarrow makes of a field with the name, if it knows it."""
    about = {"ARROW:extension:name": BFLOAT16, "ARROW:extension:metadata": ""}
    schema = pa.schema([pa.field("x", pa.binary(2), metadata=about)])
    kind = pa.ipc.read_schema(schema.serialize()).field(0).type
    return kind if isinstance(kind, pa.BaseExtensionType) else None


__all__ = ["BFloat16Array", "BFloat16Type", "register_bfloat16"]
