"""From what a checkpoint holds to named tensors: nested dicts and lists become dotted names.

The conventions, since no standard exists:

- `{"layers": [t, u], "head": {"weight": w}}` gives `layers.0`, `layers.1`, `head.weight`.
- A dict with the keys `state` and `param_groups` is an optimiser's (torch/optim/optimizer.py,
  `state_dict`); its tensors are left out, and so is everything that is no tensor. Notes say so.
- Beside such a wrapper, what trainers keep with a model (callbacks, states of random numbers and
  schedulers) is left out as an optimiser's state is.
- The wrapper of a training checkpoint is no part of the names: `state_dict` at the top, and
  `model`, `module`, … where nothing beside it holds tensors.
- Two names for one tensor are two tensors; their bytes are counted before any is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import NAME_BYTES, Limits, MiB
from anamnesis.readers.pickle_vm import PICKLE_DEPTH, Node
from anamnesis.readers.torch_globals import Global, Scalar, Unknown
from anamnesis.readers.torch_records import Storage, TorchTensor
from anamnesis.readers.torch_subclasses import KIND as TORCHAO_KIND
from anamnesis.readers.torch_subclasses import Setting, is_wrapper
from anamnesis.readers.zero_shards import check_shards
from anamnesis.words import and_more

# Fixed limits of one checkpoint file. A node that is shared counts once a path to it.
STATE_TENSORS = 1 << 20
STATE_ENTRIES = 2_000_000
STATE_NAME_BYTES = 64 * MiB
ALWAYS_WRAPPER = "state_dict"
WRAPPERS = frozenset(
    f"{ALWAYS_WRAPPER} model model_state model_state_dict module net params params_ema "
    "weights".split()
)
# Of the wrappers those that no module is called: beside them, these keys are a trainer's
# (Lightning, accelerate, torchtune) and no part of the model.
_WHOLE = frozenset((ALWAYS_WRAPPER, "model", "model_state", "model_state_dict", "module"))
_TRAINING = re.compile(
    "amp|best_.*|callbacks|ema_decay|epochs?|(?:global_|train_)?steps?|hparams|hyper_parameters|"
    "iter(?:ation)?s?|loops|native_amp.*|random_states?.*|rng|"
    ".*(?:lr_sched|optim|rng_state|sampler|scaler|scheduler).*"
)
_OPTIMISER = frozenset(("state", "param_groups"))
_UNKNOWN_SHOWN = 32
_SHOWN = 8  # names that a note lists
# A dict with one of these is a layer whose other values are settings: HQQ's, and torchao's tensors.
_SETTINGS_BESIDE = frozenset(("W_q", "packing", TORCHAO_KIND))
_SETTING_CHARACTERS = 64


class StateDict(NamedTuple):
    """Tensors by output name, in the pickle's order, and what was left out."""

    tensors: dict[str, TorchTensor]
    notes: tuple[str, ...]
    values: dict[str, Any]  # settings of layers, see `Container`
    unread: tuple[str, ...] = ()  # names of tensors that are left out


class _Size(NamedTuple):
    """What lies below a node, every path to a shared one counted."""

    tensors: int = 0
    nbytes: int = 0
    name_bytes: int = 0
    entries: int = 0  # that naming the tensors looks at
    optimiser_tensors: int = 0
    height: int = 0


