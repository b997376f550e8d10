"""What is fuzzed: any bytes in, a model or a documented error out; everything else is a find.

Needs no atheris, so that kept files are replayed by the ordinary tests.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import layer_targets
import names_targets
import record_targets

from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.pipeline.config import load_job
from anamnesis.readers import open_container
from anamnesis.readers.base import Container, Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.folder import LocalFolder
from anamnesis.readers.imatrix import open_imatrix
from anamnesis.readers.index import read_index
from anamnesis.readers.pth import list_globals
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.source import open_source
from anamnesis.readers.strict_json import loads

LIMITS = Limits(max_single_alloc=64 << 20, max_total_bytes=1 << 16, max_items=10_000)
MESSAGE_CHARS = 4_000
ONE_IN = 64  # accepted inputs that are converted too, chosen by their CRC-32


class BrokenPromiseError(AssertionError):
    """A promise that an input broke without an exception of its own."""


class Lab:
    """A folder in memory where inputs lie under the target's name while they are read."""

    def __init__(self) -> None:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory)
        self.path = Path(self._folder.name)
        self.out = self.path / "out"
        self.out.mkdir()
        self._descriptors: dict[str, int] = {}

    def place(self, name: str, data: bytes) -> str:
        """The path of a file `name` that holds `data`."""
        path = str(self.path / name)
        descriptor = self._descriptors.get(name)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            self._descriptors[name] = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        return path

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._folder.cleanup()


@contextlib.contextmanager
def documented(path: str) -> Iterator[None]:
    """Let the documented errors pass, if what they say is one printable line naming the file."""
    try:
        yield
    except AnamnesisError as error:
        message = str(error)
        if path not in message or not message.isprintable() or len(message) > MESSAGE_CHARS:
            raise BrokenPromiseError(f"not one line about {path}: {message[:500]!r}") from error
    except OSError:
        pass


def check_model(lab: Lab, path: str, data: bytes, convert: bool) -> None:
    """Open and resolve; what is accepted lies inside of the file, and some of it is converted."""
    with documented(path):
        container = open_container(path, LIMITS)
        for stored in container.stored.values():
            _check_inside(stored, stored.file.size)
        resolve(Ledger(container))
        _check_zip(container, data)
        if convert or zlib.crc32(data) % ONE_IN == 0:
            _convert(lab, path)


def _check_inside(stored: Stored, size: int) -> None:
    if stored.view is not None and stored.view.rows is not None:
        for offset, nbytes in (place for run in stored.view.rows.runs for place in run.buffers):
            if not 0 <= offset <= offset + nbytes <= size:
                raise BrokenPromiseError(f"{stored.name!r} is not inside of its {size} bytes")
        return
    begin, end = stored.offset, stored.offset + stored.nbytes
    if stored.view is not None and stored.view.strides is not None and stored.nbytes:
        steps = zip(stored.shape, stored.view.strides, strict=True)
        last = sum((length - 1) * stride for length, stride in steps)
        end = begin + (last + 1) * DTYPES[stored.dtype].bits // 8
    first = 0
    member = stored.view.member if stored.view is not None else None
    if member is not None:
        first = 0 if member.deflated else member.offset
        size = first + member.nbytes
        if member.offset + member.packed_bytes > stored.file.size:
            raise BrokenPromiseError(f"{member} is not inside of the file")
    if stored.nbytes and not first <= begin <= end <= size:
        raise BrokenPromiseError(f"{stored} is not inside of its {size} bytes")


