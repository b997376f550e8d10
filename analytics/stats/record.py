"""What `stats` finds of a tensor, and of a model, before anybody shows or writes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from anamnesis.analytics.stats.values import Exponents


@dataclass(frozen=True, slots=True)
class TensorStats:
    """The figures of one tensor; those that have no value are None.

    `dtype` is that of the values, `elements` their number. `min`, `max`, `mean`, `std` (of the
    population) and `absmax` are of the finite values. `exponents` holds pairs `(e, count)`: so
    many values with 2**e <= |x| < 2**(e + 1), for integers and floats alike. `scale_min` and
    `scale_max` are of the finite scales that the scheme stores. `xxh3` is the xxh3-128 of the
    values' bytes, little-endian, row-major; of a tensor over 64 MiB, that of the digests of its
    64 MiB pieces, 16 bytes each, in order.
    """

    tensor: str
    shape: tuple[int, ...]
    scheme: str
    dtype: str
    elements: int
    stored_bytes: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    absmax: float | None
    zeros: int
    nans: int
    infs: int
    exponents: Exponents
    scale_min: float | None
    scale_max: float | None
    xxh3: str


COLUMNS = tuple(TensorStats.__dataclass_fields__)


@dataclass(frozen=True)
class Figures:
    """The figures of a model's tensors, in file order unless sorted.

    `notes` are remarks on the input; `value_bytes` were decoded in `seconds`.
    """

    path: str
    container: str
    rows: tuple[TensorStats, ...]
    notes: tuple[str, ...] = ()
    value_bytes: int = 0
    seconds: float = field(default=0.0, compare=False)