def flatten(
    top: Any, where: str, limits: Limits, *, stored_bytes: int, pickle_bytes: int
) -> StateDict:
    """Name every tensor of the object that a checkpoint's pickle describes.

    A tensor of a kind that is not converted is left out. Raises UnsupportedError when the object is
    no mapping of tensors or holds only such ones, FormatError for a cycle or one name given twice,
    and LimitError when the tensors, all names counted, are too many or too large for a file of
    `stored_bytes`.
    """
    if type(top) is not Node or top.kind != "dict":
        raise UnsupportedError(
            f"{where}: holds {_kind(top)}, not a mapping of names to tensors (a state dict)"
        )
    sizes = _measure(top, where)
    size = sizes[id(top)]
    if not size.tensors:
        only = " but an optimiser's" if size.optimiser_tensors else ""
        raise UnsupportedError(f"{where}: a mapping that holds no tensors{only}")
    limits.items(size.tensors, f"{where}: tensors", min(STATE_TENSORS, pickle_bytes))
    limits.tensors(size.tensors, f"{where}: tensors")
    limits.items(size.entries, f"{where}: values, every path to them counted", STATE_ENTRIES)
    limits.alloc(size.name_bytes, f"{where}: tensor names (bytes)", STATE_NAME_BYTES)
    limits.total(size.nbytes, f"{where}: tensors, every name counted (bytes)")
    limits.expansion(size.nbytes, stored_bytes, f"{where}: tensor bytes for a byte of the file")
    state = _Walk(where, sizes).run(top)
    return state._replace(notes=(*state.notes, *check_shards(where, top, state.tensors)))


def _measure(top: Node, where: str) -> dict[int, _Size]:
    """Sizes of all nodes under `top` by identity, each node measured once."""
    sizes: dict[int, _Size] = {}
    path = {id(top)}
    pending = [(top, _children(top))]
    while pending:
        node, children = pending[-1]
        for _, child in children:
            if type(child) is not Node or id(child) in sizes:
                continue
            if id(child) in path:
                raise FormatError(f"{where}: a {child.kind} that contains itself")
            path.add(id(child))
            pending.append((child, _children(child)))
            break
        else:
            sizes[id(node)] = _sum(node, sizes, where)
            path.discard(id(node))
            pending.pop()
    return sizes


def _sum(node: Node, sizes: dict[int, _Size], where: str) -> _Size:
    tensors = nbytes = name_bytes = entries = dropped = height = 0
    for key, child in _children(node):
        entries += 1
        if type(child) is TorchTensor:
            tensors += 1
            nbytes += child.nbytes
            name_bytes += 1 + len(key) if type(key) is str else _length(key)
        elif type(child) is Node:
            size = sizes[id(child)]
            tensors += size.tensors
            nbytes += size.nbytes
            name_bytes += size.name_bytes + size.tensors * _length(key)
            entries += size.entries if size.tensors else 0
            dropped += size.optimiser_tensors
            height = max(height, size.height)
    if height >= PICKLE_DEPTH:
        raise FormatError(f"{where}: values are nested deeper than {PICKLE_DEPTH}")
    if _among(node, _OPTIMISER) == _OPTIMISER:
        return _Size(optimiser_tensors=tensors + dropped, height=height + 1)
    return _Size(tensors, nbytes, name_bytes, entries, dropped, height + 1)


def _children(node: Node) -> Iterator[tuple[Any, Any]]:
    if node.kind == "dict":
        return zip(node.items[::2], node.items[1::2], strict=True)
    return iter(enumerate(node.items) if node.kind != "set" else ())


def _among(node: Node, texts: frozenset[str]) -> set[str]:
    """Which of the texts are keys of a dict, which may have a million others."""
    if node.kind != "dict":
        return set()
    return {key for key in node.items[::2] if type(key) is str and key in texts}


def _is_plain(node: Node) -> bool:
    """Whether the keys of a dict are texts, each another."""
    keys = node.items[::2]
    return node.kind == "dict" and set(map(type, keys)) == {str} and len(set(keys)) == len(keys)


def _length(key: Any) -> int:
    """Bytes of a name's part with its dot, or a few less than there are."""
    return 1 + (len(key) if type(key) in (str, bytes) else 1)


