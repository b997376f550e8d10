"""What ModelSlim says beside the tensors: a type for each of them, by name.

`quant_model_description.json` maps the names of tensors to types (`W8A8`, `W8A8_DYNAMIC`, `FLOAT`,
…); older versions wrote `quant_model_description_w8a8.json`, and `"quantize"` into config.json.
Source: https://gitee.com/ascend/msit msmodelslim; https://github.com/vllm-project/vllm-ascend
vllm_ascend/quantization.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anamnesis.readers.schemes.base import Ledger

DESCRIPTION = "quant_model_description.json"
_OLDER = re.compile(r"quant_model_description_.*\.json")


def description(ledger: Ledger) -> Mapping[str, Any]:
    """The types by name; empty where there is no such file."""
    found: dict[str, Any] = {}
    for name, document in ledger.configs.items():
        if name == DESCRIPTION or _OLDER.fullmatch(name):
            found.update(document)
    return found


def is_modelslim(ledger: Ledger) -> bool:
    """Whether a file beside the tensors says that they are ModelSlim's."""
    quantize = ledger.configs.get("config.json", {}).get("quantize")
    return bool(description(ledger)) or isinstance(quantize, str)
