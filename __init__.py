"""anamnesis: quantised weights in, full precision out, as a stream of Arrow record batches.

The public functions are loaded on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anamnesis.version import __version__ as __version__

if TYPE_CHECKING:
    from anamnesis.analytics.diff.run import diff
    from anamnesis.analytics.stats.run import stats
    from anamnesis.limits import Limits
    from anamnesis.model.api import convert, inspect, open_model, remember, run, scan, verify
    from anamnesis.writers.arrow_bf16 import register_bfloat16

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
    "diff": "analytics.diff.run",
    "register_bfloat16": "writers.arrow_bf16",
    "stats": "analytics.stats.run",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'anamnesis' has no attribute {name!r}")
    from importlib import import_module

    home = _HOMES.get(name, "model.api")
    value = getattr(import_module(f"anamnesis.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
