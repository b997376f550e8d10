"""What a target asks of a plan besides its layout: dtypes, key/values, files beside the weights."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from anamnesis.limits import Limits
from anamnesis.readers.model import Model

if TYPE_CHECKING:
    from anamnesis.pipeline.config import Settings
    from anamnesis.pipeline.plan import Plan, Spec


def prepared(model: Model, spec: Spec, settings: Settings, limits: Limits) -> tuple[Model, Spec]:
    """The model and the spec as the format of `spec` needs them, before anything is laid out.

    A folder for Hugging Face has one dtype. A GGUF has key/values.
    """
    if spec.format == "hf" and model.container == "gguf":
        from anamnesis.names.folder import usual_dtype

        dtype = spec.dtype or usual_dtype(model)
        return model, replace(spec, dtype=dtype, passthrough=spec.passthrough or dtype)
    if spec.format == "gguf":
        from anamnesis.names.key_values import changed, key_values
        from anamnesis.writers.gguf_values import pack

        found = key_values(model, spec.dtype or "bf16", limits)
        packed = pack(changed(found, settings.key_values))
        return model, replace(spec, storage=replace(spec.storage, key_values=packed))
    return model, spec


def described(plan: Plan, settings: Settings, limits: Limits) -> Plan:
    """The plan with the small files that a Hugging Face folder has beside its weights."""
    spec, model = plan.spec, plan.model
    if spec.format != "hf" or model.container != "gguf" or settings.names != "hf":
        return plan
    from anamnesis.names.folder import describe

    files, notes = describe(model, spec.dtype or "bf16", limits)
    extras = tuple((os.path.join(spec.path, name), data) for name, data in files.items())
    layout = replace(plan.layout, extras=(*plan.layout.extras, *extras))
    return replace(plan, layout=layout, model=replace(model, notes=(*model.notes, *notes)))
