"""From a window's values, or its codes, to the parts that an encoder makes of it, in reused memory.

A window of values, in the dtype that the tensor is decoded to, becomes float32 in a buffer that is
used again, unless the encoder takes BF16 as it is, and the encoder fills one buffer a part. What
was made is decoded again while it is in cache: for the report of the loss, and where codes were
moved, to hold that nothing changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import xxhash

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.encoders import ENCODERS, Form, Part, encoder, function_of, has
from anamnesis.kernels.ends import NO_ENDS, ends_of
from anamnesis.kernels.loss import Losses
from anamnesis.kernels.readback import Facts, Readback
from anamnesis.kernels.transcoders import Inexact, Read, transcoder
from anamnesis.kernels.types import Array
from anamnesis.limits import MiB
from anamnesis.names.derived import Derived
from anamnesis.pipeline.decode import OUT
from anamnesis.pipeline.encoding import Encoded, EncodedPiece
from anamnesis.pipeline.importance import OpenWeights
from anamnesis.pipeline.loss import PieceLoss
from anamnesis.pipeline.moved_rows import RowReader
from anamnesis.pipeline.row_sources import row_sources
from anamnesis.pipeline.transcode import not_exact
from anamnesis.pipeline.windows import Decoded, Windows
from anamnesis.pipeline.work import PieceReceipt, Step
from anamnesis.readers.base import Tensor
from anamnesis.readers.batch import OpenFile
from anamnesis.readers.dtypes import DTYPES
from anamnesis.writers.base import Target

Numbers = Callable[[Decoded, int, int], Any]

_widen = kernel("_narrow_lanes:widened")

NEAR_BYTES = MiB  # of the values that an encoder is given

_HELD = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


class WindowParts:
    """Makes the parts of a tensor's windows, one window after the other.

    `losses` add up, or are None where they are not asked for.
    """

    def __init__(self, step: Step, encoded: Encoded, open_file: OpenFile) -> None:
        """Make the buffers that windows of `step` need; weights are in a file of their own."""
        elems = step.window_units * step.tensor.unit_elems
        units = -(-elems // encoded.form.unit_elems)
        self._dtype, self._parts = step.dtype, encoded.form.parts
        row = ENCODERS[encoded.name]
        self._takes_bits = row.bf16 and step.dtype == "BF16" and not encoded.weights
        self._near = _near(encoded.form, NEAR_BYTES // (2 if self._takes_bits else 4))
        elems = elems if encoded.moved else min(elems, self._near * encoded.form.unit_elems)
        self._wide = np.empty(elems, np.float32)
        self._room = {part.role: _room(part, units) for part in self._parts}
        self._encode = encoder(encoded.name)
        scales = encoded.part_dtype("scale", step.dtype)
        self._params: dict[str, Any] = {
            **encoded.settings,
            **encoded.statistics,
            # Of moved tensors a library has the scales in the dtype that they had.
            "dtype": scales if encoded.moved and scales in _HELD else step.dtype,
            "scale_dtype": scales,
            "columns": encoded.form.unit_elems,
            "shape": step.tensor.shape,
            "weights": OpenWeights(encoded.weights, open_file) if encoded.weights else None,
        }
        settings = {**encoded.settings, **encoded.statistics}
        self._facts = Facts(encoded.name, settings, scales, encoded.form.unit_elems, 0)
        self._back = Readback(self._facts)
        # What tells how codes are compared as they are.
        name = encoded.name
        self._codes_of = function_of(name, "codes") if has(name, "codes") else None
        self._again = np.empty(elems, np.float32)
        self.losses = None if encoded.skip_loss else Losses()

    def outs(self, start: int, stop: int) -> dict[str, Any]:
        """Room for the parts of a window, by role; what does not grow is there for all of them."""
        return {
            part.role: self._room[part.role][: part.room(start, stop) if part.units else None]
            for part in self._parts
        }

    def encode(self, values: Any, start: int, stop: int) -> dict[str, Any]:
        """The parts of a window, by role; the next one overwrites them.

        It is encoded and looked at by parts that stay in cache.
        """
        out, unit = self.outs(start, stop), self._facts.columns
        values = values.view(_HELD[self._dtype])  # of what is not decoded, bytes
        for first in range(start, stop, self._near):
            last = min(first + self._near, stop)
            some = values[(first - start) * unit : (last - start) * unit]
            self._encode_some(some, self._within(out, start, (first, last)), first, last)
        return out

    def _within(self, out: Any, start: int, span: tuple[int, int]) -> dict[str, Any]:
        """The arrays of units of a window, out of those of the window that begins with `start`."""
        found = {}
        for part in self._parts:
            begin = part.room(0, span[0]) - part.room(0, start) if part.units else 0
            count = part.room(*span) if part.units else len(out[part.role])
            found[part.role] = out[part.role][begin : begin + count]
        return found

    def _encode_some(self, values: Any, out: dict[str, Any], first: int, last: int) -> None:
        if not self._takes_bits:
            values = widened(values, self._dtype, self._wide)
        self._encode(values, {**self._params, "first": first}, out)
        if self.losses is None:
            return
        facts, again = self._facts._replace(rows=last - first), self._again[: len(values)]

        def decoded() -> Any:
            self._back.into(out, again)
            return again

        codes = self._codes_of(out, facts) if self._codes_of else None
        if codes is not None:
            self.losses.add_codes(values, codes, decoded)
        else:
            self.losses.add(values, decoded(), ends_of(out, facts))


class MovedParts(WindowParts):
    """Makes the parts of a tensor's windows of its codes and scales, where they are the same."""

    def __init__(self, step: Step, encoded: Encoded, windows: Windows) -> None:
        """`windows` are the tensor's, with its whole parameters."""
        super().__init__(step, encoded, windows.open_file)
        self._step, self._encoded = step, encoded
        rows = row_sources(step.tensor) if isinstance(step.tensor, Derived) else None
        read, self._write = transcoder(
            (rows.sources[0] if rows else step.tensor).encoding, encoded.name
        )
        if rows is not None:
            self._numbers = _by_rows(RowReader(rows, windows.open_file, read))
        else:
            self._numbers = _by_window(step.tensor, windows.reader.wholes(), read)
        self._moved_back = self._back
        if "nested_offset" in step.tensor.params:  # which the target gets too
            known = {**self._facts.settings, "absmax_mean": step.tensor.params["nested_offset"]}
            self._moved_back = Readback(self._facts._replace(settings=known))
        self._sought = {**self._params, "style": "", **encoded.settings, "dtype": step.dtype}
        kind = np.float32 if step.dtype == "F16" else OUT[step.dtype]
        self._same = np.empty(step.window_units * step.tensor.unit_elems, kind)

    def move(self, decoded: Decoded, start: int, stop: int) -> dict[str, Any]:
        """The parts of a window that decode to its values.

        Raises UsageError where the target does not have these numbers, unless they may be encoded.
        """
        try:
            return self._moved(decoded, start, stop)
        except Inexact as error:
            if self._encoded.requantize:
                return self.encode(decoded.values, start, stop)
            raise not_exact(self._step.tensor, self._encoded.name, error) from None

    def _moved(self, decoded: Decoded, start: int, stop: int) -> dict[str, Any]:
        out = self.outs(start, stop)
        spans = {part.role: part.span(start, stop) for part in self._parts}
        found = self._numbers(decoded, start, stop)
        self._write(found, {**self._sought, "spans": spans}, out)
        again = self._same[: len(decoded.values)]
        self._moved_back.into(out, again)
        if self._step.dtype == "F16":
            with np.errstate(all="ignore"):
                again = again.astype(np.float16)
        first = widened(decoded.values, self._step.dtype, self._wide)
        second = widened(again, self._step.dtype, self._again)
        self._check(first, second)
        if self.losses is not None:
            self.losses.add(first, second, NO_ENDS)
        return out

    def _check(self, first: Any, second: Any) -> None:
        """Numbers are the same; a zero may lose its sign, where a target has one zero."""
        if np.array_equal(first, second):
            return
        differ = np.flatnonzero((first != second) & ~(np.isnan(first) & np.isnan(second)))
        if len(differ):
            at = differ[0]
            raise Inexact(f"{first[at]!s:.40} would become {second[at]!s:.40}")


