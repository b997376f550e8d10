"""A tensor's values in memory, and its raw blocks, outside of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from anamnesis.pipeline.decode import OUT
from anamnesis.pipeline.members import check_tensor
from anamnesis.pipeline.plan import Step, step_for
from anamnesis.pipeline.windows import Windows
from anamnesis.readers.base import Tensor
from anamnesis.readers.batch import BlockReader, OpenFile, iter_windows
from anamnesis.readers.dtypes import DTYPES

if TYPE_CHECKING:
    import pyarrow as pa


class Values:
    """Ranges of one tensor's elements, decoded into the caller's memory.

    Only the blocks that a range touches are read; whole-tensor parameters once.
    """

    def __init__(self, tensor: Tensor, open_file: OpenFile, step: Step | None = None) -> None:
        """Prepare to decode `tensor` to its `out_dtype`, in the windows of `step`."""
        self.tensor = tensor
        self._step = step or step_for(tensor)
        self._open = open_file
        self._windows = Windows(self._step, open_file)

    @property
    def dtype(self) -> Any:
        """The numpy dtype that `fill` takes: BF16 as uint16 bits, BOOL as uint8."""
        return held_as(self._step.dtype)

    def fill(self, first: int, out: Any) -> None:
        """The elements from `first` on, flat in row-major order, into `out`, one-dimensional."""
        self._windows.fill(first, out)

    def check(self) -> None:
        """Hold archive entries that were read in order against their CRC-32."""
        check_tensor(self.tensor, self._windows.spans(), self._open)


def to_numpy(tensor: Tensor, open_file: OpenFile) -> npt.NDArray[Any]:
    """All values of a tensor, in its `out_dtype`, in one owned array of its output shape."""
    values = Values(tensor, open_file)
    out = np.empty(tensor.elems, values.dtype)
    values.fill(0, out)
    values.check()
    return as_public(out, tensor.out_dtype).reshape(tensor.shape)


def raw_batches(tensor: Tensor, open_file: OpenFile, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """The raw blocks of a tensor; every batch owns its memory."""
    from anamnesis.readers.record_batches import block_batches, whole_batch

    reader = BlockReader(tensor, open_file, reuse=False)
    parameters = whole_batch(tensor, reader.wholes())
    if parameters is not None:
        yield parameters
    step = step_for(tensor)
    per_unit = max(1, tensor.stored_bytes // max(1, tensor.units))
    units = max(1, max_bytes // per_unit // tensor.unit_multiple) * tensor.unit_multiple
    for window in iter_windows(tensor, min(units, step.batch_units)):
        yield from block_batches(tensor, reader.read(window))
    check_tensor(tensor, reader.spans(), open_file)


def as_public(out: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """BF16 bits as `ml_dtypes.bfloat16` and BOOL bytes as `bool`, in the same memory."""
    kind = public_dtype(dtype)
    return out if out.dtype == kind else out.view(kind)


def public_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype of values of a stored dtype."""
    special = {"BF16": ml_dtypes.bfloat16, "BOOL": np.bool_}
    return np.dtype(special.get(dtype) or DTYPES[dtype].numpy)


def held_as(dtype: str) -> np.dtype[Any]:
    """The numpy dtype that values are decoded as."""
    return np.dtype(OUT.get(dtype) or DTYPES[dtype].numpy)
