"""anamnesis: quantised weights in, full precision out, as a stream of Arrow record batches.

    inspect(path), parse(path)      what a model holds, from its headers alone
    open_model(path)                its tensors by name, each decoded when it is read
    scan(path, tensors)             raw blocks or decoded rows, as an Arrow stream
    remember(path, out)             recover its precision into a file or a folder
    convert(path, out, to=FORMAT)   the same to any container, or encoded anew
    run(job), verify(out)           a job file; an output against its checksums
    stats(path), diff(a, b)         a row a tensor: figures, or what two models differ in
    Limits, errors                  what a file may ask for; the classes that are raised
    register_bfloat16()             BF16 columns as an extension type of pyarrow

`help(anamnesis.remember)` has the keywords. Functions are loaded on first use, so that importing
the package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anamnesis.version import __version__ as __version__

if TYPE_CHECKING:
    from anamnesis import errors
    from anamnesis.analytics.diff.run import diff
    from anamnesis.analytics.stats.run import stats
    from anamnesis.limits import Limits
    from anamnesis.model.api import inspect, open_model, parse, run, scan, verify
    from anamnesis.model.conversion import convert, remember
    from anamnesis.writers.arrow_bf16 import register_bfloat16

__all__ = [
    "Limits",
    "convert",
    "diff",
    "errors",
    "inspect",
    "open_model",
    "parse",
    "register_bfloat16",
    "remember",
    "run",
    "scan",
    "stats",
    "verify",
]
_HOMES = {
    "Limits": "limits",
    "convert": "model.conversion",
    "diff": "analytics.diff.run",
    "register_bfloat16": "writers.arrow_bf16",
    "remember": "model.conversion",
    "stats": "analytics.stats.run",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        from anamnesis.words import did_you_mean, meant

        near = [] if name.startswith("_") else meant(name, __all__)
        hint = did_you_mean(near, "; ")
        raise AttributeError(f"module 'anamnesis' has no attribute {name!r}{hint}")
    from importlib import import_module

    from anamnesis import supported

    supported.check()
    if name == "errors":
        return import_module("anamnesis.errors")
    home = _HOMES.get(name, "model.api")
    value = getattr(import_module(f"anamnesis.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What people call, and what every module has; not what this file is made of."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
