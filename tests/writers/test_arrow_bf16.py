"""`lance.bfloat16`: plain storage to who does not know it, numbers to who does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import anamnesis
from anamnesis.errors import UsageError

KNOWN = """
import sys, numpy as np, ml_dtypes, pyarrow as pa, pyarrow.ipc
import anamnesis
from anamnesis.writers.arrow_bf16 import BFloat16Type, register_bfloat16
model = anamnesis.open_model(sys.argv[1])
before = pa.ipc.open_file(sys.argv[1]).schema.field("values_bf16").type.value_type
assert before == pa.binary(2), before  # nothing registers by itself
kind = register_bfloat16()
assert register_bfloat16() == kind and isinstance(kind, BFloat16Type)
table = pa.ipc.open_file(sys.argv[1]).read_all()
assert table.schema.field("values_bf16").type.value_type == kind
names = set()
for chunk, name in zip(table["values_bf16"].chunks, table["tensor"].chunks):
    if chunk.null_count == 0 and len(chunk):
        numbers = chunk.values.to_numpy()
        wanted = model[name[0].as_py()].to_numpy()
        assert numbers.dtype == ml_dtypes.bfloat16 == wanted.dtype
        assert numbers.ctypes.data == chunk.values.storage.buffers()[1].address
        assert numbers.tobytes() == wanted.tobytes()
        part = chunk.values[3:8]
        assert part.to_numpy().tobytes() == wanted.reshape(-1)[3:8].tobytes()
        assert part.to_numpy(writable=True).flags.writeable
        names.add(name[0].as_py())
assert len(names) > 5, names
again = pa.ipc.read_schema(table.schema.serialize())
assert again.equals(table.schema, check_metadata=True)
"""

POLITE = """
import sys, pyarrow as pa, pyarrow.ipc
class Theirs(pa.ExtensionType):
    def __init__(self): super().__init__(pa.binary(2), "lance.bfloat16")
    def __arrow_ext_serialize__(self): return b""
    @classmethod
    def __arrow_ext_deserialize__(cls, storage, data): return cls()
HOW
from anamnesis.writers.arrow_bf16 import register_bfloat16
assert type(register_bfloat16()).__name__ == "Theirs"
schema = pa.ipc.open_file(sys.argv[1]).schema
assert type(schema.field("values_bf16").type.value_type).__name__ == "Theirs"
import anamnesis
anamnesis.remember(sys.argv[1], sys.argv[1] + "-again.arrow", to="arrow")
assert anamnesis.verify(sys.argv[1]) == anamnesis.verify(sys.argv[1] + "-again.arrow")
"""
BEFORE = "pa.register_extension_type(Theirs())"
# What `import lance.arrow` does, where Lance is installed.
INSTALLED = """
import types, importlib.machinery
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("lance", "lance.arrow"):
            return importlib.machinery.ModuleSpec(name, self, is_package=name == "lance")
    def create_module(self, spec): return None
    def exec_module(self, module):
        if module.__name__ == "lance.arrow": pa.register_extension_type(Theirs())
sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def path(sample: Path, tmp_path: Path) -> Path:
    out = tmp_path / "m.arrow"
    anamnesis.remember(sample, out, to="arrow")
    return out


def run(script: str, *arguments: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_numbers_to_who_knows_it(path: Path) -> None:
    run(KNOWN, path)


@pytest.mark.parametrize("how", [BEFORE, INSTALLED], ids=["registered", "installed"])
def test_the_type_of_lance_comes_first(path: Path, how: str) -> None:
    run(POLITE.replace("HOW", how), path)


def test_the_type_by_its_other_name(sample: Path, tmp_path: Path) -> None:
    usual, other = tmp_path / "usual.arrow", tmp_path / "other.arrow"
    anamnesis.remember(sample, usual)
    anamnesis.remember(sample, other, bf16="lance")
    assert usual.read_bytes() == other.read_bytes()


def test_plain_bits_when_asked(sample: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.ipc

    out = tmp_path / "m.arrow"
    anamnesis.remember(sample, out, to="arrow", bf16="uint16")
    assert pa.ipc.open_file(out).schema.field("values_bf16").type.value_type == pa.uint16()
    assert anamnesis.verify(out)
    with pytest.raises(UsageError, match=r"output\.bf16: found .float.; allowed: extension"):
        anamnesis.remember(sample, out, to="arrow", bf16="float")
