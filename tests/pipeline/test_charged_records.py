"""Models of very many tensors: memory for what is known of them is charged before it is spent."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pth_bytes
import pytest

import anamnesis
from anamnesis.errors import LimitError
from anamnesis.limits import RECORD_BYTES, Limits
from anamnesis.readers.model import load_model

COUNT = 60_000
B = pth_bytes


@pytest.fixture(scope="module")
def safetensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`COUNT` tensors of four BF16 numbers each, no two alike."""
    path = tmp_path_factory.mktemp("many") / "many.safetensors"
    header = {
        f"layers.{i}.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [8 * i, 8 * i + 8]}
        for i in range(COUNT)
    }
    text = json.dumps(header).encode()
    values = np.arange(4 * COUNT, dtype=np.uint32).astype("<u2")
    path.write_bytes(struct.pack("<Q", len(text)) + text + values.tobytes())
    return path


def gguf(path: Path) -> Path:
    """The header of as many F32 tensors."""
    key = b"general.architecture"
    parts = [struct.pack("<4sIQQQ", b"GGUF", 3, COUNT, 1, len(key)), key, struct.pack("<IQ", 8, 1)]
    parts.append(b"x")
    for i in range(COUNT):
        name = f"blk.{i}.weight".encode()
        parts += [struct.pack("<Q", len(name)), name, struct.pack("<IQIQ", 1, 4, 0, 32 * i)]
    header = b"".join(parts)
    path.write_bytes(header + bytes(-len(header) % 32 + 32 * COUNT))
    return path


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_a_run_is_charged_for_records(kind: str, safetensors: Path, tmp_path: Path) -> None:
    path = safetensors if kind == "safetensors" else gguf(tmp_path / "many.gguf")
    with pytest.raises(LimitError, match=r"60,000 tensors takes .*--memory") as caught:
        anamnesis.remember(path, tmp_path / "out.safetensors", memory="256MiB")
    assert (caught.value.limit, caught.value.need) == ("run.memory", COUNT * RECORD_BYTES)
    assert [p.name for p in tmp_path.iterdir()] == (["many.gguf"] if kind == "gguf" else [])


def test_every_tensor_arrives_within_what_was_charged(safetensors: Path, tmp_path: Path) -> None:
    """In a process of its own, whose peak is compared with that of a model of one tensor."""
    out = tmp_path / "out.safetensors"
    code = (
        "import sys, anamnesis\n"
        "anamnesis.remember(sys.argv[1], sys.argv[2], memory='2GiB', threads=1)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    peaks = []
    one = tmp_path / "one.safetensors"
    text = b'{"w":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}'
    one.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    for source, target in ((one, tmp_path / "1.safetensors"), (safetensors, out)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(source), str(target)],
            capture_output=True,
            text=True,
            check=True,
            timeout=240,
        )
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < COUNT * RECORD_BYTES
    model = anamnesis.open_model(out)
    assert len(model) == COUNT
    assert model[f"layers.{COUNT - 1}.weight"].to_numpy().view(np.uint16).tolist() == [
        (4 * (COUNT - 1) + i) & 0xFFFF for i in range(4)
    ]


def checkpoint(path: Path, count: int) -> Path:
    """`count` tensors of one storage, each four BF16 numbers, as torch.save writes them."""
    storage = B.storage(elems=4 * count, cls="BFloat16Storage")
    entries = {f"layers.{i}.weight": B.tensor(storage, (4,), (1,), 4 * i) for i in range(count)}
    data = np.arange(4 * count, dtype=np.uint32).astype("<u2").tobytes()
    path.write_bytes(B.pth(B.pickled(B.dict_(entries)), {"0": data}))
    return path


def test_a_checkpoint_of_many_tensors_is_read(tmp_path: Path) -> None:
    """More than the pickle's fixed budget has room for: each tensor adds what the next takes."""
    count = 75_000
    path = checkpoint(tmp_path / "many.pth", count)
    model = anamnesis.open_model(path)
    assert len(model) == count
    assert model[f"layers.{count - 1}.weight"].to_numpy().view(np.uint16).tolist() == [
        (4 * (count - 1) + i) & 0xFFFF for i in range(4)
    ]


def test_a_checkpoint_is_refused_before_its_records_are_made(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "many.pth", 3000)
    with pytest.raises(LimitError, match=r"2,048 tensors takes .*--memory") as caught:
        load_model(str(path), limits=Limits(record_bytes=2000 * RECORD_BYTES))
    assert (caught.value.limit, caught.value.need) == ("run.memory", 2048 * RECORD_BYTES)
    assert len(load_model(str(path), limits=Limits(record_bytes=3000 * RECORD_BYTES)).tensors)
