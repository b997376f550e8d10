"""What GPTQ, AutoRound and AWQ have in common: the tensors of a module and the settings.

A module is `X.qweight`, `X.qzeros` and `X.scales`, with `X.g_idx` for some; what comes out is
`X.weight`. The tensors decide: bits, sizes and groups follow from their shapes, so a config that
names other ones, per-module `dynamic` or `extra_config` included, is only asked where the shapes
leave a choice. (`dynamic` holds regular expressions; they are never run, a file must not be able to
make one that does not end.) A config that no tool could have written is an error all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._errors import missing
from anamnesis.readers.schemes.base import Ledger

WORD_BITS = {"I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8}
SCALE_BITS = {"BF16": 16, "F16": 16, "F32": 32}
_BITS = {"gptq": (2, 3, 4, 8), "awq": (2, 3, 4, 8), "auto-round": tuple(range(2, 9))}
_FILE = "quantize_config.json"
# What the tools call these: the first that is there counts.
_KEYS = {"bits": ("bits", "w_bit"), "group_size": ("group_size", "q_group_size")}


@dataclass(frozen=True, slots=True)
class Module:
    """The stored tensors of one quantised layer, whatever their shapes."""

    prefix: str
    qweight: Stored
    qzeros: Stored
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

    def shapes(self) -> str:
        """All shapes, for errors."""
        parts = (self.qweight, self.qzeros, self.scales, self.g_idx)
        return ", ".join(
            f"{s.name.rpartition('.')[2]} {s.dtype} {list(s.shape)}" for s in parts if s is not None
        )


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


def modules(ledger: Ledger) -> Iterator[Module]:
    """Every complete module that nobody has claimed."""
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        if part != "qweight" or not dot:
            continue
        qzeros, scales = ledger.get(f"{prefix}.qzeros"), ledger.get(f"{prefix}.scales")
        if qzeros is not None and scales is not None:
            yield Module(prefix, stored, qzeros, scales, ledger.get(f"{prefix}.g_idx"))


def refuse_incomplete(ledger: Ledger, stated: Settings) -> None:
    """Raise FormatError for a layer that lacks a part, where the config says that it has them."""
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        if part != "qweight" or not dot or not stated.method:
            continue
        names = [f"{prefix}.{part}" for part in ("qzeros", "scales")]
        lacks = [name for name in names if ledger.get(name) is None]
        if lacks:
            raise missing(ledger, stored, *lacks, why=f"{stated.method} has both")


def settings(ledger: Ledger) -> Settings:
    """The settings in force; raises FormatError for values that cannot be meant."""
    sidecar = ledger.configs.get(_FILE, {})
    merged = {**sidecar, **{k: v for k, v in ledger.quantization().items() if v is not None}}
    method = _text(merged.get("quant_method") or merged.get("method")).replace("_", "-")
    method = method.rpartition("/")[2]
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
    return Settings(
        method,
        bits,
        _integer(merged, "group_size", None, where),
        merged.get("desc_act") is True,
        sym if isinstance(sym, bool) else None,
        formats,
        _text(quantizer if isinstance(quantizer, str) else " ".join(map(str, quantizer or ()))),
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
    for stored in (module.qweight, module.qzeros, module.scales):
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
