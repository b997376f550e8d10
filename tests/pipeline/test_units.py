"""Sizes and speeds as they are shown, and one unit for each kind of figure."""

from __future__ import annotations

import pytest

from anamnesis.pipeline.units import size, speed


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1023.6, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (1_048_490, "1023.9 KiB"),
        (1_048_560, "1.0 MiB"),
        (1_234_567_890, "1.1 GiB"),
        (1 << 54, "16384.0 TiB"),
    ],
)
def test_what_is_stored_is_binary(nbytes: float, text: str) -> None:
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0 B/s"),
        (999, "999 B/s"),
        (999.7, "1.0 kB/s"),
        (1000, "1.0 kB/s"),
        (999_949, "999.9 kB/s"),
        (999_951, "1.0 MB/s"),
        (1_234_567_890, "1.2 GB/s"),
        (5e15, "5000.0 TB/s"),
    ],
)
def test_speeds_are_decimal(rate: float, text: str) -> None:
    assert speed(rate) == text
