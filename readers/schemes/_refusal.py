"""The error for tensors that may not pass as dense, in words that help the one who reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.readers.base import Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes import _refused
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes._leftovers import Suspect
from anamnesis.readers.schemes._siblings import ACTIVATION_SCALES, harmless
from anamnesis.readers.schemes._stated import Stated
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.source import is_url
from anamnesis.words import and_more

_SHARD = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.\w+$")
_COMFY = "_quantization_metadata"
_SCALES = frozenset(
    "SCB absmax scale_weight qscale_weight weight_global_scale weight_scale weight_scale_2 "
    "weight_scale_inv weight_scales".split()
)

_SCALE_WORD = re.compile(r"(?:^|(?<=[._]))(?:weight_)?scales?(?:_inv)?(?=[._]|$)[._]?")
_SCALE_FILE = re.compile(
    r"(.*[._-])?(scales?|fp8_map)([._-].*)?\.(bin|json|npz|pt|pth|safetensors)", re.IGNORECASE
)


def unknown_method(ledger: Ledger, stated: Stated, implemented: str) -> UnsupportedError:
    """For a configuration that names a method of which no scheme knows what its tensors mean."""
    row = _refused.refused(stated.method)
    what = (
        str(row)
        if row
        else "no such method is known, so that its tensors could not be told from dense ones"
    )
    return UnsupportedError(
        f"{ledger.container.files[0].path}: its {stated}: {what}; implemented are {implemented}"
    )


def foreign_layout(ledger: Ledger, claimed: list[Tensor]) -> str:
    """The note on tensors in the layout of one method under a configuration that names another."""
    first = claimed[0]
    others = and_more(len(claimed), mark=",")
    return (
        f"{first.components[0].stored.file.path}: {first.name!r}{others}: in the layout of "
        f"{first.scheme}, and decoded as such, while {_all(ledger)} speaks of another method"
    )


def leftover(ledger: Ledger, suspects: list[Suspect], implemented: str) -> AnamnesisError:
    """For what no scheme consumed; `suspects` is not empty."""
    one = min(suspects, key=_rank)
    others = and_more(len(suspects), mark=",")
    found, about = where(one.stored) + others, _all(ledger) or one.hint
    under = f", under {about}" if about else ""
    if one.method:
        return UnsupportedError(f"{found}{under}: {one.method}; implemented are {implemented}")
    marked = any(s.stored.name.endswith("comfy_quant") for s in suspects)
    if marked or _COMFY in ledger.container.metadata:
        return UnsupportedError(
            f"{found}: ComfyUI quantised weights of this format are recognised and not "
            f"implemented; implemented are {implemented}"
        )
    if one.why == "sibling":
        scheme = ledger.tensors[one.other].scheme
        return UnsupportedError(
            f"{found}{under}: stands beside {one.other!r}, which has the layout of {scheme}, and "
            "no scheme reads it: it may change the weight's value or its basis"
        )
    if one.why == "integers":
        beside = f" beside {one.other!r}" if one.other else ""
        return UnsupportedError(
            f"{found}{under}: integers{beside} that no scheme decoded are codes of a layout that "
            f"is not known, and no dense weights; implemented are {implemented}"
        )
    if one.why == "shape":
        return UnsupportedError(
            f"{found}{under}: a dense layer of that name has {one.size:,} inputs or outputs by the "
            "model's configuration, of which this is the part that codes in their place fill; one "
            "that is dense all the same has to be listed as left alone (modules_to_not_convert)"
        )
    if _is_simulated(ledger, one.stored):
        return UnsupportedError(
            f"{found}{under}: parameters of numbers that are rounded while the model runs, beside "
            "weights that are floats: such a model was saved without being compressed, which is "
            "recognised and not implemented; llm-compressor's save_pretrained(…, "
            "save_compressed=True) writes codes"
        )
    if one.why == "code" and one.stored.dtype.startswith("F8_E") and one.stored.dtype != "F8_E8M0":
        return UnsupportedError(
            f"{found}{under}: FP8 codes without a scale{_hint(ledger)}{_alone(ledger)}"
        )
    return FormatError(
        f"{found}: a quantisation tensor that no scheme consumed; the weight it belongs to is "
        f"missing, dense, or of another layout ({about or 'no configuration names a method'})"
        f"{_alone(ledger)}"
    )


STATE = "_extra_state"  # of a module of Transformer Engine, with the scales of its FP8 numbers


def _alone(ledger: Ledger) -> str:
    """What to do where one shard of a model was given, and what belongs together lies apart."""
    files = ledger.container.files
    if len(files) != 1 or not _SHARD.search(files[0].path):
        return ""
    return "; this file is one of several of a model: name the folder that has all of them"


def _is_simulated(ledger: Ledger, stored: Stored) -> bool:
    """Whether it is compressed-tensors' scale or zero point of a weight that is of floats."""
    module, part, _ = stored.name.rpartition("weight_")
    weight = ledger.container.stored.get(f"{module}weight") if part else None
    floats = weight is not None and DTYPES[weight.dtype].kind == "float"
    return floats and any(one.method == "compressed-tensors" for one in ledger.stated)


