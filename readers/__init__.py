"""Formats in: containers to spans, spans to logical tensors, tensors to Arrow record batches.

The table of readers is in `table.py`.
"""

from __future__ import annotations

from anamnesis.limits import Limits
from anamnesis.readers.base import Container
from anamnesis.readers.table import READERS as READERS
from anamnesis.readers.table import Reader as Reader


def open_container(path: str, limits: Limits) -> Container:
    """Parse the headers of the file at `path`, whatever container it is; see `detect`.

    One behind a URL is opened once for all who look at it.
    """
    from anamnesis.readers.detect import open_detected
    from anamnesis.readers.source import holding

    with holding(path):
        return open_detected(path, limits)
