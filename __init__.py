"""anamnesis: quantised weights in, full precision out, as a stream of Arrow record batches.

The public functions are loaded on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anamnesis.limits import Limits
    from anamnesis.pipeline.analytics.diff import diff
    from anamnesis.pipeline.analytics.stats import stats
    from anamnesis.pipeline.api import convert, inspect, open_model, remember, run, scan, verify
    from anamnesis.writers.arrow_bf16 import register_bfloat16

__version__ = "0.1.0"
__all__ = [
    "Limits",
    "convert",
    "diff",
    "inspect",
    "open_model",
    "register_bfloat16",
    "remember",
    "run",
    "scan",
    "stats",
    "verify",
]
_HOMES = {
    "Limits": "limits",
    "diff": "pipeline.analytics.diff",
    "register_bfloat16": "writers.arrow_bf16",
    "stats": "pipeline.analytics.stats",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'anamnesis' has no attribute {name!r}")
    from importlib import import_module

    home = _HOMES.get(name, "pipeline.api")
    value = getattr(import_module(f"anamnesis.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
