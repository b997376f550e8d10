"""Which of several widths and group sizes an MLX layer has, by what its inputs must be.

The tensors tell only the product of both: 2 bits in groups of 128 look like 8 bits in groups of 32,
and the inputs that follow differ. `config.json` says how many inputs those layers have that read
the residual stream: `hidden_size`, or a multiple where a model concatenates; never a part of it.
JANG, which mixes widths, says its group size in `jang_config.json` (jundot/omlx#967).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anamnesis.readers.schemes._model_sizes import READ_HIDDEN, ModelSizes
from anamnesis.readers.schemes.base import Ledger
from anamnesis.words import and_more

Sizes = tuple[int, int]  # bits, and inputs in a group


class Inputs:
    """What the configuration says of the inputs of layers, and the layers that contradict it."""

    def __init__(self, ledger: Ledger) -> None:
        self._hidden = ModelSizes(ledger.configs).hidden
        jang = ledger.configs.get("jang_config.json", {}).get("quantization")
        self._jang: Mapping[str, Any] = jang if isinstance(jang, Mapping) else {}
        self._said: dict[str, list[str]] = {}

    def settle(self, layer: str, groups: int, stated: Sizes, others: list[Sizes]) -> Sizes:
        """The sizes of a layer of `groups` groups: those `stated`, or one of `others` that fits.

        `others` are what else the tensors allow.
        """
        hidden = self._hidden if layer.rpartition(".")[2] in READ_HIDDEN else set()
        jang = self.by_jang(stated[0] * stated[1])
        inputs = groups * stated[1]
        if inputs in hidden or (not hidden and jang in (None, stated)):
            return stated
        fits = [s for s in {*others, jang} if s is not None and groups * s[1] in hidden]
        sizes, why = stated, "taken as stated all the same"
        if jang is not None and jang != stated and (jang in fits or not fits):
            sizes, why = jang, "taken as jang_config.json says"
        elif len(fits) == 1 and not any(inputs % size == 0 for size in hidden):
            sizes, why = fits[0], "taken as those that make hidden_size"
        said = f"make inputs that are not hidden_size: {why}" if hidden else f"are others: {why}"
        self._said.setdefault(said, []).append(
            f"{layer} ({_show(stated)}, {inputs:,} inputs; read with {_show(sizes)})"
        )
        return sizes

    def notes(self) -> Iterator[str]:
        """A remark for each way in which layers contradicted the configuration."""
        for said, layers in self._said.items():
            others = and_more(len(layers))
            yield f"{layers[0]}{others}: bits and group_size of config.json {said}"

    def by_jang(self, product: int) -> Sizes | None:
        """The sizes that JANG's own file says, for codes of `product` bits a group."""
        size, widths = self._jang.get("block_size"), self._jang.get("bit_widths_used")
        if type(size) is not int or size < 1 or size % 32 or product % size:
            return None
        bits = product // size
        return (bits, size) if not isinstance(widths, list) or bits in widths else None


def _show(sizes: Sizes) -> str:
    return f"{sizes[0]} bits in groups of {sizes[1]}"
