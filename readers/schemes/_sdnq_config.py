"""What SDNQ's configuration says of a layer: the kind of its codes, and what was done to it.

`weights_dtype` is that of all layers but those that `modules_quant_config` or `modules_dtype_dict`
name, the second as `{KIND: [names]}` or `{"minimum_6bit": [names]}`. A name counts for a parameter
if it is its name or a part of it between dots, with a `*` in it a pattern for how names begin, and
with a dot before it their beginning. Source: PyPI sdnq 0.2.8 utils.py (`check_param_name_in`,
`get_minimum_dtype`, `get_quant_kwargs`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

_MINIMUM = re.compile(r"(?:minimum)?[-_]?(u?)(?:int)?(\d+)[-_]?(?:bits?)?")
_SHORT = {  # other names of kinds, in common.py
    "bool": "uint1",
    "fp16": "float16",
    "fp1": "float1_e1m0fnu",
    "fp2": "float2_e1m0fn",
    "fp3": "float3_e1m1fn",
    "fp4": "float4_e2m1fn",
    "fp5": "float5_e2m2fn",
    "fp6": "float6_e3m2fn",
    "fp7": "float7_e3m3fn",
    "fp8": "float8_e4m3fn",
    "int1": "uint1",
    "ufp1": "float1_e1m0fnu",
    "ufp2": "float2_e1m1fnu",
    "ufp3": "float3_e1m2fnu",
    "ufp4": "float4_e2m2fnu",
    "ufp5": "float5_e2m3fnu",
    "ufp6": "float6_e3m3fnu",
    "ufp7": "float7_e3m4fnu",
    "ufp8": "float8_e4m4fnu",
}


def settings_of(block: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of a parameter, whose `weights_dtype` is the kind of its codes."""
    settings = dict(block)
    own = block.get("modules_quant_config")
    if isinstance(own, Mapping):
        key = _named(name, own)
        if key is not None and isinstance(own[key], Mapping):
            settings |= own[key]
    kind = str(settings.get("weights_dtype", ""))
    kinds = block.get("modules_dtype_dict")
    for key, names in kinds.items() if isinstance(kinds, Mapping) else ():
        listed = [names] if isinstance(names, str) else names
        if isinstance(listed, list) and _named(name, map(str, listed)) is not None:
            found = _at_least(kind, str(key).lower())
            if found is not None:
                kind = found
                break
    settings["weights_dtype"] = _SHORT.get(kind, kind)
    return settings


def bits_of_kind(kind: str) -> int:
    """The bits of a kind of codes; 0 for what is none."""
    found = re.match(r"(?:u?int|float)(\d+)", kind)
    return int(found[1]) if found else 0


def _named(name: str, names: Iterable[str]) -> str | None:
    """The first of the names that counts for a parameter."""
    parts = name.split(".")
    for one in names:
        if one.startswith("."):
            if name.startswith(one[1:]):
                return one
        elif one == name or one in parts or ("*" in one and fnmatchcase(name, f"{one}*")):
            return one
    return None


def _at_least(kind: str, key: str) -> str | None:
    """The kind of a layer that is listed under a key: a kind itself, or the fewest bits.

    None where the layer's own has as many.
    """
    if not key.startswith("minimum") and not key.endswith(("bit", "bits")):
        return key
    found = _MINIMUM.fullmatch(key)
    if found is None or bits_of_kind(_SHORT.get(kind, kind)) >= int(found[2]):
        return None
    return f"{'uint' if found[1] or int(found[2]) <= 4 else 'int'}{found[2]}"
