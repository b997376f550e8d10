"""What attributes of other libraries' arrays and files are called on a tensor and on a model.

A tensor reads nothing until it is told to, so that what numpy and torch do with values stands
behind the call that reads them, and is never done in silence.
"""

from __future__ import annotations

from typing import Final

from anamnesis.keywords import Dtype
from anamnesis.words import did_you_mean, meant

_TENSOR: Final = {
    "get_dtype": "dtype",
    "get_shape": "shape",
    "numpy": "to_numpy()",
    "read_direct": "to_numpy()",
    "to_pandas": "scan(decode='f32').read_pandas()",
    "values": "to_numpy()",
}
_TORCH: Final = (
    *("bfloat16", "bool", "clone", "contiguous", "cpu", "cuda", "detach", "device", "dim"),
    *("double", "float", "half", "is_contiguous", "numel", "permute", "requires_grad", "to"),
)
_MODEL: Final = {
    "get_slice": "model[name][10:20]",
    "get_tensor": "model[name].to_numpy()",
    "load_state_dict": "{name: tensor.to_torch() for name, tensor in model.items()}",
    "metadata": "anamnesis.inspect(path).metadata",
    "named_parameters": "model.items()",
    "names": "list(model)",
    "parameters": "model.values()",
    "read_all": "model.scan().read_all()",
    "state_dict": "{name: tensor.to_torch() for name, tensor in model.items()}",
    "tensors": "model.values()",
}
_WORDS: Final[dict[str, Dtype]] = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


def no_attribute_of_tensor(name: str, known: list[str]) -> AttributeError:
    """The error for an attribute that a tensor does not have, with what it is called here."""
    if name.startswith("_"):
        return _error("LazyTensor", name, "")  # asked by programs, which take no for an answer
    if name in _TENSOR:
        return _error("LazyTensor", name, f"write {_TENSOR[name]}")
    if name in _TORCH:
        return _error("LazyTensor", name, f"write to_torch().{name}")
    import numpy as np

    if hasattr(np.ndarray, name):
        return _error("LazyTensor", name, f"write to_numpy().{name}, which reads all of it")
    return _error("LazyTensor", name, did_you_mean(meant(name, known)))


def no_attribute_of_model(name: str, known: list[str]) -> AttributeError:
    """The error for an attribute that a model does not have, with what it is called here."""
    if name.startswith("_"):
        return _error("OpenModel", name, "")
    said = f"write {_MODEL[name]}" if name in _MODEL else did_you_mean(meant(name, known))
    return _error("OpenModel", name, said)


def dtype_word(dtype: object) -> Dtype | None:
    """`bf16`, `f16` or `f32` for one of these words, or for what numpy takes for such a dtype."""
    import ml_dtypes  # noqa: F401 - which gives numpy the name
    import numpy as np

    if isinstance(dtype, str) and dtype in _WORDS.values():
        return next(word for word in _WORDS.values() if word == dtype)
    try:
        return _WORDS.get(np.dtype(dtype).name)  # type: ignore[call-overload]
    except TypeError:
        return None


def _error(kind: str, name: str, said: str) -> AttributeError:
    return AttributeError(f"{kind!r} has no attribute {name!r}{'; ' if said else ''}{said}")


__all__ = ["dtype_word", "no_attribute_of_model", "no_attribute_of_tensor"]
