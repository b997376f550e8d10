"""compressed-tensors' `transform_config`: layers that turn inputs and outputs, made dense again.

| location | in the file | what is done |
|---|---|---|
| `input`, `output` | `MODULE.GROUP_LOCATION.weight` `[n, n]`, `….perm` `[n]` | multiplied in |
| `weight_input`, `weight_output` | part of the weight | nothing: a hook or a neighbour undoes it |
| `q_attn`, `k_cache` | `ATTENTION.GROUP_LOCATION.weight` | nothing: they cancel in attention |

A matrix that layers share is stored beside the first of them, so which modules have one is what the
configuration's `targets` and `ignore` say (`_ct_targets.py`). Source: PyPI compressed-tensors 0.20
transform/ (`TransformFactory._apply_to_module`, `HadamardFactory`, `RandomMatrixFactory`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._ct_targets import (
    LINEAR,
    UnknownTargetError,
    is_class,
    names,
    names_module,
)
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes._rotated import FLOATS, Rotation, plain, rotated
from anamnesis.readers.schemes.base import Ledger

_TYPES = ("hadamard", "random-hadamard", "random-matrix")
_SIDES = ("input", "output")
_WEIGHTS = ("weight_input", "weight_output")
_ATTENTION = ("q_attn", "k_cache")
_SCHEME = "ct-turned"  # of dense weights and biases
_NOTE = (
    "compressed-tensors' transforms of inputs and outputs were multiplied into the weights, in "
    "double precision, and rounded once: the layers compute what they did, but for that rounding; "
    "weights that were rotated together with their neighbours' stay so"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One `apply` of a group: a matrix at one location of some modules."""

    group: str
    kind: str
    location: str
    inverse: bool
    size: int  # of the blocks; 0: all inputs, or outputs
    randomize: bool
    targets: tuple[str, ...]
    ignore: tuple[str, ...]

    @property
    def stem(self) -> str:
        """What the matrix is called in its module."""
        return f"{self.group}_{self.location}"


def undo_transforms(ledger: Ledger) -> None:
    """Multiply the matrices of `transform_config` into the tensors that schemes have claimed.

    Raises UnsupportedError by name for what it says and this does not know, FormatError for
    matrices that are missing or do not fit.
    """
    stated = [one for one in ledger.stated if one.method == "compressed-tensors"]
    config = next((c for one in stated if (c := one.block.get("transform_config"))), None)
    if config is None:
        return
    if not isinstance(config, Mapping):
        raise _unknown(ledger, f"transform_config {config!r:.80}")
    try:
        entries = list(_entries(config))
        online = [entry for entry in entries if entry.location in _SIDES]
        undone: set[Entry] = set()
        for module in _modules(ledger, online):
            undone.update(_undo(ledger, module, online))
        idle = next((entry for entry in online if entry not in undone), None)
        if idle is not None:  # or weights would stay rotated, and a note say that they do not
            raise UnknownTargetError(f"which modules {idle.stem!r:.80} is of")
    except UnknownTargetError as error:
        raise _unknown(ledger, str(error)) from None
    _drop(ledger, entries)
    if entries:
        ledger.note(_NOTE)
    ledger.undone.append(config)


def _unknown(ledger: Ledger, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{ledger.container.files[0].path}: its quantization config: transform_config of "
        f"compressed-tensors: {what}; implemented are {', '.join(_TYPES)} at input, output, "
        "weight_input, weight_output, and q_attn with k_cache"
    )


def _entries(config: Mapping[str, Any]) -> Iterator[Entry]:
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping):
        raise UnknownTargetError(f"config_groups {groups!r:.80}")
    for group, about in groups.items():
        if not isinstance(about, Mapping) or about.get("type") not in _TYPES:
            raise UnknownTargetError(f"the type of {group!r:.80}")
        applied, size = about.get("apply", []), about.get("head_dim")
        if not isinstance(applied, list) or not all(isinstance(one, Mapping) for one in applied):
            raise UnknownTargetError(f"apply of {group!r:.80}")
        for one in applied:
            location = one.get("location")
            if location not in (*_SIDES, *_WEIGHTS, *_ATTENTION):
                raise UnknownTargetError(f"location {location!r:.80}")
        places = {one["location"]: bool(one.get("inverse")) for one in applied}
        for one in applied:
            location = one["location"]
            both = places.get("q_attn") == places.get("k_cache") and about["type"] != _TYPES[2]
            if location in _ATTENTION and not both:
                raise UnknownTargetError("queries and keys that are rotated by different matrices")
            yield Entry(
                group,
                about["type"],
                location,
                bool(one.get("inverse")),
                size if type(size) is int and size > 0 else 0,
                bool(about.get("randomize")),
                names(one.get("targets", [])),
                names(one.get("ignore", [])),
            )


