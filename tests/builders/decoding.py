"""Tensors read and decoded in windows, by the reader and the kernels alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import decoder, preparer
from anamnesis.readers.base import Tensor
from anamnesis.readers.batch import BlockReader, iter_windows
from anamnesis.readers.files import Files


def decoded(tensor: Tensor, units: int = 0, dtype: Any = np.uint16) -> Any:
    """All of a tensor, in windows of `units` (0: one of all) that are rounded up to whole ones.

    Kernels get arrays that they cannot write to.
    """
    step = max(units or tensor.units, 1)
    step += -step % tensor.unit_multiple
    files = Files()
    reader = BlockReader(tensor, files, reuse=True)
    params, prepare = dict(tensor.params), preparer(tensor.encoding)
    if prepare is not None:
        params |= prepare(tensor.params, reader.wholes())
    out = np.full(tensor.elems, 0x7777, dtype)
    for window in iter_windows(tensor, step):
        part = out[window.start * tensor.unit_elems : window.stop * tensor.unit_elems]
        views = reader.read(window).views
        for view in views.values():
            view.setflags(write=False)
        decoder(tensor.encoding)(views, params, window, part)
        for view in views.values():
            view.setflags(write=True)
    files.close()
    return out.reshape(tensor.shape)
