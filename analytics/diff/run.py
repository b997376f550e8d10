"""Two checkpoints compared tensor by tensor in one pass: `diff()`, and the work behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anamnesis.analytics.diff.names import Matched, Pair, match, place
from anamnesis.analytics.diff.plan import DiffPlan, make_diff_plan
from anamnesis.analytics.diff.record import Row
from anamnesis.analytics.diff.report import Diff
from anamnesis.analytics.reduction import Settings, members_of, reduce, settle
from anamnesis.errors import AnamnesisError, UsageError
from anamnesis.kernels.diff import Sums
from anamnesis.keywords import Executor, PathLike, Patterns, Size, Threads, keywords
from anamnesis.limits import Limits, LimitsLike
from anamnesis.names.folder_config import folder_config
from anamnesis.names.gguf_view import gguf_view
from anamnesis.names.open import open_named
from anamnesis.names.small_files import small_files
from anamnesis.names.view import has_products
from anamnesis.pipeline.callback import ProgressLike, reporter
from anamnesis.pipeline.idle import Case, given_options, without_effect
from anamnesis.pipeline.progress import Progress
from anamnesis.readers.base import Tensor
from anamnesis.readers.model import Model
from anamnesis.readers.patterns import matching, require_matches
from anamnesis.readers.schemes.base import Options


@keywords
def diff(
    a: PathLike,
    b: PathLike,
    *,
    include: Patterns = "*",
    exclude: Patterns = (),
    assume_unit_scale: bool = False,
    executor: Executor | None = None,
    scheduler: str | None = None,
    threads: Threads = "auto",
    memory: Size | None = None,
    follow_links: bool = False,
    leave_out_unknown: bool = False,
    limits: LimitsLike | None = None,
    progress: ProgressLike = False,
) -> Diff:
    """Compare two checkpoints of any formats, as float32, tensor by tensor; worst first.

    Tensors are matched by name, also between GGUF's names and Hugging Face's. Each file is read
    once, in windows.

    a, b: what is measured against, and what is measured; paths as in `open_model`.
    include, exclude: shell patterns on the name of either side, one or several.
    assume_unit_scale: take FP8 tensors without a scale as a plain cast.
    executor: `threads` unless a `scheduler`, the address of Dask's, is given; the figures are
    the same from all of them.
    threads, memory: how many, and the budget of a process (`512MiB`).
    follow_links, leave_out_unknown, limits: what a file may ask for, as `open_model` has them.
    progress: True for a report on standard error, or a function that gets two numbers, the bytes
    that are done and the bytes of all.

    Raises UsageError when no tensor of A is in B, and what `open_model` raises.
    """
    limits = Limits.of(limits).allowing(follow_links, leave_out_unknown)
    settings = settle(
        [a, b],
        select=(include, exclude),
        limits=limits,
        executor=executor,
        scheduler=scheduler,
        memory=memory,
        threads=threads,
    )
    options = Options(assume_unit_scale)
    patterns = (*settings.include, *settings.exclude)
    models = [open_named(path, options, settings.limits) for path in settings.inputs]
    models = _same_basis(models, options, settings.limits, patterns)
    matched = _matched(models, settings)
    plan = make_diff_plan(
        matched,
        memory_bytes=settings.memory_bytes,
        threads=settings.threads,
        limits=settings.limits,
    )
    sums = _run(plan, settings, models, matched, reporter(progress))
    given = given_options(options, settings.limits.allow) + ["threads"] * (threads != "auto")
    idle = without_effect(given, Case(models, scheduler=scheduler is not None))
    notes = (*models[0].notes, *models[1].notes, *matched.notes, *idle)
    return Diff(models[0].path, models[1].path, _rows(models, matched, plan, sums), notes)


def _same_basis(
    models: Sequence[Model], options: Options, limits: Limits, patterns: Sequence[str]
) -> list[Model]:
    """The same models, with a GGUF under Hugging Face's names where the other has those.

    Rows of q and k, fused projections and experts are then compared as they lie there. It stays as
    it is for `patterns` that speak of the names in the file.
    """
    found = list(models)
    for number, model in enumerate(models):
        multiplied = _multiplied(model, models[1 - number], limits, patterns)
        if multiplied is not None:
            found[1 - number] = multiplied
            continue
        other, stored = _names(models[1 - number]), _names(model)
        if model.container != "gguf" or stored <= other:
            continue
        try:
            viewed = open_named(model.path, replace(options, names="hf"), limits)
        except AnamnesisError:  # an architecture without rows: matched by name alone
            continue
        names = _names(viewed)
        needed = matching(sorted(stored), patterns) - matching(sorted(names | other), patterns)
        if not needed and len(other & names) > len(other & stored):
            found[number] = viewed
    return found


def _multiplied(
    model: Model, other: Model, limits: Limits, patterns: Sequence[str]
) -> Model | None:
    """The other model as a GGUF has it, whose numbers are products with those of `config.json`.

    None where `model` is no such file, or the other no folder of its class.
    """
    if model.container != "gguf" or other.container == "gguf" or not has_products(model):
        return None
    try:
        with small_files(other, limits) as folder:
            viewed = gguf_view(other, folder_config(folder, limits)).model
    except AnamnesisError:
        return None
    names = _names(viewed) | _names(model)
    unknown = matching(sorted(_names(other)), patterns) - matching(sorted(names), patterns)
    return None if unknown else replace(viewed, notes=other.notes)


def _names(model: Model) -> set[str]:
    return {tensor.name for tensor in model.tensors}


def _run(
    plan: DiffPlan,
    settings: Settings,
    models: Sequence[Model],
    matched: Matched,
    progress: Progress,
) -> dict[int, Sums]:
    """The sums of every pair, added in the order of its tensor."""
    label = f"{models[0].path} : {models[1].path}"
    archives = [
        members_of(models[0], [pair.a for pair in matched.pairs]),
        members_of(models[1], [pair.b for pair in matched.pairs]),
    ]
    found: dict[int, Sums] = {}
    for pair, sums in reduce(plan, settings, label, archives, progress):
        found[pair] = found.get(pair, Sums()) + sums
    return found


def _matched(models: Sequence[Model], settings: Settings) -> Matched:
    """Which tensors are compared; UsageError where there is none."""
    patterns = (*settings.include, *settings.exclude)
    names = [tensor.name for model in models for tensor in model.tensors]
    require_matches(names, patterns, " and ".join(model.path for model in models))
    matched = match(models[0], models[1], settings.include, settings.exclude)
    if matched.pairs or not names:
        return matched
    if not (matched.only_a or matched.only_b):
        raise UsageError("--include and --exclude leave no tensor to compare")
    raise UsageError(
        f"{models[0].path} and {models[1].path} have no tensor in common; they have names such as "
        f"{_first(matched.only_a)} and {_first(matched.only_b)}"
    )


def _first(names: Sequence[str]) -> str:
    return f"{names[0]!r:.200}" if names else "none"


def _rows(
    models: Sequence[Model], matched: Matched, plan: DiffPlan, sums: dict[int, Sums]
) -> tuple[Row, ...]:
    """Compared tensors, worst first; then pairs without figures; then those without a partner."""
    skipped = dict(plan.skipped)
    compared, others = [], []
    for number, pair in enumerate(matched.pairs):
        if number in skipped:
            others.append(_row(pair, None, skipped[number]))
        else:
            compared.append(_row(pair, sums.get(number, Sums()), None))
    compared.sort(key=lambda row: (row.broken == 0, row.rank, row.tensor))
    for model, names, status in zip(
        models, (matched.only_a, matched.only_b), ("only in a", "only in b"), strict=True
    ):
        tensors = {t.name: t for t in model.tensors}
        others += [_single(tensors[name], status) for name in names]
    return (*compared, *others)


def _row(pair: Pair, sums: Sums | None, why: str | None) -> Row:
    where = place(pair.a.name)
    return Row(
        tensor=pair.a.name,
        tensor_b=pair.b.name,
        layer=where.layer,
        module=where.kind,
        shape=pair.a.shape,
        scheme_a=pair.a.scheme,
        scheme_b=pair.b.scheme,
        status="compared" if why is None else "not compared",
        why=why,
        sums=sums,
    )


def _single(tensor: Tensor, status: Any) -> Row:
    where = place(tensor.name)
    in_a = status == "only in a"
    return Row(
        tensor=tensor.name,
        tensor_b=None,
        layer=where.layer,
        module=where.kind,
        shape=tensor.shape,
        scheme_a=tensor.scheme if in_a else None,
        scheme_b=None if in_a else tensor.scheme,
        status=status,
    )
