"""Checkpoints of DeepSpeed of which one file holds a part of the model.

`DeepSpeedEngine.save_checkpoint` (deepspeed/runtime/engine.py) writes `*_model_states.pt`, a dict
with `module` and, under ZeRO, `param_shapes`: for each group of parameters a dict of names and
shapes. Under ZeRO-3 the parameters in `module` are placeholders without elements: their values are
flat partitions in the `*_optim_states.pt` of all processes, which `zero_to_fp32.py` puts together.
With `mp_world_size` over 1 each process has its part of every tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.readers.pickle_vm import Node
from anamnesis.readers.torch_records import TorchTensor

_SHAPES, _PROCESSES = "param_shapes", "mp_world_size"
_KEYS = 1_000  # that the dict of a checkpoint may have; one of a model's tensors has more


def check_shards(where: str, top: Node, tensors: Mapping[str, TorchTensor]) -> tuple[str, ...]:
    """A note on the other processes' parts, if there are any.

    Raises UnsupportedError when tensors are placeholders.
    """
    if len(top.items) > 2 * _KEYS:
        return ()
    said = {key: value for key, value in top.pairs() if key in (_SHAPES, _PROCESSES)}
    for name, shape in _shapes(said.get(_SHAPES)):
        found = tensors.get(name)
        if found is not None and not found.nbytes and all(shape):
            raise UnsupportedError(
                f"{where}: tensor {name!r:.200}: is empty, and {_SHAPES} says {shape}: DeepSpeed's "
                "ZeRO-3 keeps its values in the *_optim_states.pt of all processes, and "
                "zero_to_fp32.py, which lies beside them, makes one model of them"
            )
    processes = said.get(_PROCESSES)
    if type(processes) is int and processes > 1:
        return (
            f"{where}: is of one of {processes:,} processes ({_PROCESSES}), which have parts of "
            "the same tensors each",
        )
    return ()


def _shapes(groups: Any) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes in `param_shapes`, of what has the form of such."""
    for group in groups.items if type(groups) is Node and groups.kind == "list" else [groups]:
        if type(group) is not Node or group.kind != "dict":
            continue
        for name, shape in group.pairs():
            if type(name) is not str or type(shape) is not Node or shape.kind != "tuple":
                continue
            if all(type(extent) is int for extent in shape.items):
                yield name, shape.items


__all__ = ["check_shards"]
