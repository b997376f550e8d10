"""Zero points of symmetric GPTQ that are stored by the other convention than the one stated.

`sym: true` fixes the zero point at `2^(bits-1)`: stored as one less by GPTQ's first version, as it
is by the second. Files exist that state the first and store the second (Qwen3.5-27B-GPTQ-Int4,
vllm-project/vllm#38966), which by the letter would shift every weight by a whole step. vLLM and
GPTQModel's Marlin kernels never read these zero points. So the first of each layer are read when
the model is opened, and what they are decides between the two conventions. Where no configuration
speaks of GPTQ the first version's is taken, unless these numbers show the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from anamnesis.readers.base import Stored, Tensor
from anamnesis.readers.files import Files
from anamnesis.readers.raw import open_raw
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.source import is_url
from anamnesis.words import and_more

_SAMPLE_BYTES = 256


def settle(ledger: Ledger) -> None:
    """Correct the convention of symmetric layers by their stored zero points, and note it."""
    corrected, strange = [], []
    files, read = Files(), dict[str, int | None]()
    try:
        for tensor, zeros in _symmetric(ledger):
            # Behind a URL a read is a request, and the first layer speaks for all.
            key = "" if is_url(zeros.file.path) else tensor.name
            if key not in read:
                read[key] = _offset(tensor, zeros, files)
            offset = read[key]
            if offset is None:
                strange.append(tensor.name)
            elif offset != tensor.params["zero_offset"]:
                corrected.append(tensor.name)
                params = {**tensor.params, "zero_offset": offset}
                ledger.tensors[tensor.name] = replace(tensor, params=params)
        files.check_unchanged()
    finally:
        files.close()
    path = ledger.container.files[0].path
    if not corrected and not strange:
        return
    says_sym = ledger.tensors[(corrected or strange)[0]].params["sym"] is True
    if corrected:
        ledger.note(
            f"{path}: qzeros of {_some(corrected)}: stored by the other convention than "
            f"{'is stated' if says_sym else 'usual'}; the zero point of symmetric codes, "
            "2^(bits-1), is used"
        )
    if strange and not says_sym:
        ledger.note(
            f"{path}: qzeros of {_some(strange)}: taken as stored less one, as GPTQ's first "
            "version does; no configuration says whether they are of the second"
        )
    elif strange:
        ledger.note(
            f"{path}: qzeros of {_some(strange)}: are not the zero point 2^(bits-1) that sym: true "
            "states, by neither convention; the stored ones are used, as the configuration reads "
            "them"
        )


def _symmetric(ledger: Ledger) -> Iterator[tuple[Tensor, Stored]]:
    """Layers with zero points that are symmetric, or of which nothing says that they are not."""
    for tensor in list(ledger.tensors.values()):
        if tensor.encoding != "gptq" or tensor.params.get("sym") not in (True, None):
            continue
        zeros = next((c.stored for c in tensor.components if c.role == "qzeros"), None)
        if zeros is not None and zeros.nbytes:
            yield tensor, zeros


def _offset(tensor: Tensor, zeros: Stored, files: Files) -> int | None:
    """What has to be added to the stored zero points, by the first of them; None if neither fits.

    They are a stream of `bits` each, the lowest bits first, that begins again with every group.
    """
    bits = tensor.params["bits"]
    data = np.empty(min(zeros.nbytes, _SAMPLE_BYTES), np.uint8)
    open_raw(zeros, files(zeros.file)).read_into(0, data)
    count = min(tensor.shape[0], 8 * len(data) // bits)
    stream = int.from_bytes(data.tobytes(), "little")
    found = {(stream >> (bits * k)) & ((1 << bits) - 1) for k in range(count)}
    middle = 1 << (bits - 1)
    for offset in (0, 1):
        if found == {middle - offset}:
            return offset
    return None


def _some(names: list[str]) -> str:
    others = and_more(len(names))
    return f"{names[0]!r}{others}"