def write_encoded(
    piece: EncodedPiece, windows: Windows, fd: Target
) -> tuple[list[PieceReceipt], PieceLoss | None]:
    """Encode the windows of the piece and store them; a receipt for each part, and the loss.

    The loss is None where it is not asked for.
    """
    form, slots = piece.encoded.form, piece.encoded.slots
    maker = make_parts(piece.step, piece.encoded, windows)
    digests = [xxhash.xxh3_128() for _ in form.parts]
    for start, stop, found in made_of(piece, windows, maker):
        for part, slot, digest in zip(form.parts, slots, digests, strict=True):
            first, last = part.span(start, stop)
            if last > first:
                digest.update(found[part.role])
                slot.write(fd, first, found[part.role])
    start, stop = piece.units(piece.start, piece.stop)
    spans = [part.span(start, stop) for part in form.parts]
    receipts = [
        PieceReceipt(part.name, first, last, digest.hexdigest())
        for part, (first, last), digest in zip(form.parts, spans, digests, strict=True)
        if last > first
    ]
    if maker.losses is None:
        return receipts, None
    name = piece.step.tensor.name
    return receipts, PieceLoss(name, form.parts[0].name, piece.start, maker.losses.result())


def made_of(
    piece: EncodedPiece, windows: Windows, maker: WindowParts
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """What each window of the piece becomes: its units, as the encoder counts, and the parts.

    The next window overwrites the parts.
    """
    for decoded in windows.over(piece.start, piece.stop):
        window: Window = decoded.window
        start, stop = piece.units(window.start, window.stop)
        if isinstance(maker, MovedParts):
            yield start, stop, maker.move(decoded, start, stop)
        else:
            yield start, stop, maker.encode(decoded.values, start, stop)


def make_parts(step: Step, encoded: Encoded, windows: Windows) -> WindowParts:
    """What makes the parts of a tensor's windows."""
    if encoded.moved:
        return MovedParts(step, encoded, windows)
    return WindowParts(step, encoded, windows.open_file)


def _by_window(tensor: Tensor, wholes: Mapping[str, Any], read: Read) -> Numbers:
    """The numbers of a window, from its views."""
    params = {**tensor.params, "shape": tensor.shape, "wholes": wholes}
    return lambda decoded, start, stop: read(decoded.views, params, decoded.window)


def _by_rows(reader: RowReader) -> Numbers:
    """The numbers of a window, from the rows of a derived tensor's sources."""
    return lambda decoded, start, stop: reader.numbers(start, stop)


def _near(form: Form, elems: int) -> int:
    """Units that are encoded together: about so many elements, where a window may start."""
    return max(1, elems // (form.unit_elems * form.multiple)) * form.multiple


def _room(part: Part, units: int) -> Array:
    kind = np.uint8 if part.block_bytes else DTYPES[part.dtype].numpy
    return np.zeros(part.room(0, units), kind)


def widened(values: Any, dtype: str, room: Any = None) -> Array:
    """A window's values, of BF16 bits, binary16 or float32, as float32 in `room`, or new."""
    held = values.view(_HELD[dtype])
    wide = np.empty(len(held), np.float32) if room is None else room[: len(held)]
    if held.dtype == np.uint16:
        _widen(held, wide)
    else:
        wide[:] = held
    return wide
