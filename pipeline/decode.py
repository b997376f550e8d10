"""From a step of the plan to a function that decodes one window after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from anamnesis.errors import AnamnesisError, FormatError
from anamnesis.kernels import PayloadError, Window, decoder, preparer
from anamnesis.pipeline.work import Step
from anamnesis.readers.batch import Whole, aligned

OUT = {"BF16": np.uint16, "F32": np.float32, "F16": np.float16}


class Parameters(Protocol):
    """What a tensor is read by, as far as its parameters go."""

    def wholes(self) -> Mapping[str, Whole]:
        """The parameters of the whole tensor, by role."""
        ...


def decode_function(step: Step, reader: Parameters) -> Callable[[Any, Window], Any]:
    """A function from a window's raw views to its output values, in reused memory."""
    tensor = step.tensor
    if tensor.encoding == "copy":
        return lambda views, window: views["payload"].reshape(-1)
    decode = decoder(tensor.encoding)
    prepare = preparer(tensor.encoding)
    params = dict(tensor.params)
    if prepare is not None:
        try:
            with _quiet():
                params |= prepare(tensor.params, reader.wholes())
        except AnamnesisError:
            raise
        except ValueError as error:
            raise _misfit(step, error) from error
    kind = OUT[step.dtype]
    most = step.window_units * tensor.unit_elems
    out = aligned(most, kind)
    work = aligned(most, np.float32) if kind is np.float16 else out
    params["narrowed"] = work is not out  # float32 is a stop on the way, not the result

    def run(views: Any, window: Window) -> Any:
        first = window.start * tensor.unit_elems
        elems = min(window.stop * tensor.unit_elems, tensor.elems) - first
        try:
            with _quiet():
                decode(views, params, window, work[:elems])
        except PayloadError as error:
            raise _misfit(step, error) from error
        if work is not out:
            with _quiet():
                out[:elems] = work[:elems]
        return out[:elems]

    return run


def _quiet() -> np.errstate:
    """Of numbers that a file holds numpy says nothing: Arm's casts warn of signalling NaNs."""
    return np.errstate(all="ignore")


def _misfit(step: Step, error: ValueError) -> FormatError:
    """For numbers of the file that its format does not allow."""
    path = step.tensor.components[0].stored.file.path
    return FormatError(f"{path}: tensor {step.tensor.name!r}: {error}")
