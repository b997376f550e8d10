"""Settings that mean something for some outputs or inputs only: one table, for every command.

A setting that cannot mean anything for the output that was asked for is an error. One that could,
and does not for the inputs that are there, has a note: a job file may be for many models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import TYPE_CHECKING

from anamnesis.errors import UsageError
from anamnesis.limits import Allow
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes.base import Options
from anamnesis.writers import WRITERS
from anamnesis.writers.stores import StorePath, located

if TYPE_CHECKING:
    from anamnesis.pipeline.plan import Plan
    from anamnesis.pipeline.sections import Output
    from anamnesis.readers.base import Tensor
    from anamnesis.readers.model import Model

_PICKLED = ("npy", "npz", "pth")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an output goes: its format, and whether it is one file."""

    form: str
    one_file: bool

    @classmethod
    def of(cls, form: str, path: str) -> Place:
        """The place of an output at `path`."""
        return cls(form, PurePath(path).suffix == WRITERS[form].suffix)


@dataclass(frozen=True, slots=True)
class Case:
    """What a command has to do with: the models that it opened, their plans, the output's place."""

    models: Sequence[Model]
    plans: Sequence[Plan] = ()
    place: Place | None = None
    scheduler: bool = False

    def tensors(self) -> Iterable[Tensor]:
        """All tensors of all models."""
        return (tensor for model in self.models for tensor in model.tensors)

    def dtypes(self) -> Iterable[str]:
        """The dtypes of all tensors that are written."""
        return (item.dtype for plan in self.plans for item in plan.items)


# Of which outputs a setting speaks; by the keyword, in words, and as a test.
OUTPUTS: dict[str, tuple[str, Callable[[Place], bool]]] = {
    "bf16": ("arrow and parquet", lambda place: bool(WRITERS[place.form].bf16)),
    "compression": ("arrow and parquet", lambda place: len(WRITERS[place.form].compressions) > 1),
    "encode": (
        "safetensors, hf and gguf, which say how it is read",
        lambda place: place.form in ("gguf", "hf", "safetensors"),
    ),
    "imatrix": ("gguf", lambda place: place.form == "gguf"),
    "key_values": ("gguf", lambda place: place.form == "gguf"),
    "manifest": ("folders", lambda place: not place.one_file),
}
# For which inputs, or inputs and outputs, a setting has an effect.
INPUTS: dict[str, tuple[str, Callable[[Case], bool]]] = {
    "allow_requantize": (
        "outputs that are encoded",
        lambda case: any(plan.choices for plan in case.plans),
    ),
    "assume_unit_scale": (
        "FP8 tensors without a scale",
        lambda case: any(tensor.scheme == "fp8-unit" for tensor in case.tensors()),
    ),
    "bf16": ("outputs with BF16 in them", lambda case: "BF16" in case.dtypes()),
    "dtype": (
        "tensors of numbers with a point",
        lambda case: any(t.quantised or _is_float(t) for t in case.tensors()),
    ),
    "follow_links": (
        "model folders",
        lambda case: any(os.path.isdir(model.path) for model in case.models),
    ),
    "imatrix": (
        "types of a GGUF that weigh errors",
        lambda case: any(
            choice.weights is not None for plan in case.plans for _, choice in plan.choices
        ),
    ),
    "keep_going": (
        "models of several files",
        lambda case: any(len(model.files) > 1 or model.broken for model in case.models),
    ),
    "leave_out_unknown": (
        "PyTorch and NumPy files, which hold pickles",
        lambda case: any(model.container in _PICKLED for model in case.models),
    ),
    "max_shard_size": (
        "outputs of several files: folders, and GGUF",
        lambda case: case.place is None or case.place.form == "gguf" or not case.place.one_file,
    ),
    "names": (
        "models that become a GGUF, and GGUFs that become something else",
        lambda case: any((m.container == "gguf") != _is_gguf(case) for m in case.models),
    ),
    "passthrough": (
        "float tensors that were not quantised",
        lambda case: any(not t.quantised and _is_float(t) for t in case.tensors()),
    ),
    "rounding": (
        "quantised tensors",
        lambda case: any(tensor.quantised for tensor in case.tensors()),
    ),
    "skip_loss": (
        "outputs that are encoded",
        lambda case: any(plan.choices for plan in case.plans),
    ),
    "staging": (
        "outputs behind URLs",
        lambda case: any(isinstance(located(p.spec.path), StorePath) for p in case.plans),
    ),
    "threads": (
        "runs in this process, or on a cluster that they start; workers of a scheduler have theirs",
        lambda case: not case.scheduler,
    ),
}


def refuse_idle(output: Output, place: Place) -> None:
    """UsageError for a setting of the output section that its output has no use for."""
    default = type(output)(path=output.path)
    if output.names == "mmproj" and place.form != "gguf":
        raise UsageError(f"output.names: mmproj is for gguf; the output is {place.form}")
    for name, (words, means) in OUTPUTS.items():
        value = getattr(output, name)
        if value not in (getattr(default, name), _NONE.get(name)) and not means(place):
            found = "one file" if name == "manifest" else place.form
            setting = value if isinstance(value, str) else ", ".join(map(str, value))
            raise UsageError(f"output.{name}: {setting} is for {words}; the output is {found}")


def without_effect(given: Iterable[str], case: Case) -> list[str]:
    """A note for each of the `given` settings, by keyword, that changes nothing here."""
    notes = []
    for name in given:
        words, means = INPUTS.get(name, ("", _always))
        if case.models and not means(case):
            notes.append(f"{name} has no effect: it is for {words}")
    return notes


def given_options(options: Options, allow: Allow) -> list[str]:
    """Keywords of what is not as usual in how a model is opened."""
    found = [f.name for f in fields(options) if getattr(options, f.name) != f.default]
    return found + [f.name for f in fields(allow) if getattr(allow, f.name)]


_NONE = {"compression": "none"}  # what says that nothing is wanted


def _always(case: Case) -> bool:
    return True


def _is_float(tensor: Tensor) -> bool:
    return DTYPES[tensor.out_dtype].kind == "float"


def _is_gguf(case: Case) -> bool:
    return case.place is not None and case.place.form == "gguf"


__all__ = [
    "INPUTS",
    "OUTPUTS",
    "Case",
    "Place",
    "given_options",
    "refuse_idle",
    "without_effect",
]
