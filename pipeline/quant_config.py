"""What a loader has to know of encoded weights: the blocks of `config.json` of a whole model.

What one target needs is said by its encoder (`config_X`, see `kernels.encoders`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.kernels.encoders import function_of, has
from anamnesis.pipeline.targets import Choice, Target

Chosen = Sequence[tuple[str, Choice]]
_KEY = "quantization_config"
# Stacked experts, in a module of transformers 5 that has this name where the file has another.
_STACKED = re.compile(r"(.*\.)(?:experts\.\w+|(?:input|output)_linear\.weight)$")
_MIXABLE = "compressed-tensors"  # whose loader takes several in one model


def config_blocks(choices: Chosen, dtype: str) -> dict[str, Any]:
    """The keys of `config.json` that speak of the encoded tensors of a model; empty for none.

    `dtype` is the number format of what is kept, in torch's spelling. Raises UnsupportedError for
    targets that no loader takes in one model.
    """
    targets, modules = _targets(choices)
    kept = _kept(choices)
    found: list[dict[str, Any]] = [
        function_of(target.name, "config")(target.settings, kept, dtype)
        for target in targets.values()
    ]
    if len(found) < 2:
        return found[0] if found else {}
    blocks = [block[_KEY] for block in found]
    if any(block.get("quant_method") != _MIXABLE for block in blocks):
        raise UnsupportedError(
            f"output.encode: {', '.join(targets)}: no loader takes these in one model; "
            + _advice(list(targets), {target.name for target in targets.values()})
        )
    return {_KEY: _mixed(blocks, list(modules.values()))}


def _targets(choices: Chosen) -> tuple[dict[str, Target], dict[str, list[str]]]:
    """The targets of a model as they are written, and the modules that each is of."""
    modules: dict[str, list[str]] = {}
    targets: dict[str, Target] = {}
    for name, choice in choices:
        if choice.target is not None:
            targets[str(choice.target)] = choice.target
            modules.setdefault(str(choice.target), []).append(_module(name))
    return targets, modules


def files_beside(choices: Chosen) -> dict[str, Any]:
    """Other files that loaders read of encoded weights: JSON by name."""
    targets, modules = _targets(choices)
    found: dict[str, Any] = {}
    for text, target in targets.items():
        if has(target.name, "files"):
            found |= function_of(target.name, "files")(target.settings, modules[text])
    return found


def _advice(targets: Sequence[str], names: set[str]) -> str:
    """What to write in place of targets that no loader takes together.

    Those of one name differ where the settings of some follow what is quantised already.
    """
    if len(names) > 1:
        return "compressed-tensors' targets can be mixed with each other"
    followed = next(text for text in targets if ":" in text)
    return f"{followed}, with the settings of what is quantised already, holds for all of them"


def metadata_blocks(choices: Chosen) -> tuple[tuple[str, str], ...]:
    """What `config_blocks` says, as `__metadata__` of files that have no `config.json` beside them.

    Nothing for targets that no loader takes in one model.
    """
    try:
        blocks = config_blocks(choices, "")
    except UnsupportedError:
        return ()
    key = "quantization" if "quantization" in blocks else _KEY
    return tuple((key, json.dumps(blocks[key])) for key in [key] if key in blocks)


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _kept(choices: Chosen) -> list[str]:
    """Modules of matrices that stay as they are, and of stacks of them."""
    kept = [(n, c) for n, c in choices if c.target is None]
    found = [_module(name) for name, c in kept if name.endswith(".weight") and c.wide]
    stacks = [_STACKED.match(name) for name, c in kept if c.unfit and not c.wide]
    return list(dict.fromkeys(found + [f"{stack[1]}experts" for stack in stacks if stack]))


def _mixed(blocks: Sequence[dict[str, Any]], modules: Sequence[list[str]]) -> dict[str, Any]:
    """One block of compressed-tensors, of several: each is a group for the modules it is of."""
    groups = {}
    for number, (block, names) in enumerate(zip(blocks, modules, strict=True)):
        groups[f"group_{number}"] = block["config_groups"]["group_0"] | {"targets": names}
    formats = {group["format"] for group in groups.values()}
    found = {"format": formats.pop() if len(formats) == 1 else "mixed-precision"}
    return blocks[0] | found | {"config_groups": groups, "ignore": []}


def described(config: Mapping[str, Any], choices: Iterable[tuple[str, Choice]]) -> dict[str, Any]:
    """A model's config with what loaders need of its encoded weights."""
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return {**config, **config_blocks(list(choices), dtype)}
