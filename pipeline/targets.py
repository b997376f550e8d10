"""What becomes of each tensor of a job that encodes: a target with its settings, or none and why.

A name alone is a policy: matrices that canonical tools leave alone stay as they are. A rule speaks
for what its pattern fits, and the first that fits counts. What a target cannot hold is kept, with
the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from anamnesis.kernels.encoders import ENCODERS, Form, Setting, Unfit, former
from anamnesis.kernels.transcoders import Source, misfit, suggested
from anamnesis.names.derived import transposed
from anamnesis.pipeline.encoding import Encoded, EncodedPiece
from anamnesis.pipeline.importance import Weights, needs_weights, takes_weights, weights_of
from anamnesis.pipeline.mixtures import Facts, mixed
from anamnesis.pipeline.policy import FALLBACKS, STACKED, left_alone
from anamnesis.pipeline.transcode import loses, scale_dtype, source_of
from anamnesis.pipeline.work import Piece, Step
from anamnesis.readers.base import Tensor
from anamnesis.readers.gguf_types import encoding_of
from anamnesis.readers.imatrix_entry import Imatrix
from anamnesis.writers.base import Item, Slot

ENCODABLE = ("BF16", "F16", "F32")


@dataclass(frozen=True, slots=True)
class Target:
    """A row of the table of encoders with every setting filled in.

    `stated` are the settings that somebody asked for: the others may follow what a tensor has.
    """

    name: str
    settings: Mapping[str, Setting]
    stated: frozenset[str] = field(default=frozenset(), compare=False)

    def suited(self, source: Source) -> Target:
        """The same with the settings, of those that nobody asked for, of a quantised tensor."""
        found = suggested(source, self.name, self.settings)
        new = {key: value for key, value in found.items() if key not in self.stated}
        return replace(self, settings={**self.settings, **new}) if new else self

    def __str__(self) -> str:
        rows = ENCODERS[self.name].keys
        changed = [f"{k}={shown(v)}" for k, v in self.settings.items() if v != rows[k].default]
        return f"{self.name}:{','.join(changed)}" if changed else self.name


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors whose names fit the shell pattern, and what they become."""

    tensors: str
    target: Target


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of a tensor: a target with its form, or none and the reason.

    A quantised tensor is `moved`, codes and scales as they are, or it says in `again` why it is
    encoded anew; `lossy` is that reason where nothing is gained by it.
    """

    target: Target | None
    form: Form | None = None
    why: str = ""
    wide: bool = False  # a matrix, which loaders take for a layer
    unfit: bool = False  # the target that it would have cannot hold it
    kept_as: str = ""  # the dtype that it is stored in, where that is not its own
    instead: str = ""  # why it has another one than was asked for
    moved: bool = False
    requantize: bool = False  # numbers that cannot be moved are encoded anew
    skip_loss: bool = False  # what is lost is not added up
    again: str = ""
    lossy: str = ""
    weights: Weights | None = None
    unweighted: str = ""  # what an importance matrix has nothing for: "missing", or "needed"

    @property
    def parts(self) -> int:
        """How many stored tensors it makes."""
        return len(self.form.parts) if self.form else 1

    def items(self, tensor: Tensor) -> list[Item]:
        """The stored tensors, the payload first; the others stay in its file."""
        if self.target is None or self.form is None:
            return [Item(tensor.name, tensor.shape, tensor.out_dtype, tensor.elems, tensor.scheme)]
        name = self.target.name
        return [
            Item(part.name, part.shape, part.dtype, math.prod(part.shape), name, joined=number > 0)
            for number, part in enumerate(self.form.parts)
        ]

    def aligned(self, tensor: Tensor) -> Tensor:
        """The tensor with windows that start where those of the form do."""
        if self.form is None:
            return tensor
        if self.form.transposed:
            tensor = transposed(tensor)
        elems = self.form.unit_elems * self.form.multiple
        multiple = elems // math.gcd(elems, tensor.unit_elems)
        return replace(tensor, unit_multiple=math.lcm(tensor.unit_multiple, multiple))

    def piece(self, step: Step, slots: tuple[Slot, ...]) -> Piece:
        """All of a tensor, to be stored in these slots."""
        if self.target is None or self.form is None:
            return Piece(step, 0, step.tensor.units)
        form = self.form
        if self.moved and not self.requantize:
            form = replace(form, statistics=())  # which only encoding asks for
        encoded = Encoded(
            self.target.name,
            self.target.settings,
            form,
            slots,
            moved=self.moved,
            requantize=self.requantize,
            skip_loss=self.skip_loss,
            weights=self.weights,
        )
        return EncodedPiece(step, 0, step.tensor.units, encoded)

    def __str__(self) -> str:
        if self.target is None:
            return f"kept{self.kept_as and ' in '}{self.kept_as}, {self.why}"
        said = [str(self.target)]
        if self.why:
            said.append(f"as {self.why}")
        if self.weights:
            said.append("with weights")
        if self.moved:
            said.append("codes and scales as they are")
        if self.again:
            said.append(f"from recovered values: {self.again}")
        return ", ".join(said)


KEEP = Choice(None)


@dataclass(frozen=True, slots=True)
class Encode:
    """A job's `output.encode`: one target under the usual policy, or rules."""

    target: Target | None = None
    rules: tuple[Rule, ...] = ()
    mixture: str = ""
    types: Mapping[str, str] = field(default_factory=dict)  # of a mixture, by tensor
    requantize: bool = False
    skip_loss: bool = False
    imatrix: Imatrix | None = None
    conv1d: frozenset[str] = frozenset()  # matrices with their columns as rows (`Model.conv1d`)

    def of(self, tensors: Sequence[Tensor], facts: Facts) -> Encode:
        """The same for a model of such tensors: a mixture's types are chosen among all of them."""
        if not self.mixture:
            return self
        kept = [t for t in tensors if not left_alone(t.name, len(t.shape), "ggml")]
        columns = {tensor.name: tensor.shape[-1] for tensor in kept}
        stacks = frozenset(t.name for t in kept if len(t.shape) > 2 and t.shape[-3] > 1)
        facts = replace(facts, weighed=self.imatrix is not None, stacks=stacks)
        return replace(self, types=mixed(self.mixture, columns, facts, columns))

    def choose(self, tensor: Tensor) -> Choice:
        """The choice for a tensor with the dtype that it is decoded to."""
        found = self._choose(tensor)
        found = replace(found, wide=len(tensor.shape) == 2, skip_loss=self.skip_loss)
        if self.requantize:
            found = replace(found, lossy="", requantize=True)
        return self._weighed(found, tensor)

    def _weighed(self, found: Choice, tensor: Tensor) -> Choice:
        """A choice with the weights of the tensor, where its target takes any."""
        codes = found.moved and not found.requantize
        if found.target is None or codes or not takes_weights(found.target.name):
            return found
        weights = weights_of(self.imatrix, tensor.name, tensor.shape) if self.imatrix else None
        if weights is not None:
            return replace(found, weights=weights)
        needed = needs_weights(found.target.name, tensor.name, self.mixture)
        return replace(found, unweighted="needed" if needed else "missing")

    def _choose(self, tensor: Tensor) -> Choice:
        if tensor.name in self.conv1d:
            why = "its class keeps [inputs, outputs] (Conv1D), and codes are of [outputs, inputs]"
            return Choice(None, why=why, unfit=True)
        if self.target is not None:
            if tensor.name in self.types and len(tensor.shape) > 1:
                return _fitted(tensor, Target(encoding_of(self.types[tensor.name]), {}))
            why = left_alone(tensor.name, len(tensor.shape), kind_of(self.target))
            if why:
                return Choice(None, why=why)
            if _stack_alone(tensor, self.target):
                return Choice(None, why=STACKED, unfit=True)
            return _fitted(tensor, self.target)
        for rule in self.rules:
            if fnmatchcase(tensor.name, rule.tensors):
                return _fitted(tensor, rule.target)
        return Choice(None, why="no rule fits its name")

    def __str__(self) -> str:
        if self.target is not None:
            return self.mixture or str(self.target)
        return "; ".join(f"{rule.tensors} as {rule.target}" for rule in self.rules)