def _rank(suspect: Suspect) -> tuple[bool, int, bool]:
    """What tells most comes first: a named method, a sibling, codes of a weight."""
    order = ("sibling", "integers", "shape", "name", "code").index(suspect.why)
    return suspect.method is None, order, not suspect.stored.name.endswith("weight")


def _all(ledger: Ledger) -> str:
    return " and ".join(str(one) for one in ledger.stated)


def _hint(ledger: Ledger) -> str:
    """What to do about FP8 codes: a plain cast has no scale anywhere in the model."""
    scale = next((s for s in ledger.container.stored.values() if _is_scale(ledger, s)), None)
    if scale is not None:
        return f" of a name that is known, in a model that has scales, such as {scale.name!r}"
    states = (s for s in ledger.container.stored.values() if s.name.endswith(STATE) and s.nbytes)
    state = next(states, None)
    if state is not None:
        return f" that is read; Transformer Engine keeps its own in bytes such as {state.name!r}"
    beside = _scales_beside(ledger)
    if beside:
        return f" in the files that were read; {beside} beside them may hold the scales"
    return "; --assume-unit-scale takes them as a plain cast"


def _scales_beside(ledger: Ledger) -> str:
    """A file beside the weights that by its name holds scales, and is no part of the model.

    Meta's Llama 3.1 has `fp8_scales_0.pt`, HunyuanVideo `…_fp8_map.pt`.
    """
    paths = {file.path for file in ledger.container.files}
    folder = os.path.dirname(min(paths))
    try:
        names = [] if is_url(folder) else os.listdir(folder or ".")
    except OSError:
        return ""
    return next((n for n in sorted(names) if _SCALE_FILE.fullmatch(n) and _other(n, paths)), "")


def _other(name: str, paths: Collection[str]) -> bool:
    return all(os.path.basename(path) != name for path in paths)


def _is_scale(ledger: Ledger, stored: Stored) -> bool:
    module, dot, part = stored.name.rpartition(".")
    if part in _SCALES or part in ACTIVATION_SCALES or part.endswith("_scale_inv"):
        return True
    base = stored.name.removesuffix("_scale") if part.endswith("_scale") else ""
    if part in ("scale", "scales"):  # norms of diffusion models have such, and no weight
        base = f"{module}{dot}weight"
    if not base and "scale" in stored.name:  # `scales.X`, `X.quantizer.scale`
        words = _SCALE_WORD.sub("", stored.name).strip("._")
        base = words if words.endswith("weight") else f"{words}.weight"
    found = ledger.container.stored
    if base in found and DTYPES[found[base].dtype].kind == "code":
        return True
    # By any other name it may be one all the same, if it is of floats and right beside the codes.
    beside = found.get(f"{module}{dot}weight")
    codes = beside is not None and DTYPES[beside.dtype].kind == "code"
    return codes and _is_float(stored) and harmless(part) is None


def _is_float(stored: Stored) -> bool:
    row = DTYPES.get(stored.dtype)
    return row is not None and row.kind == "float"
