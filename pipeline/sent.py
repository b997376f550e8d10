"""Receipts that outlive their run, kept in a store beside what they are of.

MessagePack, as sums may be no numbers. They are read strictly, as all that lies in a store is: what
cannot be one counts as absent, and its task is done again.
"""

from __future__ import annotations

import msgspec

from anamnesis.kernels.loss import Lost
from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.loss import PieceLoss
from anamnesis.pipeline.task import WriteReceipt
from anamnesis.pipeline.work import PieceReceipt, WriteTask
from anamnesis.readers.raw import SpanCrc
from anamnesis.writers.stores import Stored


class _Loss(msgspec.Struct, frozen=True, array_like=True):
    tensor: str
    payload: str
    start: int
    lost: Lost


class _Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    read_bytes: int
    work_bytes: int
    seconds: float
    spans: tuple[SpanCrc, ...]
    pieces: tuple[PieceReceipt, ...]
    loss: tuple[_Loss, ...]
    stored: Stored | None


def pack(receipt: WriteReceipt) -> bytes:
    """A receipt as it is kept."""
    loss = tuple(_Loss(row.tensor, row.payload, row.start, row.lost) for row in receipt.loss)
    r = receipt
    sent = _Sent(
        r.key, r.read_bytes, r.work_bytes, r.seconds, r.spans, r.pieces, loss, receipt.stored
    )
    return msgspec.msgpack.encode(sent)


def unpack(data: bytes) -> WriteReceipt | None:
    """The receipt that was kept; None for what cannot be one."""
    try:
        sent = msgspec.msgpack.decode(data, type=_Sent)
    except msgspec.MsgspecError:
        return None
    loss = tuple(PieceLoss(row.tensor, row.payload, row.start, row.lost) for row in sent.loss)
    return WriteReceipt(
        sent.key,
        sent.read_bytes,
        sent.work_bytes,
        sent.seconds,
        sent.spans,
        sent.pieces,
        loss,
        sent.stored,
    )


def covers(receipt: WriteReceipt, task: WriteTask) -> bool:
    """Whether a receipt is of these very pieces; the recipe is known to be the same."""
    wanted: list[tuple[str, int, int]] = []
    for piece in task.pieces:
        if isinstance(piece, EncodedPiece):
            start, stop = piece.units(piece.start, piece.stop)
            spans = [(part.name, *part.span(start, stop)) for part in piece.encoded.form.parts]
            wanted += [span for span in spans if span[2] > span[1]]
        else:
            tensor = piece.step.tensor
            last = min(piece.stop * tensor.unit_elems, tensor.elems)
            wanted.append((tensor.name, piece.start * tensor.unit_elems, last))
    return [(p.tensor, p.start, p.stop) for p in receipt.pieces] == wanted


__all__ = ["covers", "pack", "unpack"]
