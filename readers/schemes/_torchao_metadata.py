"""What torchao writes into a safetensors file's metadata: a class and its attributes a tensor.

`tensor_names` is a JSON list of names `X.weight`. Beside it each has a JSON object of its own:

    {"_type": "Int8Tensor", "_data": {"block_size": [1, 64], …},
     "_tensor_data_names": ["qdata", …]}

The numbers are tensors `X._weight_qdata`, and so on for each name of the list. A dense one is
`{"_type": "Tensor"}`. Inside `_data` a dtype is `{"_type": "torch.dtype", "_data": "bfloat16"}`.
Source: torchao 0.18 prototype/safetensors/safetensors_support.py (`flatten_tensor_state_dict`),
safetensors_utils.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes._torchao_pickled import Pickled, pickled
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.strict_json import loads

_NAMES = "tensor_names"
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
IMPLEMENTED = (
    "torchao's AffineQuantizedTensor (plain, or in a tensor core's tiles), Float8Tensor, "
    "Int4PlainInt32Tensor of an XPU, Int4Tensor, Int4TilePackedTo4dTensor, Int8Tensor, "
    "IntxUnpackedToInt8Tensor, MXTensor of FP8 and FP4, and NVFP4Tensor"
)


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor as the metadata has it; `parts` are those of its stored tensors that are there."""

    name: str
    kind: str  # the class
    about: Mapping[str, Any]
    parts: Mapping[str, Stored]
    codes: Stored  # qdata, or what there is
    prefix: str  # of the stored tensors' names

    @property
    def where(self) -> str:
        return where(self.codes)

    def part(self, name: str, dtypes: tuple[str, ...]) -> Stored:
        """The stored tensor of that role; raises FormatError without one, or for its dtype."""
        stored = self.parts.get(name)
        if stored is None:
            raise self.error(f"its metadata names no {name!r}, which {self.kind} has")
        if stored.dtype not in dtypes:
            raise self.misfit(stored, ", ".join(dtypes))
        return stored

    def optional(self, name: str, dtypes: tuple[str, ...]) -> Stored | None:
        return self.part(name, dtypes) if name in self.parts else None

    def block(self, tiled: int = 0) -> tuple[int, ...]:
        """The rows, columns, … that one scale covers; as many as the codes have dimensions.

        Those of codes in tiles have so many more.
        """
        value, rank = self.about.get("block_size"), len(self.codes.shape) - tiled
        whole = isinstance(value, list) and all(type(v) is int and v > 0 for v in value)
        if not isinstance(value, list) or not whole or len(value) != rank:
            raise self.error(
                f"block_size: {_show(value)}; allowed is a list of {rank} numbers above 0"
            )
        return tuple(value)

    def number(self, key: str) -> int:
        value = self.about.get(key)
        if type(value) is not int or value <= 0:
            raise self.error(f"{key}: {_show(value)}; allowed is a number above 0")
        return value

    def truth(self, key: str) -> bool:
        value = self.about.get(key)
        if not isinstance(value, bool):
            raise self.error(f"{key}: {_show(value)}; allowed is true or false")
        return value

    def dtype(self, key: str) -> str:
        """A PyTorch dtype's name, such as bfloat16; MX's six-bit ones are plain text."""
        value = self.about.get(key)
        if isinstance(value, dict) and value.get("_type") == "torch.dtype":
            value = value.get("_data")
        if not isinstance(value, str):
            raise self.error(f"{key}: {_show(value)}; allowed is a dtype")
        return value

    def float_dtype(self, key: str) -> str:
        """A dtype of weights, by safetensors' name."""
        found = self.dtype(key)
        if found not in _DTYPES:
            raise self.error(f"{key}: {_show(found)}; allowed is {', '.join(_DTYPES)}")
        return _DTYPES[found]

    def error(self, what: str) -> FormatError:
        return FormatError(f"{self.where} of {self.kind} {self.name!r}: {what}")

    def misfit(self, stored: Stored, allowed: str) -> FormatError:
        found = f"{stored.name!r} ({stored.dtype} {list(stored.shape)})"
        return self.error(f"{found} does not fit; allowed is {allowed}")

    def unsupported(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.where} of torchao's {self.kind}: {what} is recognised and not implemented; "
            f"implemented are {IMPLEMENTED}"
        )


def described(ledger: Ledger) -> Iterator[Described]:
    """The tensors of torchao's classes of which something is stored, in metadata or a pickle.

    Every shard of a model has the metadata of all of it. Raises FormatError for metadata that
    torchao could not have written, and for a tensor that is there in part.
    """
    yield from map(_of_pickle, pickled(ledger))
    metadata = ledger.container.metadata
    path = ledger.container.files[0].path
    if not isinstance(metadata.get(_NAMES), str):
        return
    names = _loaded(metadata[_NAMES], f"{path}: metadata {_NAMES}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(f"{path}: metadata {_NAMES}: expected a list of names")
    for name in dict.fromkeys(names):
        module, dot, last = name.rpartition(".")
        text = metadata.get(name)
        if not dot or not isinstance(text, str):
            continue  # dense, or left over: then it is refused by its parts' names
        where = f"{path}: metadata of {name!r:.200}"
        value = _loaded(text, where)
        kind = value.get("_type") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            raise FormatError(f"{where}: expected an object with a text '_type'")
        if kind == "Tensor":
            continue
        roles, about = value.get("_tensor_data_names"), value.get("_data")
        whole = isinstance(roles, list) and all(isinstance(role, str) for role in roles)
        if not isinstance(roles, list) or not whole or not isinstance(about, dict):
            raise FormatError(
                f"{where}: expected '_tensor_data_names', a list of names, and an object '_data'"
            )
        prefix = f"{module}._{last}_"
        found = {role: ledger.get(prefix + role) for role in roles}
        parts = {role: stored for role, stored in found.items() if stored is not None}
        if not parts:
            continue  # of another shard
        missing = [role for role in found if role not in parts]
        codes = parts.get("qdata", next(iter(parts.values())))
        one = Described(name, kind[:80], about, parts, codes, prefix)
        if missing:
            raise one.error(
                f"no {prefix + missing[0]!r} beside it, in any of "
                f"{len(ledger.container.files)} file(s)"
            )
        yield one


def _of_pickle(one: Pickled) -> Described:
    codes = one.parts.get("qdata", next(iter(one.parts.values())))
    return Described(one.name, one.kind[:80], one.about, one.parts, codes, f"{one.name}.")


def _loaded(text: str, where: str) -> Any:
    return loads(text.encode(), where, Limits())


def _show(value: Any) -> str:
    return f"{value!r:.80}"
