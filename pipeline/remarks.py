"""What a user should know of a job that is right and may still surprise, in few lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import TYPE_CHECKING

from anamnesis.errors import AnamnesisError
from anamnesis.pipeline.idle import Case, Place, without_effect
from anamnesis.pipeline.importance import unweighted_note
from anamnesis.pipeline.keys import KEYS
from anamnesis.pipeline.shared_scales import joined
from anamnesis.readers.table import READERS

if TYPE_CHECKING:
    from anamnesis.pipeline.config import Job, Settings
    from anamnesis.pipeline.loss import Losses
    from anamnesis.pipeline.plan import Plan
    from anamnesis.pipeline.targets import Choice, Target

_APART = 3  # so many notes of a kind stay lines of their own
# What differs between notes of a kind: names in quotes, words with a digit, a dot, a slash or a
# colon inside, as names of tensors and files have.
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\S*(?:\d|[./_:](?=\S))\S*")

_EXPERT = re.compile(r"\.experts\.\d+\.")
_LLAMA_4 = re.compile(r"\.feed_forward\.experts\.(?:gate_up|down)_proj$")
_NOT_LOADED = ("bnb-fp4", "bnb-int8", "bnb-nf4", "ct-int-quantized", "mxfp8", "quanto")


def remarks_on(source: str, plan: Plan, settings: Settings) -> list[str]:
    """Notes on one input of a job."""
    notes = list(plan.model.notes)
    plain = settings.format in ("safetensors", "hf") and settings.names == "stored"
    if plan.model.container == "gguf" and plain:
        notes.append(
            f"names are those of the GGUF, which no trainer loads; {_renamed(source, plan)}"
        )
    suffix = PurePath(plan.spec.path).suffix
    if suffix in READERS["pth"].extensions:
        notes.append(
            f"{plan.spec.path} is a folder of {settings.format}: no {suffix} files are written"
        )
    if plan.choices and not any(choice.target for _, choice in plan.choices):
        reasons = [c for c in plan.choices if c[1].unfit] or [c for c in plan.choices if c[1].wide]
        name, first = (reasons or plan.choices)[0]
        notes.append(f"nothing is encoded: {name} is {first}")
    imatrix = plan.spec.encode.imatrix if plan.spec.encode else None
    if imatrix is not None:
        missing = [name for name, choice in plan.choices if choice.unweighted]
        notes += filter(None, [unweighted_note(imatrix, missing)])
    notes += _other_targets(plan)
    notes += _experts_apart(plan)
    notes += _other_fp8_blocks(plan)
    notes += _experts_of_llama_4(plan)
    if any(choice.target and choice.target.name == "quanto" for _, choice in plan.choices):
        notes.append(
            "transformers' own classes take no codes of Quanto and begin with other weights; "
            "QuantizedModelForCausalLM of optimum-quanto loads the folder"
        )
    notes += _scales_apart(plan)
    again: dict[str, list[str]] = {}
    for name, choice in plan.choices:
        if choice.again:
            again.setdefault(choice.again, []).append(name)
    for why, names in again.items():
        notes.append(
            f"{len(names)} tensor(s), {names[0]} first, were quantised before ({why}): their "
            "recovered values are encoded, which adds a second loss to the first"
        )
    return notes


def _other_targets(plan: Plan) -> list[str]:
    """What became of tensors that the target cannot hold, while it holds others."""
    others: dict[tuple[str, str], list[str]] = {}
    holds = any(choice.target for _, choice in plan.choices)
    for name, choice in plan.choices:
        if choice.target and choice.instead:
            others.setdefault((f"encoded as {choice.target}", choice.instead), []).append(name)
        elif choice.unfit and holds:
            kept = "kept as they are"
            if choice.kept_as:
                kept = f"stored in {choice.kept_as}, where what is over 65504 is infinite"
            others.setdefault((kept, choice.why), []).append(name)
    return [
        f"{len(names)} tensor(s), {names[0]} first, are {what} ({why})"
        for (what, why), names in others.items()
    ]


def _experts_apart(plan: Plan) -> list[str]:
    """Experts that are modules of their own, under targets that transformers does not stack."""
    names: dict[str, list[str]] = {}
    for name, choice in plan.choices:
        fault = _stacking_fault(choice.target) if _EXPERT.search(name) else ""
        if fault:
            names.setdefault(f"{fault} {choice.target}", []).append(name)
    return [
        f"{len(found)} tensor(s), {found[0]} first, are of experts, which transformers 5 stacks as "
        f"it loads: it {fault} of these; fp8-block, fp8-channel, mxfp4 and symmetric "
        "ct-pack-quantized it loads"
        for fault, found in names.items()
    ]


def _scales_apart(plan: Plan) -> list[str]:
    """Layers with a scale each, of which some runtimes take one for all that they join."""
    groups: dict[str, list[tuple[str, Choice, bool]]] = {}
    for name, choice in plan.choices:
        if target := choice.target:
            group = joined(name, target.name, target.settings)
            shared = bool(target.settings.get("shared"))
            groups.setdefault(group, []).append((name, choice, shared))
    groups.pop("", None)
    together = [layer for layers in groups.values() if len(layers) > 1 for layer in layers]
    apart = [name for name, choice, shared in together if not (shared or choice.moved)]
    kept = [name for name, choice, shared in together if shared and choice.moved]
    notes = []
    if apart:
        notes.append(
            f"{len(apart)} tensor(s), {apart[0]} first, have a global scale each; vLLM and SGLang "
            "join queries, keys and values, and gates and ups, under one of them, and get other "
            "weights: for these encode nvfp4:shared=true, one for all, as llm-compressor and "
            "ModelOpt do"
        )
    if kept:
        notes.append(
            f"{len(kept)} tensor(s), {kept[0]} first, keep the global scales that they have, which "
            "shared=true does not change: where queries, keys and values, or gate and up, have "
            "several, vLLM and SGLang get other weights"
        )
    return notes


def _other_fp8_blocks(plan: Plan) -> list[str]:
    """Matrices of no whole blocks, whose grid transformers takes for one of equal blocks."""
    names = [name for name, choice in plan.choices if _is_ragged(choice)]
    if not names:
        return []
    return [
        f"{len(names)} tensor(s), {names[0]} first, are of no whole blocks: vLLM takes these; "
        "with dequantize=True transformers 5 refuses them, or gets other weights from them, and "
        "style=compressed-tensors it loads"
    ]


def _is_ragged(choice: Choice) -> bool:
    target, form = choice.target, choice.form
    if target is None or form is None or target.name != "fp8-block":
        return False
    block, shape = int(target.settings["block"]), form.parts[0].shape[-2:]
    deepseek = target.settings["style"] == "deepseek"
    return deepseek and any(size > block and size % block for size in shape)


def _experts_of_llama_4(plan: Plan) -> list[str]:
    """Stacks of which transformers 5.23 makes modules where these two libraries quantise.

    Its quantizers/base.py has which (`MODULES_TO_PATCH_FOR_QUANTIZATION`).
    """
    targets = [choice.target for _, choice in plan.choices if choice.target]
    stacks = [n for n, c in plan.choices if c.target is None and _LLAMA_4.search(n)]
    patched = any(
        t.name.startswith(("bnb-", "ct-")) or t.settings.get("style") == "compressed-tensors"
        for t in targets
    )
    if not stacks or not patched:
        return []
    return [
        f"{len(stacks)} tensor(s), {stacks[0]} first, are experts of Llama 4, which transformers "
        "5 has as modules of their own in such a model: it begins with other weights for them; "
        "fp8-block it loads"
    ]


def _stacking_fault(target: Target | None) -> str:
    """What transformers 5.23 does wrong with such experts; empty for nothing, and for MLX."""
    style = target.settings.get("style") if target else "mlx"
    if target is None or style == "mlx":
        return ""
    if target.name == "nvfp4" and style == "compressed-tensors":
        return "leaves out the global scales and gets other weights from"
    blocks = target.name == "fp8-block" and style == "compressed-tensors"
    zeros = target.name == "ct-pack-quantized" and not target.settings["sym"]
    return "does not load" if target.name in (*_NOT_LOADED, "nvfp4") or blocks or zeros else ""


def _renamed(source: str, plan: Plan) -> str:
    """How a GGUF gets names that trainers know, where it can."""
    from anamnesis.names.view import hf_view

    try:
        hf_view(plan.model)
    except AnamnesisError:
        return "--to hf, which changes them, does not take this file"
    return f"`amn convert {source} --to hf -o FOLDER` writes a folder that transformers loads"


def remarks_on_settings(
    job: Job, settings: Settings, planned: Sequence[tuple[str, Plan | BaseException]]
) -> list[str]:
    """Notes on settings that change nothing for any input of a job."""
    plans = [plan for _, plan in planned if not isinstance(plan, BaseException)]
    models = [plan.model for plan in plans]
    place = Place.of(settings.format, settings.path)
    scheduler = settings.scheduler is not None
    idle = without_effect(given_in(job), Case(models, plans, place, scheduler))
    return idle + _rules_of_nothing(plans)


def _rules_of_nothing(plans: Sequence[Plan]) -> list[str]:
    """Rules of a job that are for no tensor of any input: a name is wrong, or their order."""
    encode = plans[0].spec.encode if plans else None
    if encode is None:
        return []
    every = [name for plan in plans for name, _ in plan.choices]
    names = every
    notes: list[str] = []
    for number, rule in enumerate(encode.rules):
        left = [name for name in names if not fnmatchcase(name, rule.tensors)]
        if len(left) == len(names):
            known = any(fnmatchcase(name, rule.tensors) for name in every)
            why = "rules before it fit all that it fits" if known else "no tensor has such a name"
            said = f"{rule.tensors!r:.200} as {rule.target}"
            notes.append(f"output.encode[{number}] ({said}) has no effect: {why}")
        names = left
    return notes


def remarks_on_job(job: Job, planned: Sequence[tuple[str, Plan | BaseException]]) -> list[str]:
    """All notes on a job that is planned, and not run."""
    settings = job.resolve()
    notes = remarks_on_settings(job, settings, planned)
    for source, plan in planned:
        if not isinstance(plan, BaseException):
            notes += remarks_on(source, plan, settings)
    return notes


def given_in(job: Job) -> list[str]:
    """Keywords of the settings that are not as usual, in the order of the table."""
    usual = type(job)(inputs=job.inputs, output=type(job.output)(path=job.output.path))
    found = []
    for name, key in KEYS.items():
        section, _, field = key.partition(".")
        value, default = (getattr(getattr(j, section), field) for j in (job, usual))
        if value != default:
            found.append(name)
    return found


def remarks_on_loss(losses: Losses) -> list[str]:
    """Remarks on what a run that encodes made of its tensors."""
    return [
        f"{row.tensor}: nothing that is finite is left of it as {row.target}, where one infinity, "
        "or nothing but zeros, may spoil all that is under one scale"
        for row in losses
        if row.is_lost
    ]


def collapsed(notes: Iterable[str]) -> list[str]:
    """The notes, of those that differ in names and numbers alone the first, and how many more.

    All of them are in `--json`, in the manifest and in `Outcome.notes`.
    """
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(_VARYING.sub("*", note), []).append(note)
    lines = []
    for same in kinds.values():
        if len(same) <= _APART:
            lines += same
        else:
            lines.append(f"{same[0]} (and {len(same) - 1:,} more of this kind; --json has all)")
    return lines


__all__ = [
    "collapsed",
    "given_in",
    "remarks_on",
    "remarks_on_job",
    "remarks_on_loss",
    "remarks_on_settings",
]