class _Walk:
    """Collects names; visits only nodes that hold tensors, so its length is the output's."""

    def __init__(self, where: str, sizes: dict[int, _Size]) -> None:
        self._where, self._sizes = where, sizes
        self._tensors: dict[str, TorchTensor] = {}
        self._notes: list[str] = []
        self._values: dict[str, Any] = {}
        self._unread: dict[str, str] = {}  # names of tensors that are not converted, and why
        self._unknown: list[str] = []
        self._others: list[str] = []
        self._other_count = 0

    def run(self, top: Node) -> StateDict:
        top = self._unwrap(top)
        self._enter("", top)
        if self._other_count:
            more = ", …" if self._other_count > len(self._others) else ""
            self._notes.append(
                f"left out {self._other_count:,} values that are no tensors: "
                f"{', '.join(self._others)}{more}"
            )
        if self._unknown:
            more = ", …" if len(self._unknown) > _UNKNOWN_SHOWN else ""
            self._notes.append(
                "left out objects of unknown classes, of which nothing was run: "
                f"{', '.join(self._unknown[:_UNKNOWN_SHOWN])}{more}"
            )
        self._note_unread()
        return StateDict(self._tensors, tuple(self._notes), self._values, tuple(self._unread))

    def _note_unread(self) -> None:
        """One note for each kind of tensor that is left out; an error when there is no other."""
        by_kind: dict[str, list[str]] = {}
        for name, why in self._unread.items():
            by_kind.setdefault(why, []).append(name)
        for why, names in by_kind.items():
            if not self._tensors:
                raise UnsupportedError(
                    f"{self._where}: tensor {names[0]!r:.200}: {why} is not converted, and none of "
                    "its tensors is of another kind"
                )
            more = and_more(len(names))
            self._notes.append(f"left out {names[0]!r:.200}{more}: {why} is not converted")

    def _unwrap(self, top: Node) -> Node:
        while _among(top, WRAPPERS):
            holders = [(k, v) for k, v in _children(top) if self._count(v)]
            if any(self._wraps(key, value) for key, value in holders):
                holders = [(k, v) for k, v in holders if not _is_training(k)]
            single = len(holders) == 1 and type(holders[0][0]) is str
            if not single or holders[0][0] not in WRAPPERS:
                return top
            name, inner = holders[0]
            if type(inner) is not Node or inner.kind != "dict":
                return top
            self._notes.append(f"the names inside of {name!r} come without it")
            seen: set[str] = set()
            for key, child in _children(top):
                if type(key) is str:
                    self._once(seen, "", key)
                if child is not inner:
                    self._leave(_shown(key), child)
            top = inner
        return top

    def _wraps(self, key: Any, value: Any) -> bool:
        """Whether an entry holds a whole model's tensors."""
        if type(value) is not Node or type(key) is not str or key not in _WHOLE:
            return False
        return value.kind == "dict" and self._count(value) > 0

    def _leave(self, name: str, value: Any) -> None:
        """Leave out an entry beside the model, with its tensors if it has some."""
        count = self._count(value)
        if count:
            tensors = f"{count:,} tensor{'s' * (count != 1)}"
            self._notes.append(f"left out {name}: the state of a training run, {tensors}")
        else:
            self._skip(name, value)

    def _count(self, value: Any) -> int:
        if type(value) is Node:
            return self._sizes[id(value)].tensors
        return 1 if type(value) is TorchTensor else 0

    def _enter(self, prefix: str, top: Node) -> None:
        pending = [self._entries(prefix, top, at_top=True)]
        while pending:
            entry = next(pending[-1], None)
            if entry is None:
                pending.pop()
                continue
            name, value = entry
            pending.append(self._entries(name, value))

    def _entries(
        self, prefix: str, node: Node, *, at_top: bool = False
    ) -> Iterator[tuple[str, Node]]:
        """Adds the tensors of one node; gives its nodes with tensors by prefix; notes the rest."""
        seen: set[str] = set()
        wrapper = is_wrapper(node)
        settings = bool(_among(node, _SETTINGS_BESIDE))
        trained = at_top and bool(_among(node, _WHOLE))
        trained = trained and any(self._wraps(key, child) for key, child in _children(node))
        plain = not trained and _is_plain(node)
        for key, child in _children(node):
            if plain and type(child) is TorchTensor:  # the usual case, of which there are many
                self._add(f"{prefix}{key}" if prefix else key, child)
                continue
            if type(child) is not TorchTensor and not self._count(child):
                if settings and type(key) is str:
                    self._keep(f"{prefix}{key}", child)
                if not wrapper:
                    self._skip(f"{prefix}{_shown(key)}", child)
                if type(key) is str:
                    self._once(seen, prefix, key)
                continue
            part = self._part(prefix, key)
            self._once(seen, prefix, part)
            if trained and _is_training(key):
                self._leave(_shown(key), child)
                continue
            if at_top and part == ALWAYS_WRAPPER and type(child) is Node and child.kind == "dict":
                self._notes.append(f"the names inside of {ALWAYS_WRAPPER!r} come without it")
                yield "", child
            elif type(child) is TorchTensor:
                self._add(f"{prefix}{part}", child)
            else:
                yield f"{prefix}{part}.", child

    def _part(self, prefix: str, key: Any) -> str:
        if type(key) is str:
            return key
        if type(key) is int:
            return str(key)
        raise UnsupportedError(
            f"{self._where}: {prefix!r:.200}: tensors under a key that is no text or integer "
            f"({_kind(key)})"
        )

    def _once(self, seen: set[str], prefix: str, part: str) -> None:
        if part in seen:
            raise FormatError(f"{self._where}: {f'{prefix}{part}'!r:.200} is given twice")
        seen.add(part)

    def _add(self, name: str, tensor: TorchTensor) -> None:
        if name in self._tensors or name in self._unread:
            raise FormatError(f"{self._at(name)} is given twice")
        if not name.isascii() or len(name) > NAME_BYTES // 4:
            self._check_name(name)
        if tensor.refused:
            self._unread[name] = tensor.refused
        else:
            self._tensors[name] = tensor

    def _check_name(self, name: str) -> None:
        try:
            nbytes = len(name.encode())
        except UnicodeEncodeError:
            raise FormatError(f"{self._at(name)}: its name is no text (lone surrogates)") from None
        if nbytes > NAME_BYTES:
            raise FormatError(
                f"{self._at(name)}: its name has {nbytes:,} bytes, at most {NAME_BYTES:,}"
            )

    def _at(self, name: str) -> str:
        """A tensor, for messages alone."""
        return f"{self._where}: tensor {name!r:.200}"

    def _keep(self, name: str, value: Any) -> None:
        """A setting of a layer, if it is one."""
        if type(value) is Global and value.role == "dtype":
            self._values[name] = f"torch.{value.value}"
        elif type(value) is Node and value.kind == "tuple" and len(value.items) <= _SHOWN:
            if all(type(item) is int for item in value.items):
                self._values[name] = tuple(value.items)
        elif type(value) in (bool, int, float, type(None)) or (
            type(value) is str and len(value) <= _SETTING_CHARACTERS
        ):
            self._values[name] = value

    def _skip(self, name: str, value: Any) -> None:
        if not name.isprintable():
            name = f"{name!r:.200}"
        dropped = self._sizes[id(value)].optimiser_tensors if type(value) is Node else 0
        if dropped:
            self._notes.append(f"left out {name}: an optimiser's state, {dropped:,} tensors")
            return
        if type(value) is Unknown:
            self._unknown.append(f"{name} ({value.path})")
            return
        self._other_count += 1
        if len(self._others) < _SHOWN:
            self._others.append(f"{name} ({_kind(value)})")


def _is_training(key: Any) -> bool:
    return type(key) is str and _TRAINING.fullmatch(key) is not None


def _shown(key: Any) -> str:
    """A key for a note, on one line and of readable length."""
    if type(key) is str:
        return key[:60] or "''"
    return f"{key}"[:60] if type(key) is int else f"<{_kind(key)}>"


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if type(value) is Node:
        return f"{value.kind} of {len(value.pairs()) if value.kind == 'dict' else len(value.items)}"
    names = {TorchTensor: "one tensor", Storage: "a bare storage", Global: "a class"}
    if type(value) in (Scalar, Setting):
        return str(value.what)
    if type(value) is Unknown:
        return f"an object of {value.path}"
    return names.get(type(value), type(value).__name__)
