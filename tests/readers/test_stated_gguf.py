"""What a GGUF's own keys state beside the types of its tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf_files
import pytest
from small_models import Parts, ledger_of, resolved

from anamnesis.errors import UnsupportedError
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger


def test_gguf_says_itself_what_its_types_are() -> None:
    about = {"quant_method": "foo-bits"}
    resolve(ledger_of({"blk.0.attn_q.weight": ("F32", (4, 4))}, about, kind="gguf"))


ROW: Parts = {"blk.0.attn_q.weight": ("F32", (4, 4))}


@pytest.mark.parametrize(
    "key",
    ["quantization.method", "general.quantization", "general.quant_method", "llama.quant_type"],
)
def test_a_gguf_that_states_a_method_itself_is_refused(key: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"metadata {key} \(foo-bits\): no such method"):
        resolve(ledger_of(ROW, metadata={key: "foo-bits"}, kind="gguf"))
    for known in ("Q4_K_M", "IQ2_XXS", "UD-Q4_K_XL", "awq", "AutoRound", "none", "MXFP4_MOE"):
        assert resolved(ROW, metadata={key: known}, kind="gguf").notes == []


def test_ordinary_keys_of_a_gguf_state_no_method() -> None:
    ordinary = {
        "general.quantization_version": 2,
        "general.file_type": 15,
        "general.quantized_by": "Some One",
        "other.quantized_at": "2026-01-01",
        "quantize.imatrix.file": "imatrix.gguf",
        "quantize.imatrix.dataset": "wiki.txt",
        "tokenizer.ggml.model": "gpt2",
        "general.description": "a quantised model",
        "llama.rope.dimension_count": 64,
    }
    assert resolved(ROW, metadata=ordinary, kind="gguf").notes == []


@pytest.mark.parametrize(
    ("metadata", "refused"),
    [
        ({"general.rotation": "foo"}, True),
        ({"quarot.block": 64}, True),
        ({"llama.hadamard_block_size": 128}, True),
        ({"general.weight_basis": "rotated"}, True),
        ({"general.rotation": False, "llama.rotary_dim": 64, "llama.kv_rotation": True}, False),
        ({"general.quantized_by": "Rotations Ltd.", "tokenizer.rotation": 1}, False),
    ],
)
def test_a_rotated_basis_that_a_gguf_states_is_refused(
    tmp_path: Path, metadata: dict[str, Any], refused: bool
) -> None:
    for type_id, nbytes in ((8, 4 * 34), (1, 4 * 64)):  # Q8_0, F16
        path = gguf_files.write(tmp_path / "m", [("blk.0.attn_q.weight", [32, 4], type_id, nbytes)])
        ledger = Ledger(replace(gguf_files.opened(path), metadata=metadata))
        if refused and type_id == 8:
            with pytest.raises(UnsupportedError, match=f"metadata: {min(metadata)}: weights in a"):
                resolve(ledger)
        else:
            resolve(ledger)
            assert ["speaks of a basis" in note for note in ledger.notes] == [True] * refused
