"""Which of several widths and group sizes an MLX layer has, by what its inputs must be.

The tensors tell only the product of both: 2 bits in groups of 128 look like 8 bits in groups of 32,
and the inputs that follow differ. `config.json` says how many inputs a layer has by what it reads:
`hidden_size` of the residual stream, or a multiple where a model concatenates, never a part of it;
heads times their size behind attention; `intermediate_size` in the second half of an MLP, or what
the first half gives. JANG, which mixes widths, says its group size in `jang_config.json`
(jundot/omlx#967).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anamnesis.readers.schemes._model_sizes import ModelSizes, fed, gathered
from anamnesis.readers.schemes.base import Ledger
from anamnesis.words import and_more

Sizes = tuple[int, int]  # bits, and inputs in a group
_SHOWN = 4  # sizes in a note


class Inputs:
    """What the configuration says of the inputs of layers, and the layers that contradict it."""

    def __init__(self, ledger: Ledger) -> None:
        self._sizes = ModelSizes(ledger.configs)
        self._stored = ledger.container.stored
        jang = ledger.configs.get("jang_config.json", {}).get("quantization")
        self._jang: Mapping[str, Any] = jang if isinstance(jang, Mapping) else {}
        self._said: dict[str, list[str]] = {}
        self._of_stream: dict[Sizes, set[Sizes]] = {}  # by what is stated

    def learn(self, layer: str, groups: int, stated: Sizes, others: list[Sizes]) -> None:
        """Remember the sizes of a layer that reads the residual stream, for those of others.

        The arguments are those of `settle`, before which all layers have been learned of.
        """
        reads = self._sizes.reads(layer)
        if reads.is_stream and reads.sizes:
            whole = any(groups * stated[1] % size == 0 for size in reads.sizes)
            fits = {stated} if whole else {s for s in others if groups * s[1] in reads.sizes}
            self._of_stream.setdefault(stated, set()).update(fits or {stated})

    def settle(self, layer: str, groups: int, stated: Sizes, others: list[Sizes]) -> Sizes:
        """The sizes of a layer of `groups` groups: those `stated`, or one of `others` that fits.

        `others` are what else the tensors allow.
        """
        reads = self._sizes.reads(layer)
        sizes = reads.sizes
        jang = self.by_jang(stated[0] * stated[1])
        inputs = groups * stated[1]
        right = inputs in reads.explained or inputs in fed(f"{layer}.weight", self._shape)
        if right or (not sizes and jang in (None, stated)):
            return stated
        fits = [s for s in {*others, jang} if s is not None and groups * s[1] in sizes]
        alone = len(fits) == 1 and (
            reads.is_stream or self._is_sure(layer, stated, groups, fits[0])
        )
        taken, why = stated, "taken as stated all the same"
        if jang is not None and jang != stated and (jang in fits or not fits):
            taken, why = jang, "taken as jang_config.json says"
        elif alone and not any(inputs % size == 0 for size in sizes):
            taken, why = fits[0], "taken as those that make them"
        wanted = ", ".join(f"{size:,}" for size in sorted(sizes)[:_SHOWN])
        said = f"make inputs that are not those of the model ({wanted})" if sizes else "are others"
        self._said.setdefault(f"{said}: {why}", []).append(
            f"{layer} ({_show(stated)}, {inputs:,} inputs; read with {_show(taken)})"
        )
        return taken

    def _is_sure(self, layer: str, stated: Sizes, groups: int, fit: Sizes) -> bool:
        """Whether a layer has as many inputs as the model's sizes, and not only a part of them.

        Behind a gate that is kept in one with what it multiplies (Moshi's `fc1`), and in attention
        with gates, a sound layer has half of what the one before it gives. So there has to be more:
        two layers before it that give as many, or, where heads share keys, one and a layer of keys
        with as many heads less as the configuration says; or every layer of the residual stream of
        which the same is stated has the other sizes.
        """
        inputs = groups * fit[1]
        rows = gathered(f"{layer}.weight", self._shape)
        shared = inputs in rows and any(self._sizes.shares(inputs, keys) for keys in rows)
        return rows.count(inputs) > 1 or shared or self._of_stream.get(stated) == {fit}

    def _shape(self, name: str) -> tuple[int, ...]:
        """The stored shape of a weight, whose rows are not packed."""
        other = self._stored.get(name)
        return () if other is None else other.shape

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
