"""What speaks against a tensor that no scheme claimed being dense: the one rule, for all schemes.

At the end every stored tensor is part of a decoded weight, dropped with a reason, or dense by
evidence: a float, a flag or a buffer that has nothing to do with a decoded weight. What is none of
these is suspected here, for one of six reasons, and the model is refused:

- its number format is a code's (FP8, FP4), and nobody scaled it;
- its name is one that only quantised layouts use;
- it stands beside a decoded weight, and no scheme read it (`_siblings`);
- it is of integers that are codes (`_integers`);
- it is of floats, and a part of the inputs that its layer must have, as codes in their place
  would be (`_model_sizes`), in a model that has codes or states a method; noted in others;
- with its neighbours it has the names of a method that is recognised and refused (`_refused`).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from anamnesis.readers.base import Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes._errors import first_of
from anamnesis.readers.schemes._hints import hint
from anamnesis.readers.schemes._integers import Modules, is_buffer, is_many
from anamnesis.readers.schemes._left_alone import left_alone
from anamnesis.readers.schemes._model_sizes import ModelSizes, fed
from anamnesis.readers.schemes._refused import REFUSED, Refused, by_signs
from anamnesis.readers.schemes._siblings import (
    ACTIVATION_ZEROS,
    LORA,
    SCALES,
    Harmless,
    Stems,
    calibration,
    harmless,
    is_activation,
    is_rotation,
    known_scale,
    may_move,
    moves_inputs,
)
from anamnesis.readers.schemes.base import Ledger

# The last part of a name that only quantised layouts use.
_PARTS = frozenset(
    "SCB W_q _data _weight_scale _weight_zero_point absmax comfy_quant g_idx nested_absmax "
    "nested_quant_map per_channel_scale prequant_scaling_factor q_groups q_invperm q_scale_max "
    "q_weight qbiases qscale_weight quant_map qweight qzeros scale_weight suh svh trellis "
    "weight_absmax weight_format weight_g_idx weight_global_scale weight_packed weight_scale "
    "weight_scale_2 weight_scale_inv weight_scb weight_shape weight_zero_point "
    "weights_scaling_factor".split()
)
_ONE_SCALE = frozenset(("offset", "scale", "zero", "zeros"))
_COLUMN = 64  # numbers of a packed weight, at least
_SIGNS = frozenset(
    part.rpartition(".")[2] for row in REFUSED.values() for sign in row.signs for part in sign
).difference(("weight", "qweight"))

_ADAPTERS = (
    "adapters (lora_A, lora_B, …) beside decoded weights were kept as they are, and not merged "
    "into them"
)
_MARKS = _PARTS | _SIGNS
_FLOATS = frozenset(name for name, row in DTYPES.items() if row.kind == "float")


@dataclass(frozen=True, slots=True)
class Suspect:
    """A tensor that may not pass as dense, why, and the other tensor that tells (or None).

    With `method`, the names in its module are those of a method that is refused.
    """

    stored: Stored
    why: Literal["code", "name", "sibling", "integers", "shape"]
    other: str = ""
    method: Refused | None = None
    size: int = 0  # of a side that its layer must have
    hint: str = ""  # where a method is stated in words that no tool is known for


class Rule:
    """What is dense, for one model whose schemes have all run."""

    def __init__(self, ledger: Ledger, methods: Collection[str]) -> None:
        """`methods` are those that are known, for words in which nobody is known to state one."""
        self._ledger, self._methods = ledger, methods
        self._gguf = ledger.container.kind == "gguf"
        self._quantised = not self._gguf and any(t.quantised for t in ledger.tensors.values())
        self._plain = not self._quantised and not ledger.stated
        self._alone = left_alone(ledger)
        self._parts: list[tuple[Stored, int]] = []
        self._sizes = ModelSizes({} if self._gguf else ledger.configs)
        self._modules: Modules | None = None

    @cached_property
    def _stems(self) -> Stems:
        stems = Stems()
        for tensor in self._ledger.tensors.values() if not self._gguf else ():
            # A plain cast has no layout of which a part could be left over.
            plain = tensor.scheme == "fp8-unit" and not self._ledger.stated
            if tensor.quantised and not plain:
                stems.add(tensor.name)
        return stems

    def judge(self, stored: Stored) -> Suspect | Harmless | None:
        """What speaks against it; why it may be left out; None for what is dense."""
        if self._gguf and stored.dtype in _FLOATS:
            return self._in_gguf(stored)
        if self._plain and stored.dtype in _FLOATS:  # the usual case, of which there are many
            name = stored.name
            part = name[name.rfind(".") + 1 :]
            mark = part in _MARKS or part[0:1] == "_" or "quant_state" in name
            if not mark and not self._sizes.packed(name, stored.shape, DTYPES[stored.dtype].bits):
                return None
        known = DTYPES.get(stored.dtype)
        part = stored.name.rpartition(".")[2]
        if part in ACTIVATION_ZEROS and not self._plain and math.prod(stored.shape) == 1:
            return known_scale(stored.name)  # of FP8, as the activations are
        if known is None or known.kind == "code":
            return self._suspect(stored, "code")
        if self._gguf:
            return self._in_gguf(stored)
        norm = part == "q_weight" and known.kind == "float"  # of PLaMo 2's queries
        if (part in _PARTS and not norm) or _is_quantised_name(stored, part):
            return self._suspect(stored, "name")
        row = calibration(stored.name, self._quantised) if part == "_amax" else None
        if row is not None:
            return row
        beside = self._stems.beside(stored) if self._stems else None
        if beside is not None:
            row = harmless(beside[1])
            if row is None:  # `k_scale` beside a module `k`, `input_quantizer.scale` in a layer
                row = known_scale(stored.name)
            codes = row is not None and not row.dropped and known.kind == "int"
            if row is None or (codes and part.endswith("bias")):
                return self._suspect(stored, "sibling", beside[0])
            if row.reason == LORA:
                self._ledger.note(_ADAPTERS)
            return row if row.dropped else None
        if not self._plain:
            row = known_scale(stored.name)
            if row is not None:
                return row
            if moves_inputs(stored.name) or self._scale(stored, part):
                return self._suspect(stored, "name")
        stated = bool(self._ledger.stated)
        flags = part.startswith("weight") or (stated and "mask" not in part)
        codes = known.kind == "int" or (known.kind == "bool" and flags)
        if codes and stored.shape and not is_buffer(stored):
            return self._integers(stored)
        if self._in_a_column(stored, part):
            return self._suspect(stored, "integers")
        size = self._packed(stored) if known.kind == "float" else 0
        if size:
            return Suspect(stored, "shape", size=size, hint="" if not self._plain else self._hint)
        return self._suspect(stored, "name") if part in _SIGNS and self._signed(stored) else None

    def _in_gguf(self, stored: Stored) -> Suspect | Harmless | None:
        """What stands beside a tensor of blocks, or beside integers; the rest is as its type says.

        llama.cpp multiplies what comes out of a layer by its `scale`, which is NVFP4's as a rule
        and was BitNet's; Gemma 4's experts have one that is their router's.
        """
        if stored.dtype in _FLOATS and not self._blocks:
            return None
        module, _, part = stored.name.rpartition(".")
        if stored.dtype == "I8" and len(stored.shape) > 1:
            scales = (f"{module}.{name}" for name in (*sorted(_ONE_SCALE), *sorted(SCALES)))
            other = next((name for name in scales if name in self._ledger.container.stored), None)
            return None if other is None else Suspect(stored, "integers", other)
        if part == "bias" or (part == "weight" and not self._moving):
            return None  # nearly all, of whom there may be a million
        if part in _PARTS and DTYPES[stored.dtype].kind == "int":
            return Suspect(stored, "name")
        if self._moving and moves_inputs(stored.name):
            return Suspect(stored, "name")
        beside = self._beside_blocks(module, part)
        if beside is None or stored.name.endswith("ffn_down_exps.scale"):
            return None
        row = harmless(part)
        if row is None:
            return Suspect(stored, "sibling", beside)
        return row if row.dropped else None

    @cached_property
    def _blocks(self) -> bool:
        return any(tensor.quantised for tensor in self._ledger.tensors.values())

    @cached_property
    def _moving(self) -> bool:
        """Whether a tensor of a GGUF of blocks may move inputs by its name."""
        names = "\n".join(self._ledger.container.stored) + "\n" if self._blocks else ""
        return "_rot." in names or may_move(names)

    def _beside_blocks(self, module: str, part: str) -> str | None:
        """The tensor of blocks that another is called after: `X.part`, `X_part`, `X.weight.part`.

        A module of its own, such as `X_norm`, is not, unless it is a rotation; nor are parts that
        are numbered (`patch_embd.weight.1`).
        """
        names = [f"{module}.weight"]
        if module.endswith(".weight") and not part.isdigit():
            names.append(module)
        above, dot, own = module.rpartition(".")
        if part == "weight":
            parts = ((at, own[at + 1 :]) for at in range(len(own)) if own[at] == "_")
            ends = [at for at, rest in parts if rest == "rot" or is_rotation(rest)]
            names = [f"{above}{dot}{own[:at]}.weight" for at in ends]
        elif "_" in part:
            names += [f"{module}.{part[:at]}.weight" for at in range(len(part)) if part[at] == "_"]
        found = (self._ledger.tensors.get(name) for name in names)
        return next((one.name for one in found if one is not None and one.quantised), None)

    def _integers(self, stored: Stored) -> Suspect | None:
        part = stored.name.rpartition(".")[2]
        if part in _SIGNS and self._signed(stored):
            return self._suspect(stored, "integers")
        other = self._tree().unexplained(stored)
        if other is not None:
            return self._suspect(stored, "integers", other.name)
        many = len(stored.shape) > 1 or (stored.dtype in ("I8", "U8") and is_many(stored))
        if not many or self._alone.has(stored.name):
            return None
        if self._ledger.stated:
            return self._suspect(stored, "integers")
        return Suspect(stored, "integers", hint=self._hint) if self._hint else None

    @cached_property
    def _hint(self) -> str:
        container = self._ledger.container
        files = [file.path for file in container.files]
        return hint(self._ledger.configs, container.metadata, self._methods, files)

    def _in_a_column(self, stored: Stored, part: str) -> bool:
        """Whether floats are codes under another name: bitsandbytes' four bits, without a state.

        With `bnb_4bit_quant_storage` they are called BF16 or so; their shape is `[n, 1]`.
        """
        bnb = any(one.method == "bitsandbytes" for one in self._ledger.stated)
        column = len(stored.shape) == 2 and stored.shape[1] == 1 and stored.shape[0] >= _COLUMN
        return bnb and column and part.startswith("weight") and not self._alone.has(stored.name)

    def _packed(self, stored: Stored) -> int:
        """A side that a layer of floats must have, and has a part of, as codes would; 0."""
        bits = DTYPES[stored.dtype].bits
        size = self._sizes.packed(stored.name, stored.shape, bits) if stored.shape else 0
        if not size or stored.shape[-1] in fed(stored.name, self._whole_shape):
            return 0
        if self._alone.lists(stored.name):
            return 0
        if self._plain and not self._hint:
            self._parts.append((stored, size))
            return 0
        return size

    def note_parts(self) -> None:
        """Add a note on layers of floats with such sides where nothing speaks of codes."""
        if self._parts:
            stored, sizes = zip(*self._parts, strict=True)
            self._ledger.note(
                f"{first_of(stored)}: kept as floats; a layer of that name has {sizes[0]:,} inputs "
                "or outputs by the model's configuration, of which this is the part that codes in "
                "their place fill, though nothing says that it has codes"
            )

    def _whole_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight, decoded or of floats that are no codes by it; () for others."""
        decoded, dense = self._ledger.tensors.get(name), self._ledger.container.stored.get(name)
        if decoded is not None:
            return decoded.shape
        if dense is None or dense.dtype not in _FLOATS:
            return ()
        packed = self._sizes.packed(name, dense.shape, DTYPES[dense.dtype].bits)
        return () if packed else dense.shape

    def _signed(self, stored: Stored) -> Refused | None:
        """The refused method that the names in a tensor's module tell, if codes are among them."""
        module = stored.name.rpartition(".")[0]
        if module.rpartition(".")[2] in ("centroids", "res_centroids"):
            module = module.rpartition(".")[0]
        tree = self._tree()
        kinds = {DTYPES[s.dtype].kind for s in tree.parts.get(module, {}).values()}
        row = by_signs(tree.relative(module))
        codes = kinds.intersection(("int", "code"))
        return row if row is not None and (codes or row.floats) else None

    def _suspect(
        self, stored: Stored, why: Literal["code", "name", "sibling", "integers"], other: str = ""
    ) -> Suspect:
        torchao = REFUSED["torchao-pickle"] if _is_torchao(stored) else None
        return Suspect(stored, why, other, torchao or self._signed(stored))

    def _scale(self, stored: Stored, part: str) -> bool:
        """Whether it is a scale without codes: `act.scales` of AWQ, `k_proj.scale` by itself.

        Beside floats called `weight` one of several (`scales`, `zeros`) makes these codes, too, and
        so does one number a row, or a group, in a dimension of its own: `[rows, 1]`.
        """
        module = stored.name.rpartition(".")[0]
        of_layer = part in _ONE_SCALE and module.endswith("proj")
        of_inputs = part in _ONE_SCALE and is_activation(module) and math.prod(stored.shape) > 1
        if part in _ONE_SCALE and len(stored.shape) > 1 and stored.shape[-1] == 1:
            weight = self._ledger.container.stored.get(f"{module}.weight")
            rows = weight.shape[:1] if weight is not None and len(weight.shape) > 1 else ()
            if rows == stored.shape[:1]:
                return True
        parts = self._tree().parts[module] if of_layer or of_inputs or part in SCALES else {}
        return len(parts) == 1 or (part in SCALES and "weight" in parts)

    def _tree(self) -> Modules:
        if self._modules is None:
            self._modules = Modules(self._ledger.container.stored)
        return self._modules


def _is_quantised_name(stored: Stored, part: str) -> bool:
    if _is_torchao(stored) or "quant_state" in part or ".quant_state." in stored.name:
        return True
    return stored.dtype == "U8" and part.endswith("blocks") and len(stored.shape) > 2


def _is_torchao(stored: Stored) -> bool:
    part = stored.name.rpartition(".")[2]
    return part.startswith("_") and part.endswith("_qdata")