def _fitted(tensor: Tensor, target: Target) -> Choice:
    if tensor.out_dtype not in ENCODABLE:
        double = tensor.out_dtype == "F64"  # a weight, which somebody expects to be encoded
        advice = ", which --dtype f32 rounds first" if double else ""
        return Choice(None, why=f"it holds {tensor.out_dtype}{advice}", unfit=double)
    found = _moved(tensor, target)
    try:
        if found is None:
            found = _encoded(tensor, target)
    except Unfit as error:
        why = f"{target.name} cannot hold it: {error}"
        if type_of(target) not in FALLBACKS:
            narrow = "F16" if kind_of(target) == "ggml" else ""
            return Choice(None, why=why, unfit=True, kept_as=narrow)
        found = _fitted(tensor, Target(encoding_of(FALLBACKS[type_of(target)]), {}))
        return replace(found, why=found.why or why, instead=why)
    return found


def _moved(tensor: Tensor, target: Target) -> Choice | None:
    """The choice for a quantised tensor whose numbers may be those of a target; None for others."""
    if not tensor.quantised:
        return None
    target = target.suited(source_of(tensor))
    try:
        form = former(target.name)(tensor.name, tensor.shape, scale_dtype(tensor), target.settings)
    except Unfit:
        return None
    if misfit(_source(tensor, form), target.name, target.settings):
        return None
    return Choice(target, form, moved=True)


def _source(tensor: Tensor, form: Form) -> Source:
    """What the table of transcoders asks of a tensor, with the matrix that a form has."""
    return source_of(transposed(tensor) if form.transposed else tensor)


def _encoded(tensor: Tensor, target: Target) -> Choice:
    """The choice for a tensor that is encoded from its values."""
    form = former(target.name)(tensor.name, tensor.shape, tensor.out_dtype, target.settings)
    if not tensor.quantised:
        return Choice(target, form)
    suited = target.suited(source_of(tensor))
    again = misfit(_source(tensor, form), suited.name, suited.settings)
    again = again or f"{tensor.scheme} does not fit the settings of {target}"
    return Choice(target, form, again=again, lossy=again if loses(tensor, form) else "")


def _stack_alone(tensor: Tensor, target: Target) -> bool:
    """Whether it is a stack of dense matrices, under a target for layers.

    Codes of a quantised one may move as they are; gpt-oss' layout is for stacks.
    """
    if len(tensor.shape) < 3 or tensor.quantised or kind_of(target) != "linear":
        return False
    return target.settings.get("style") != "gpt-oss"


def type_of(target: Target) -> str:
    """The ggml type that a target of GGUF stands for."""
    return target.name.removeprefix("gguf-").replace("-", "_").upper()


def kind_of(target: Target) -> str:
    """The kind of policy that a target is under, as `policy.left_alone` knows it."""
    if target.name.startswith("gguf-"):
        return "ggml"
    mlx = target.name.startswith("mlx-") or target.settings.get("style") == "mlx"
    return "mlx" if mlx else "linear"


def shown(value: Setting) -> str:
    """A setting as it is written behind `KEY=`."""
    return str(value).lower() if isinstance(value, bool) else str(value)
