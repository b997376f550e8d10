"""What a target asks of a plan besides its layout: dtypes, key/values, files beside the weights."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from anamnesis.errors import UsageError
from anamnesis.limits import Limits
from anamnesis.readers.model import Model

if TYPE_CHECKING:
    from anamnesis.pipeline.config import Settings
    from anamnesis.pipeline.plan import Plan, Spec
    from anamnesis.pipeline.targets import Encode
    from anamnesis.readers.base import Tensor
    from anamnesis.readers.gguf_types import KeyValue

    _Needs: TypeAlias = tuple[Model, Spec, dict[str, KeyValue]]


def prepared(model: Model, spec: Spec, settings: Settings, limits: Limits) -> tuple[Model, Spec]:
    """The model and the spec as the format of `spec` needs them, before anything is laid out.

    A folder for Hugging Face has one dtype. A GGUF has key/values.
    """
    if spec.format == "hf" and model.container == "gguf":
        from anamnesis.names.folder import usual_dtype

        dtype = spec.dtype or usual_dtype(model)
        return model, replace(spec, dtype=dtype, passthrough=spec.passthrough or dtype)
    if spec.format == "gguf":
        return _for_gguf(model, spec, settings, limits)
    return model, spec


def described(plan: Plan, settings: Settings, limits: Limits) -> Plan:
    """The plan with the small files that a Hugging Face folder has beside its weights."""
    spec, model = plan.spec, plan.model
    if spec.format != "hf" or model.container != "gguf" or settings.names != "hf":
        return plan
    from anamnesis.names.folder import as_json, describe
    from anamnesis.pipeline import quant_config

    files, notes = describe(model, spec.dtype or "bf16", limits)
    if plan.choices:  # what loaders need of tensors that are encoded
        config = quant_config.described(json.loads(files["config.json"]), plan.choices)
        files["config.json"] = as_json(config)
    extras = tuple((os.path.join(spec.path, name), data) for name, data in files.items())
    layout = replace(plan.layout, extras=(*plan.layout.extras, *extras))
    return replace(plan, layout=layout, model=replace(model, notes=(*model.notes, *notes)))


def _for_gguf(model: Model, spec: Spec, settings: Settings, limits: Limits) -> tuple[Model, Spec]:
    """GGUF's names, types and key/values for a model folder; a GGUF keeps its own."""
    from anamnesis.names import key_values
    from anamnesis.writers.gguf_values import pack

    outtype, whole = spec.dtype or "bf16", spec.dtype is None
    if model.container == "gguf" and settings.names == "mmproj":
        raise UsageError(f"{model.path}: mmproj is made of a model folder; found a GGUF")
    if model.container == "gguf" or settings.names == "stored":
        found, whole = key_values.key_values(model, outtype, limits), False
    elif settings.names == "mmproj":
        model, spec, found = _tower(model, spec, outtype, limits)
    else:
        model, spec, found = _text_model(model, spec, settings, limits)
    if spec.encode is not None:
        from anamnesis.pipeline.gguf_encode import encoded_as, facts_of

        encode = spec.encode.of(model.tensors, facts_of(found))
        if whole:
            model = replace(model, tensors=tuple(_unrounded(t, encode) for t in model.tensors))
        spec = replace(spec, encode=encode)
        found |= encoded_as(encode)
    packed = pack(key_values.changed(found, settings.key_values))
    return model, replace(spec, storage=replace(spec.storage, key_values=packed))


def _unrounded(tensor: Tensor, encode: Encode) -> Tensor:
    """A tensor as llama.cpp's converter quantises it: out of float32, and kept in F16 if at all."""
    from anamnesis.pipeline.plan import with_dtype

    wide = with_dtype(tensor, "F32")
    if encode.choose(wide).target is not None:
        return wide
    return with_dtype(tensor, "F16") if tensor.out_dtype == "BF16" else tensor


def _text_model(model: Model, spec: Spec, settings: Settings, limits: Limits) -> _Needs:
    """The text model of a folder."""
    from anamnesis.names import key_values
    from anamnesis.names.folder_config import folder_config
    from anamnesis.names.gguf_config import generated
    from anamnesis.names.gguf_view import gguf_view, kept_dtype
    from anamnesis.names.small_files import small_files
    from anamnesis.names.vocabulary import vocabulary
    from anamnesis.pipeline.plan import with_dtype

    outtype = spec.dtype or "bf16"
    with small_files(model, limits) as folder:
        config = folder_config(folder, limits)
        view = gguf_view(model, config)
        words = vocabulary(folder, view.tokens, view.keys, settings.key_values, limits)
        vectors = generated(view.keys, config, model.path)
        beside = view.beside(words)
        found = key_values.described(beside, view.model, folder.here, outtype, vectors)
    tensors = tuple(with_dtype(t, kept_dtype(t, outtype, view.keys)) for t in view.model.tensors)
    storage = replace(spec.storage, generated=vectors)
    spec = replace(spec, dtype=outtype, passthrough="keep", storage=storage)
    notes = (*view.model.notes, *view.beyond(words))
    return replace(view.model, tensors=tensors, notes=notes), spec, found


def _tower(model: Model, spec: Spec, outtype: str, limits: Limits) -> _Needs:
    """The vision tower of a folder."""
    from anamnesis.names import key_values
    from anamnesis.names.folder_config import folder_config, token_id
    from anamnesis.names.mmproj import mmproj_view, tower_dtype
    from anamnesis.names.small_files import small_files
    from anamnesis.pipeline.plan import with_dtype

    with small_files(model, limits) as folder:
        config = folder_config(folder, limits)
        view = mmproj_view(model, config, lambda token: token_id(folder, config, token, limits))
        found = key_values.described(view.values, view.model, folder.here, outtype)
    tensors = tuple(with_dtype(t, tower_dtype(view.tower, t, outtype)) for t in view.model.tensors)
    spec = replace(spec, dtype=outtype, passthrough="keep")
    return replace(view.model, tensors=tensors), spec, found
