"""Builders of bad files, and what "refused" means: which error, how soon, in how much memory.

Times are of the processor, so that a busy machine fails no test.
"""

from __future__ import annotations

import gc
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from clock import within

from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.readers import open_container

MIB = 1 << 20
SECONDS = 0.5
RSS_BYTES = 256 * MIB

# One substitution in so many; MUTATIONS=1 tries them all.
SAMPLE = int(os.environ.get("MUTATIONS", "4"))

Refuse = Callable[..., str]


class Build:
    """Bytes of safetensors and GGUF files, every field at the caller's mercy."""

    @staticmethod
    def safetensors(
        header: Any, data: bytes = b"", *, length: int | None = None, pairs: bool = False
    ) -> bytes:
        """`header` is bytes, or an object to encode; `pairs` keeps names that are given twice."""
        if isinstance(header, bytes):
            text = header
        else:
            text = (_pairs(header) if pairs else json.dumps(header)).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    @staticmethod
    def string(text: str | bytes, length: int | None = None) -> bytes:
        raw = text.encode() if isinstance(text, str) else text
        return struct.pack("<Q", len(raw) if length is None else length) + raw

    @classmethod
    def key_value(cls, key: str | bytes, type_id: int, value: bytes) -> bytes:
        return cls.string(key) + struct.pack("<I", type_id & 0xFFFFFFFF) + value

    @staticmethod
    def array(type_id: int, count: int, items: bytes = b"") -> bytes:
        return struct.pack("<IQ", type_id, count) + items

    @classmethod
    def tensor(
        cls,
        name: str | bytes,
        dims: Iterable[int],
        type_id: int = 0,
        offset: int = 0,
        n_dims: int | None = None,
    ) -> bytes:
        dims = list(dims)
        return (
            cls.string(name)
            + struct.pack("<I", len(dims) if n_dims is None else n_dims)
            + b"".join(struct.pack("<Q", d % 2**64) for d in dims)
            + struct.pack("<IQ", type_id & 0xFFFFFFFF, offset)
        )

    @staticmethod
    def gguf(
        key_values: Iterable[bytes] = (),
        tensors: Iterable[bytes] = (),
        data: bytes = b"",
        *,
        magic: bytes = b"GGUF",
        version: int = 3,
        n_tensors: int | None = None,
        n_key_values: int | None = None,
        alignment: int = 32,
        order: str = "<",
    ) -> bytes:
        key_values, tensors = list(key_values), list(tensors)
        counts = (
            len(tensors) if n_tensors is None else n_tensors,
            len(key_values) if n_key_values is None else n_key_values,
        )
        head = magic + struct.pack(f"{order}IQQ", version, *counts)
        head += b"".join(key_values) + b"".join(tensors)
        return head + bytes(-len(head) % alignment) + data


def _pairs(value: Any) -> str:
    """JSON of nested lists of (name, value) pairs."""
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return "{" + ",".join(f"{json.dumps(k)}:{_pairs(v)}" for k, v in value) + "}"
    return json.dumps(value)


@pytest.fixture(autouse=True, scope="module")
def heap_of_its_own() -> Iterator[None]:
    """Keep the collector from walking what thousands of other tests left, while time is taken."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def build() -> type[Build]:
    return Build


class Mutants:
    """Every truncation of a seed, and one in SAMPLE of its one-byte substitutions."""

    @staticmethod
    def truncations(seed: bytes) -> Iterator[bytes]:
        for length in range(len(seed)):
            yield seed[:length]

    @staticmethod
    def substitutions(seed: bytes) -> Iterator[bytes]:
        number = 0
        for at in range(len(seed)):
            for value in range(256):
                number += 1
                if value != seed[at] and number % SAMPLE == at % SAMPLE:
                    yield seed[:at] + bytes((value,)) + seed[at + 1 :]

    @classmethod
    def all(cls, seed: bytes) -> Iterator[bytes]:
        yield from cls.truncations(seed)
        yield from cls.substitutions(seed)

    @classmethod
    def written(cls, path: str, seed: bytes) -> Iterator[bytes]:
        """The seed and all of its mutants, each of which is the file `path` when it comes."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            for mutant in (seed, *cls.all(seed)):
                os.ftruncate(descriptor, len(mutant))
                os.pwrite(descriptor, mutant, 0)
                yield mutant
        finally:
            os.close(descriptor)


@pytest.fixture(scope="session")
def mutants() -> type[Mutants]:
    return Mutants


@pytest.fixture
def refused(tmp_path: Path) -> Refuse:
    """Open a file in this process; it must raise that class, naming file and field, in time."""

    def check(
        content: bytes, suffix: str, error: type[AnamnesisError], field: str, **limits: int
    ) -> str:
        path = tmp_path / f"case{suffix}"
        path.write_bytes(content)
        baseline = _reset_peak_rss()
        with within(SECONDS), pytest.raises(AnamnesisError) as caught:
            open_container(str(path), Limits(**limits))
        assert _peak_rss() - baseline < RSS_BYTES
        assert type(caught.value) is error, caught.value
        message = str(caught.value)
        assert str(path) in message
        assert field in message
        assert len(message) < 2_000
        assert "\n" not in message
        return message

    return check


@pytest.fixture
def bounded() -> Callable[[], AbstractContextManager[None]]:
    """A block that must end within the time and the memory that a refusal may take."""

    @contextmanager
    def check() -> Iterator[None]:
        baseline = _reset_peak_rss()
        with within(SECONDS):
            yield
        assert _peak_rss() - baseline < RSS_BYTES

    return check


def _reset_peak_rss() -> int:
    """Start a new high-water mark of resident memory; the present one in bytes (0: unknown)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _peak_rss()


def _peak_rss() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) << 10


_CHILD = """
import json, pathlib, resource, sys, time
from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.readers import open_container
import anamnesis.readers.gguf, anamnesis.readers.safetensors
def kib(field):
    return int(pathlib.Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])
space = (kib("VmSize") << 10) + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (space, space))
before, start, kind, message, tensors = kib("VmHWM"), time.process_time(), "", "", 0
try:
    tensors = len(open_container(sys.argv[1], Limits()).stored)
except AnamnesisError as error:
    kind, message = type(error).__name__, str(error)
print(json.dumps({"kind": kind, "message": message, "tensors": tensors,
    "seconds": time.process_time() - start, "rss_bytes": (kib("VmHWM") - before) << 10}))
"""


@pytest.fixture
def opened_apart() -> Callable[..., dict[str, Any]]:
    """Open a file in a process of its own whose address space is bounded; what came of it."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")

    def run(path: Path, space: int = 1024 * MIB) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(path), str(space)],
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-2_000:]
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return run
