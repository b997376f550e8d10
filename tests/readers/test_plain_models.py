"""Models without any configuration: what may be of codes is never copied in silence."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import ledger_of

from anamnesis.errors import AnamnesisError
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

Entry = tuple[str, tuple[int, ...]]
LAYER: dict[str, Entry] = {
    "l.q.weight": ("BF16", (64, 64)),
    "l.q.bias": ("BF16", (64,)),
    "l.norm.weight": ("BF16", (64,)),
    "l.attn.scale": ("F32", (64,)),
    "l.token.cls_token": ("F32", (1, 1, 64)),
}
MAY_BE_OF_CODES: dict[str, Entry] = {
    "l.q.codes": ("I64", (64, 8)),
    "l.table": ("U64", (64, 8)),
    "l.packed": ("I32", (64, 8)),
    "l.stack": ("I16", (4, 8, 8)),
    "l.signs": ("BOOL", (64, 64)),
    "l.blob": ("U8", (4096,)),
    "l.long": ("I8", (64,)),
    "l.q.scale": ("F32", (64,)),
    "l.q.scales": ("F32", (64, 2)),
    "l.q.pre_quant_scale": ("BF16", (64,)),
    "l.q.smooth_scale": ("BF16", (64,)),
    "l.q.theta": ("F32", (8, 32)),
    "l.q.zeta": ("F32", (64,)),
    "l.rotation.weight": ("F32", (64, 64)),
    "l.q_rotation": ("F32", (64, 64)),
    "R1": ("F32", (64, 64)),
    "model.Q.weight": ("F32", (64, 64)),
    "l.act_fn.scale": ("BF16", (64,)),
    "l.act.scales": ("BF16", (64,)),
    "l.x.zero_points": ("F32", (64, 2)),
}
SOUND: dict[str, Entry] = {
    "e.position_ids": ("I64", (1, 512)),
    "e.token_type_ids": ("I64", (1, 512)),
    "w.relative_position_index": ("I64", (49, 49)),
    "w.attn_mask": ("I64", (4, 49, 49)),
    "h.attn.bias": ("BOOL", (1, 1, 32, 32)),
    "h.attn.masked_bias": ("F32", ()),
    "h.bias": ("U8", (1, 1, 32, 32)),
    "d.causal_mask": ("BOOL", (32, 32)),
    "bn.num_batches_tracked": ("I64", ()),
    "rotary.inv_freq": ("F32", (32,)),
    "moe.gate.e_score_correction_bias": ("F32", (64,)),
    "gate.tid2eid": ("I64", (128, 6)),
    "t.Q.weight": ("F32", (64, 64)),
    "t.K.weight": ("F32", (64, 64)),
    "star.act.scale": ("F32", (1,)),
    "idx": ("I64", (5,)),
    "model.q.weight": ("F32", (64, 64)),
}


def told(parts: dict[str, Entry], **more: Any) -> list[str]:
    book = ledger_of(parts, **more)
    resolve(book)
    assert set(book.tensors) == set(parts)
    return book.notes


def remarks(book: Ledger) -> list[str]:
    """The notes on a model, or what refuses it."""
    try:
        resolve(book)
    except AnamnesisError as error:
        return [str(error)]
    return book.notes


@pytest.mark.parametrize("name", sorted(MAY_BE_OF_CODES))
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_what_may_be_of_codes_is_noted_or_refused(name: str, kind: str) -> None:
    """Beside layers of floats, and by itself where it then has one reading."""
    book = ledger_of({**LAYER, name: MAY_BE_OF_CODES[name]}, kind=kind)
    assert [repr(name) in said for said in remarks(book)] == [True]


@pytest.mark.parametrize("name", sorted(MAY_BE_OF_CODES))
def test_the_same_under_a_method_is_noted_or_refused(name: str) -> None:
    fp8: dict[str, Entry] = {"l.k.weight": ("F8_E4M3", (64, 64)), "l.k.weight_scale": ("F32", ())}
    book = ledger_of({**LAYER, **fp8, name: MAY_BE_OF_CODES[name]}, {"quant_method": "fp8"})
    assert any(repr(name) in said for said in remarks(book))


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_buffers_and_parameters_of_sound_models_are_no_remark(kind: str) -> None:
    assert told(LAYER | SOUND, kind=kind) == []


def test_archives_hold_arrays_of_anything() -> None:
    parts: dict[str, Entry] = {"labels": ("I64", (100, 2)), "images": ("U8", (100, 32)), **LAYER}
    assert told(parts, kind="npz") == []
    assert told({"labels": ("I64", (100, 2))}, kind="safetensors") != []
