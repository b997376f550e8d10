"""What GPTQ, AutoRound and AWQ have in common: the tensors of a module and the settings.

A module is `X.qweight`, `X.qzeros` and `X.scales`, with `X.g_idx` for some; what comes out is
`X.weight`. The tensors decide: bits, sizes and groups follow from their shapes, so a config that
names other ones, per-module `dynamic` or `extra_config` included, is only asked where the shapes
leave a choice. (`dynamic` holds regular expressions; they are never run, a file must not be able to
make one that does not end.) A config that no tool could have written is an error all the same.

A symmetric module may have no zero points: `qzeros` of no elements, or no `qzeros` under a config
that says `sym` (or, AWQ's word, no `zero_point`). Its zero is `2 ** (bits - 1)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._errors import first_of, missing, where
from anamnesis.readers.schemes._stated_words import canonical
from anamnesis.readers.schemes.base import Ledger

WORD_BITS = {"I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8}
SCALE_BITS = {"BF16": 16, "F16": 16, "F32": 32}
_BITS = {"gptq": (2, 3, 4, 8), "awq": tuple(range(2, 9)), "auto-round": tuple(range(2, 9))}
_FILE = "quantize_config.json"
# What the tools call these: the first that is there counts.
_KEYS = {"bits": ("bits", "w_bit"), "group_size": ("group_size", "q_group_size")}


@dataclass(frozen=True, slots=True)
class Module:
    """The stored tensors of one quantised layer, whatever their shapes."""

    prefix: str
    qweight: Stored
    qzeros: Stored | None  # None: symmetric
    scales: Stored
    g_idx: Stored | None

    def error(self, what: str, stored: Stored | None = None) -> FormatError:
        stored = stored or self.qweight
        return FormatError(f"{stored.file.path}: tensor {stored.name!r}: {what}")

    def unsupported(self, what: str, implemented: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.qweight.file.path}: tensor {self.qweight.name!r}: {what} is recognised and not "
            f"implemented; implemented are {implemented}"
        )

    @property
    def parts(self) -> tuple[Stored, ...]:
        """Codes, zero points if there are any, and scales."""
        zeros = () if self.qzeros is None else (self.qzeros,)
        return (self.qweight, *zeros, self.scales)

    @property
    def zeros(self) -> Stored:
        """The zero points of a layout that has them; raises FormatError for a layer without."""
        if self.qzeros is None:
            raise self.error("no qzeros beside it")
        return self.qzeros

    def shapes(self) -> str:
        """All shapes, for errors."""
        parts = (*self.parts, *(() if self.g_idx is None else (self.g_idx,)))
        return ", ".join(f"{s.name.rpartition('.')[2]} {s.dtype} {list(s.shape)}" for s in parts)


@dataclass(frozen=True, slots=True)
class Settings:
    """The quantisation settings that a config states; None where it says nothing."""

    method: str  # gptq, awq, auto-round, or "" when no config speaks of these
    bits: int | None
    group_size: int | None
    desc_act: bool
    sym: bool | None
    formats: Mapping[str, str]  # the fields that name a packing, lower case
    quantizer: str
    layers: Mapping[str, Any] = field(default_factory=dict)  # AutoRound's `extra_config`

    def of(self, prefix: str) -> Settings:
        """Those of one layer, where the config names it; names that are patterns are not run."""
        own = self.layers.get(prefix)
        if not isinstance(own, Mapping):
            return self
        bits, size, sym = own.get("bits"), own.get("group_size"), own.get("sym")
        return replace(
            self,
            bits=bits if type(bits) is int and bits in range(2, 9) else self.bits,
            group_size=size if type(size) is int and (size > 0 or size == -1) else self.group_size,
            sym=sym if isinstance(sym, bool) else self.sym,
        )


def modules(ledger: Ledger, stated: Settings) -> Iterator[Module]:
    """Every complete module that nobody has claimed; `qzeros` of no elements are dropped.

    Raises FormatError for such where the config says that zero points are stored.
    """
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        if part != "qweight" or not dot:
            continue
        qzeros, scales = (_part(ledger, prefix, name) for name in ("qzeros", "scales"))
        if scales is None or (qzeros is None and not stated.sym):
            continue
        if qzeros is not None and 0 in qzeros.shape and 0 not in stored.shape:
            if stated.of(prefix).sym is False:
                raise FormatError(
                    f"{where(qzeros)}: no elements, where the configuration says that there are "
                    "zero points (sym: false, or zero_point: true)"
                )
            ledger.drop(qzeros, "zero points of no elements: the layer is symmetric")
            qzeros = None
        if 0 not in stored.shape or qzeros is not None:
            yield Module(prefix, stored, qzeros, scales, ledger.get(f"{prefix}.g_idx"))


def _part(ledger: Ledger, prefix: str, name: str) -> Stored | None:
    """A tensor of a layer; Quark's AWQ under transformers 5.6 and later puts a `q` before."""
    return ledger.get(f"{prefix}.{name}") or ledger.get(f"{prefix}.q{name}")


def refuse_incomplete(ledger: Ledger, stated: Settings) -> None:
    """Raise FormatError for a layer that lacks a part, where the config says that it has them."""
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        if part != "qweight" or not dot or not stated.method:
            continue
        if ledger.get(f"{prefix}.zeros") is not None:
            continue  # another layout's
        names = [f"{prefix}.{part}" for part in ("qzeros", "scales")[bool(stated.sym) :]]
        lacks = [name for name in names if ledger.get(name) is None]
        if lacks:
            why = f"{stated.method} has both, but for a config with sym"
            raise missing(ledger, stored, *lacks, why=why)