def _modules(ledger: Ledger, entries: list[Entry]) -> list[str]:
    """The modules whose weights may have to be rotated: decoded matrices, and dense ones."""
    if not entries:
        return []
    decoded = [name for name, tensor in ledger.tensors.items() if len(tensor.shape) > 1]
    dense = [s.name for s in ledger.free() if len(s.shape) == 2 and s.dtype in FLOATS]
    stems = tuple(f".{entry.stem}.weight" for entry in entries)
    found = [name for name in (*decoded, *dense) if not name.endswith(stems)]
    return [name.removesuffix(".weight") for name in found if name.endswith(".weight")]


def _undo(ledger: Ledger, module: str, entries: list[Entry]) -> list[Entry]:
    """Rotate the weight of a module, and its bias, by the entries of it; which those are."""
    mine = [entry for entry in entries if _is_of(ledger, entry, module)]
    if not mine:
        return mine
    if len(mine) > len({entry.location for entry in mine}):
        raise UnknownTargetError(f"two transforms at one side of {module!r:.80}")
    name = f"{module}.weight"
    tensor = ledger.tensors.get(name) or plain(ledger.container.stored[name], _SCHEME)
    rows, columns = tensor.shape[-2:]
    rotations: dict[str, Rotation] = {}
    for entry in mine:
        count = columns if entry.location == "input" else rows
        rotations[f"{entry.location}s"] = _rotation(ledger, entry, module, entry.size or count)
    inputs, outputs = rotations.get("inputs"), rotations.get("outputs")
    ledger.replace(rotated(tensor, inputs=inputs, outputs=outputs))
    bias = ledger.get(f"{module}.bias")
    if bias is not None and outputs is not None:
        ledger.replace(rotated(plain(bias, _SCHEME), outputs=outputs))
    return mine


def _is_of(ledger: Ledger, entry: Entry, module: str) -> bool:
    """Whether a module is one that an entry speaks of.

    What is stored beside it tells most; then its name; a class tells of decoded weights alone.
    """
    if f"{module}.{entry.stem}.weight" in ledger.container.stored:
        return True
    if names_module(entry.ignore, module):
        return False
    if names_module(entry.targets, module):
        return True
    classes = [one for one in entry.targets if is_class(one)]
    if not classes or any(one in LINEAR for one in entry.ignore):
        return False
    if any(one not in LINEAR for one in classes):
        raise UnknownTargetError(f"modules of the class {classes[0]!r:.80}")
    if f"{module}.weight" in ledger.tensors:
        return True
    if "emb" in module.rpartition(".")[2]:
        return False
    raise UnknownTargetError(
        f"whether the dense {module!r:.80} is one of the linear layers that {entry.stem!r:.80} "
        "is for, no file says"
    )


def _rotation(ledger: Ledger, entry: Entry, module: str, size: int) -> Rotation:
    """The matrix of an entry for a module: its own, or the one of its group and size."""
    stored = ledger.container.stored
    own = stored.get(f"{module}.{entry.stem}.weight")
    if own is None:
        found = [s for s in stored.values() if _is_shared(s, entry, size)]
        if not found:
            raise FormatError(
                f"{ledger.container.files[0].path}: {module!r} has no {entry.stem}.weight "
                f"[{size}, {size}], as its transform_config says, and no other module has it"
            )
        if len(found) > 1 and (entry.kind != "hadamard" or entry.randomize):
            raise UnknownTargetError(
                f"which of {found[0].name!r:.80} and {len(found) - 1} more {module!r:.80} shares"
            )
        own = found[0]
    perm = stored.get(f"{own.name.removesuffix('weight')}perm")
    if entry.randomize and entry.kind != "random-matrix" and perm is None:
        raise FormatError(f"{where(own)}: no permutation beside it, and its group has randomize")
    inverse = entry.inverse and entry.kind != "random-matrix"  # which is stored as its inverse
    return Rotation(own, perm, entry.kind != "random-matrix", inverse)


def _is_shared(stored: Stored, entry: Entry, size: int) -> bool:
    """Whether a stored matrix is one that modules of an entry share."""
    module, _, last = stored.name.rpartition(".")
    part = module.rpartition(".")[2]
    sides = (entry.location,) if entry.kind == "random-matrix" else _SIDES
    return (
        last == "weight"
        and part in [f"{entry.group}_{side}" for side in sides]
        and stored.shape == (size, size)
    )


def _drop(ledger: Ledger, entries: list[Entry]) -> None:
    """Leave out what cancels; raise FormatError for a matrix whose module is in no file."""
    for stored in ledger.free():
        module, _, last = stored.name.rpartition(".")
        part = module.rpartition(".")[2]
        entry = next((one for one in entries if one.stem == part), None)
        if entry is None or last not in ("weight", "perm"):
            continue
        if entry.location in _ATTENTION:
            ledger.drop(stored, "rotates queries and keys alike, which cancels in their products")
        elif entry.location in _SIDES:
            raise FormatError(f"{where(stored)}: its module has no weight that it could turn")