def _check_zip(container: Container, data: bytes) -> None:
    """Whatever Python's own reader sees in an archive that was accepted is the same."""
    if container.kind != "npz":
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            theirs = {i.orig_filename: (i.CRC, i.file_size) for i in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        return
    ours = {m.name: (m.crc32, m.nbytes) for m in container.members}
    if ours != theirs:
        raise BrokenPromiseError(f"another reader sees {theirs}, not {ours}")


def _convert(lab: Lab, path: str) -> None:
    import anamnesis

    try:
        anamnesis.remember(path, lab.out / "out.safetensors", limits=LIMITS, executor="serial")
        anamnesis.verify(lab.out / "out.safetensors")
    except (AnamnesisError, OSError):
        left = os.listdir(lab.out)
        if left:
            raise BrokenPromiseError(f"left behind: {left}") from None
        raise
    finally:
        for name in os.listdir(lab.out):
            os.unlink(lab.out / name)


def check_pth(lab: Lab, path: str, data: bytes, convert: bool) -> None:
    """As `check_model`; the report of globals is made of every input too."""
    with documented(path):
        list_globals(path, LIMITS)
    check_model(lab, path, data, convert)


def check_json(lab: Lab, path: str, data: bytes, convert: bool) -> None:
    """What is accepted means the same to Python's own parser; and as a model's index."""
    with documented(path):
        value = loads(data, path, LIMITS)
        theirs = json.loads(data)
        if value != theirs:
            raise BrokenPromiseError(f"another parser reads {theirs!r:.300}, not {value!r:.300}")
    with documented(path), open_source(path) as file:
        folder = LocalFolder(str(lab.path))
        for shard in read_index(file, folder, LIMITS).shards:
            place = os.path.normpath(folder.join(shard))  # `a/b` lies below, `a/../b` is refused
            if ".." in shard.split("/") or not place.startswith(f"{lab.path}{os.sep}"):
                raise BrokenPromiseError(f"{shard!r} leads out of the folder")


def check_yaml(lab: Lab, path: str, data: bytes, convert: bool) -> None:
    """A job that is accepted can be made to settings."""
    with documented(path):
        job = load_job(path)
        # Settings that contradict one another have no file's name in the message.
        with contextlib.suppress(AnamnesisError):
            job.resolve()


Check = Callable[[Lab, str, bytes, bool], None]


def check_record(name: str) -> Check:
    """One of `record_targets`, which need files beside the input."""

    def check(lab: Lab, path: str, data: bytes, convert: bool) -> None:
        record_targets.CHECKS[name](documented, lab.path, data)

    return check


def check_imatrix(lab: Lab, path: str, data: bytes, convert: bool) -> None:
    """Open an importance matrix; what is accepted lies inside of the file, and has finite means."""
    with documented(path):
        found = open_imatrix(path, LIMITS)
        with open_source(path) as file:
            for name, entry in found.entries.items():
                if not 0 < entry.offset <= entry.offset + 4 * entry.count <= len(data):
                    raise BrokenPromiseError(f"{name!r} is not inside of its {len(data)} bytes")
                means = entry.means(file, entry.count // 2, entry.count - entry.count // 2)
                if not ((means >= 0) & (means < float("inf"))).all():
                    raise BrokenPromiseError(f"{name!r}: no weights: {means}")


def check_layers(lab: Lab, path: str, data: bytes, convert: bool) -> None:
    """Names, dtypes, shapes and a configuration, as every scheme's `resolve` sees them."""
    layer_targets.check_layers(documented, lab.path, data)


def check_to_gguf(lab: Lab, path: str, data: bytes, convert: bool) -> None:
    """A folder's tensors and configuration, as a GGUF."""
    names_targets.check_to_gguf(documented, lab.path, data)


def check_to_hf(lab: Lab, path: str, data: bytes, convert: bool) -> None:
    """A GGUF's tensors and key/values, as a folder."""
    names_targets.check_to_hf(documented, path)


_METHODS = ('"quant_method"', '"gptq"', '"fp8"', '"compressed-tensors"', '"bits"', '"group_size"')


class Target(NamedTuple):
    """The name that inputs have, what is done with them, and words for the fuzzer to try."""

    name: str
    check: Check
    words: tuple[str, ...] = ()
    max_bytes: int = 2_048

    def run(self, lab: Lab, data: bytes, convert: bool = False) -> None:
        """Raise what is a find."""
        self.check(lab, lab.place(self.name, data), data, convert)


_JSON = ('"', "{", "}", "[", "]", ":", ",", "null", "true", "NaN", "\\u0000", "\\ud800", "1e999")
_DTYPES = tuple(f'"{name}"' for name in DTYPES)
_YAML = (
    "- ",
    ": ",
    "!!python/name:os.system",
    "&a",
    "*a",
    "<<: ",
    "|\n",
    "? ",
    "---\n",
    "%YAML 1.2",
)
_SECTIONS = ("inputs", "output", "path", "format", "select", "numbers", "run", "limits", "512MiB")
_SETTINGS = (
    *('"architectures"', '"rope_parameters"', '"rope_type"', '"layer_types"', '"text_config"'),
    *('"yarn"', '"longrope"', '"llama3"', '"sliding_attention"', '"sliding_window"', '"head_dim"'),
    *('"num_experts"', '"num_local_experts"', '"mlp_layer_types"', '"hybrid_override_pattern"'),
)
_SIZES = (
    *("llama.block_count", "expert_count", "head_count_kv", "rope.scaling.type", "yarn", "mamba"),
    *("rope.dimension_sections", "sliding_window_pattern", "ffn_gate_exps", "attn_norm", "bias"),
)
_ONNX = (
    *("DequantizeLinear", "GatherBlockQuantized", "MatMulBnb4", "MatMulInteger", "QLinearConv"),
    *("axis", "block_size", "quantize_axis", "bits", "quant_type", "QMoE"),
)

TARGETS: dict[str, Target] = {
    "arrow": Target("m.arrow", check_model, ("anamnesis.tensors", "lance.bfloat16"), 8_192),
    "config": Target("config.json", check_record("config"), (*_JSON, *_METHODS)),
    "gguf": Target("m.gguf", check_model, ("general.alignment", "split.count", "split.no")),
    "imatrix": Target("imatrix", check_imatrix, (".in_sum2", ".counts", "imatrix.chunk_count")),
    "index": Target("index.json", check_record("index"), (*_JSON, '"weight_map"', "../")),
    "journal": Target("journal", check_record("journal"), _JSON),
    "json": Target("model.safetensors.index.json", check_json, (*_JSON, "weight_map", "../")),
    "layers": Target("layers", check_layers, (*_JSON, *_METHODS, *_DTYPES, '"tensors"')),
    "manifest": Target("manifest", check_record("manifest"), (*_JSON, *_DTYPES, '"pieces"')),
    "npz": Target("m.npz", check_model, ("descr", "fortran_order", "shape", "<f4", ">V2", "|O")),
    "onnx": Target("m.onnx", check_model, ("MatMulNBits", *_ONNX, "location", "offset", "m.onnx")),
    "pth": Target("m.pth", check_pth, ("ctorch\nFloatStorage\n", "data.pkl"), 4_096),
    "pth-legacy": Target("m.pt", check_pth, ("ctorch\nHalfStorage\n", "storage")),
    "safetensors": Target(
        "m.safetensors", check_model, (*_JSON, *_DTYPES, "data_offsets", "__metadata__")
    ),
    "to-gguf": Target("folder", check_to_gguf, (*_JSON, *_SETTINGS, '"tensors"')),
    "to-hf": Target("m.gguf", check_to_hf, _SIZES, 4_096),
    "yaml": Target("job.yaml", check_yaml, (*_YAML, *_SECTIONS)),
}