def settings(ledger: Ledger) -> Settings:
    """The settings in force; raises FormatError for values that cannot be meant."""
    sidecar = ledger.configs.get(_FILE, {})
    merged = {**sidecar, **{k: v for k, v in ledger.quantization().items() if v is not None}}
    method = canonical(_text(merged.get("quant_method") or merged.get("method")))
    if not method and any(key in merged for keys in _KEYS.values() for key in keys):
        method = "gptq"  # AutoGPTQ's own file did not always say so
    if method not in _BITS:
        return Settings("", None, None, False, None, {}, "")
    fields = ("checkpoint_format", "format", "version", "backend", "packing_format")
    formats = {f: _text(merged.get(f)) for f in fields if isinstance(merged.get(f), str)}
    if merged.get("is_marlin_format"):
        formats["is_marlin_format"] = "marlin"
    if merged.get("rotation_config"):
        formats["rotation_config"] = "a rotated basis"
    meta = merged.get("meta")
    quantizer = meta.get("quantizer") if isinstance(meta, Mapping) else ""
    planar = "gptq_p" in formats.values()
    where = f"{ledger.container.files[0].path}: its quantization config"
    bits = _integer(merged, "bits", tuple(range(2, 9)) if planar else _BITS[method], where)
    sym = merged.get("sym")
    if isinstance(merged.get("zero_point"), bool) and not isinstance(sym, bool):
        sym = not merged["zero_point"]
    return Settings(
        method,
        bits,
        _integer(merged, "group_size", None, where),
        merged.get("desc_act") is True,
        sym if isinstance(sym, bool) else None,
        formats,
        _text(quantizer if isinstance(quantizer, str) else " ".join(map(str, quantizer or ()))),
        layers if isinstance(layers := merged.get("extra_config"), Mapping) else {},
    )


def _text(value: Any) -> str:
    return value.lower() if isinstance(value, str) else ""


def _integer(
    config: Mapping[str, Any], key: str, allowed: tuple[int, ...] | None, where: str
) -> int | None:
    for name in _KEYS[key]:
        value = config.get(name)
        if value is None:
            continue
        whole = isinstance(value, int) and not isinstance(value, bool)
        if allowed is None and not (whole and (value == -1 or value > 0)):
            raise FormatError(f"{where}: {name}: {value!r}; allowed is -1 or above 0")
        if allowed is not None and not (whole and value in allowed):
            raise FormatError(
                f"{where}: {name}: {value!r}; allowed is {', '.join(map(str, allowed))}"
            )
        return int(value)
    return None


def check_scales(module: Module) -> tuple[int, int]:
    """`(groups, columns)` of the scales; raises FormatError for a tensor that is no matrix."""
    for stored in module.parts:
        if len(stored.shape) != 2:
            raise module.error(f"rank {len(stored.shape)} where a matrix is expected", stored)
    if module.scales.dtype not in SCALE_BITS:
        raise module.error(
            f"dtype {module.scales.dtype}; allowed is {', '.join(SCALE_BITS)}", module.scales
        )
    groups, columns = module.scales.shape
    return groups, columns


def group_size(module: Module, declared: int | None, inputs: int, groups: int) -> int:
    """Inputs a group, -1 for all of them: what makes `groups` of `inputs`, the last maybe short.

    The config's size counts when it fits; else powers of two, which tools use, come before
    an exact quotient. A size that is no multiple of 8 is nothing that a tool would have rounded to,
    so it is an error when it does not fit.
    """
    if not inputs:
        return declared or -1
    if declared is not None:
        if -(-inputs // (declared if declared > 0 else inputs)) == groups:
            return declared
        if declared % 8 and declared > 0:
            raise module.error(
                f"{groups:,} groups, and group_size {declared} of the config makes "
                f"{-(-inputs // declared):,} of {inputs:,} inputs",
                module.scales,
            )
    if groups == 1:
        return -1
    powers = [1 << power for power in range(3, inputs.bit_length())]
    for size in (*powers, inputs // max(1, groups)):
        if size and -(-inputs // size) == groups:
            return size
    raise module.error(
        f"{groups:,} groups for {inputs:,} inputs: no group size makes that ({module.shapes()})",
        module.scales,
    )


def note_group_sizes(ledger: Ledger, scheme: str, stated: Settings) -> None:
    """Say where the scales of a scheme's layers make other groups than the config states.

    GPTQModel's `dynamic` may give each layer its own size; its patterns are not run, so nothing is
    said then.
    """
    if ledger.quantization().get("dynamic"):
        return
    other = []
    for tensor in ledger.tensors.values():
        if tensor.scheme == scheme and tensor.params["in_features"]:
            size = stated.of(tensor.name.removesuffix(".weight")).group_size
            inputs, found = tensor.params["in_features"], tensor.params["group_size"]
            if size is not None and _whole(size, inputs) != _whole(found, inputs):
                other.append((tensor, size, _whole(found, inputs)))
    if other:
        _, size, found = other[0]
        ledger.note(
            f"{first_of([tensor for tensor, _, _ in other])}: the configuration says group_size "
            f"{size}, and the scales make groups of {found}, which were taken"
        )


def _whole(size: int, inputs: int) -> int:
    return size if 0 < size < inputs else inputs
