"""`az://` and `gs://`, each against a server in a process of its own; see builders/other_buckets.

Skipped where driver or server are not installed: no extra brings Azurite or fake-gcs-server.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import Faults, billed, faulty, local, model_in, remote
from other_buckets import STORES, OtherBucket, environment, forget, other_server, use

import anamnesis
from anamnesis.errors import IntegrityError, UsageError
from anamnesis.limits import KiB
from anamnesis.pipeline import requests
from anamnesis.pipeline.config import any_job
from anamnesis.pipeline.estimate import Assumed, amounts_of, estimate
from anamnesis.pipeline.jobs import rehearse_job, run_job
from anamnesis.pipeline.plan import Plan
from anamnesis.readers.remote import RemoteFile
from anamnesis.writers import lease, safetensors, upload
from anamnesis.writers.base import OutFile
from anamnesis.writers.bucket import Bucket
from anamnesis.writers.stores import located, store_of

# aiohttp's word for what both drivers do with objects of over 1 MiB; nobody sees it otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
# 40 parts of 10 MB in Google's store, which puts 32 together at a time; Azurite is slow.
PARTS = {"az": 2048 * KiB, "gs": 256 * KiB}
SHARD = "20MB"


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A store and the endpoint of its server."""
    with other_server(request.param) as endpoint:
        yield request.param, endpoint


@pytest.fixture
def bucket(
    server: tuple[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OtherBucket]:
    use(*server, monkeypatch)
    part = PARTS[server[0]]
    monkeypatch.setattr(upload, "PART_BYTES", part)
    monkeypatch.setattr(upload, "part_bytes", lambda nbytes: part)
    yield OtherBucket(*server, f"b{abs(hash(request.node.name)):x}")
    forget(server[0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_in(tmp_path_factory.mktemp("model") / "model")


def convert(model: Path, out: Path | str, **settings: Any) -> None:
    anamnesis.convert(model, out, **{"to": "safetensors", "dtype": "bf16", **settings})


def strays(bucket: OtherBucket) -> list[str]:
    """What only an unfinished run has."""
    return [key for key in bucket.objects() if "/." in f"/{key}"]


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("folder", {"max_shard_size": "6MB"}),
    ("hf", {"to": "hf", "encode": "fp8-channel"}),
    ("one.gguf", {"to": "gguf", "names": "stored"}),
    ("one.arrow", {"to": "arrow", "compression": "zstd"}),
    ("parquet", {"to": "parquet", "max_shard_size": "6MB"}),
]


@pytest.mark.parametrize(("name", "settings"), FORMS, ids=[name for name, _ in FORMS])
def test_a_store_gets_the_bytes_that_a_disk_gets(
    bucket: OtherBucket, model: Path, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    convert(model, tmp_path / "out" / name, **settings)
    url = f"{bucket.root}/out/{name}"
    convert(model, url, **settings)
    assert remote(bucket) == local(tmp_path / "out")
    assert strays(bucket) == []
    assert anamnesis.verify(url) == anamnesis.verify(tmp_path / "out" / name)


@pytest.mark.parametrize(("name", "settings"), FORMS[:3], ids=[name for name, _ in FORMS[:3]])
def test_a_run_makes_the_requests_that_were_planned(
    server: tuple[str, str],
    bucket: OtherBucket,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: dict[str, Any],
) -> None:
    """In both stores, parts and what is composed of them; see test_planned_requests for S3."""
    monkeypatch.setattr(requests, "part_bytes", upload.part_bytes)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 3600.0)  # not one more request of a slow machine
    settings = {"format": settings.get("to", "safetensors"), **settings}
    settings.pop("to", None)
    output = {"path": f"{bucket.root}/{name}", "dtype": "bf16", **settings}
    job = any_job({"inputs": [str(model)], "output": output, "run": {"executor": "serial"}})
    faults = Faults()
    with faulty(server[1], faults) as proxy:
        use(bucket.store, proxy, monkeypatch)
        ((_, plan),) = rehearse_job(job, None)
        assert isinstance(plan, Plan)
        faults.seen.clear()
        run_job(job, resume=True)
    use(*server, monkeypatch)
    said, counts = estimate(amounts_of(plan), 1, Assumed()), Counter(map(billed, faults.seen))
    assert (counts["get"], counts["put"]) == (said.gets, said.puts)


def test_an_input_is_read_in_the_planned_requests(
    server: tuple[str, str],
    bucket: OtherBucket,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each answer names the version: nothing is asked besides ranges, and another is noticed."""
    for path in model.iterdir():
        bucket.put(f"in/{path.name}", path.read_bytes())
    bucket.put("in/empty", b"")
    output = {"path": str(tmp_path / "out"), "dtype": "bf16"}
    job = any_job({"inputs": [f"{bucket.root}/in"], "output": output})
    faults = Faults()
    with faulty(server[1], faults) as proxy:
        use(bucket.store, proxy, monkeypatch)
        ((_, plan),) = rehearse_job(job, None)
        assert isinstance(plan, Plan)
        faults.seen.clear()
        ((outcome,),) = (run_job(job).outcomes,)
    use(*server, monkeypatch)
    said = amounts_of(plan)
    reads = [line for line in faults.seen if re.search("GET .*in(/|%2F)model", line)]
    assert len(reads) == said.gets + 1  # which has the header
    assert outcome.read_bytes == said.get_bytes
    assert len(faults.seen) <= said.gets + said.opening
    with RemoteFile(f"{bucket.root}/in/empty") as empty:
        assert empty.size == 0
    url = f"{bucket.root}/in/model.safetensors"
    with RemoteFile(url) as file, RemoteFile(url, expected=file.id) as again:
        file.check_unchanged()
        bucket.put("in/model.safetensors", bytes(file.size))
        for reader in (file, again):
            with pytest.raises(IntegrityError, match="changed while it was read"):
                reader.fetch_into(0, bytearray(8))


def test_conditions(bucket: OtherBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, url = Bucket(bucket.root)._objects, f"{bucket.root}/o"
    with pytest.raises(FileNotFoundError):
        objects.get(url)
    first = objects.put(url, b"one\n", new=True)  # which ends as a line does
    assert objects.get(url) == (b"one\n", first)
    for condition in ({"new": True}, {"version": "1234" if bucket.store == "gs" else '"0x1"'}):
        with pytest.raises(FileExistsError):
            objects.put(url, b"two", **condition)
    assert objects.put(url, b"two", version=first) != first
    with pytest.raises(FileExistsError):
        objects.put(url, b"three", version=first)
    assert bucket.read("o") == b"two"
    monkeypatch.setattr(objects, "put", None)  # nothing is made to ask for the time
    assert 0 <= objects.age(url) < 60
    objects.remove([url, url])
    assert bucket.objects() == []


def test_a_file_that_is_there_is_kept(bucket: OtherBucket) -> None:
    """The last condition holds when another one took the name while the file was made."""
    if bucket.store == "gs" and "STORAGE_EMULATOR_HOST" not in os.environ:
        pytest.skip("fake-gcs-server composes on no condition")
    objects, url = Bucket(bucket.root)._objects, f"{bucket.root}/f"
    name = objects.begin(url, f"{bucket.root}/.f.part")
    parts = [(number, objects.part(url, name, number, bytes([number]) * 99)) for number in (1, 2)]
    assert objects.parts(url, name) == {(number, tag, 99) for number, tag in parts}
    bucket.put("f", b"another's")
    with pytest.raises(FileExistsError):
        objects.complete(url, name, parts, new=True)
    assert bucket.read("f") == b"another's"
    objects.complete(url, name, parts, new=False)
    assert bucket.read("f") == b"\1" * 99 + b"\2" * 99
    name = objects.begin(url, f"{bucket.root}/.f.part")
    with pytest.raises(OSError, match=r"part 1|block|no such object"):
        objects.complete(url, name, [(1, "0" * 32)], new=False)
    assert bucket.read("f") == b"\1" * 99 + b"\2" * 99


LOST = {
    "az": ["PUT .*anamnesis.lock", "PUT .*comp=block&", "PUT .*comp=blocklist", "PUT .*journal"],
    "gs": ["POST .*upload/", "POST .*whole.*compose", "POST .*out%2F.*/compose", "DELETE .*part"],
}


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("fault", ["lost-answer", "server-error", "drop"])
def test_what_passes_is_tried_again(
    server: tuple[str, str],
    bucket: OtherBucket,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    fault: str,
) -> None:
    faults = Faults()
    faults.add(LOST[bucket.store][number], fault)
    convert(model, tmp_path / "out", max_shard_size=SHARD)
    with faulty(server[1], faults) as proxy:
        use(bucket.store, proxy, monkeypatch)
        convert(model, f"{bucket.root}/out", max_shard_size=SHARD)
    use(*server, monkeypatch)
    assert faults.rules[0][2] == 0, "the fault was never met"
    assert remote(bucket) == local(tmp_path / "out")
    assert strays(bucket) == []


def test_an_output_is_replaced_when_asked(bucket: OtherBucket, model: Path, tmp_path: Path) -> None:
    url = f"{bucket.root}/out"
    convert(model, url, max_shard_size="3MB")
    with pytest.raises(UsageError, match="exists already"):
        convert(model, url, dtype="f16", max_shard_size=SHARD)
    convert(model, url, dtype="f16", max_shard_size=SHARD, overwrite=True)
    convert(model, tmp_path / "out", dtype="f16", max_shard_size=SHARD)
    assert remote(bucket) == local(tmp_path / "out")
    assert strays(bucket) == []


def test_one_run_an_output(
    bucket: OtherBucket, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.root}/out"
    path = located(url)
    with store_of(path).lock(path), pytest.raises(UsageError, match="another run"):
        convert(model, url)
    bucket.put(".out.anamnesis.lock", b'{"host":"gone","machine":"x","pid":1,"token":"t"}')
    with pytest.raises(UsageError, match="or was killed"):
        convert(model, url)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)  # by the store's clock it has run out
    convert(model, url)
    assert strays(bucket) == []


@pytest.mark.parametrize("late", ["task", "pack"])
def test_a_store_keeps_nothing_of_a_late_task(bucket: OtherBucket, late: str) -> None:
    nbytes = 5 * PARTS[bucket.store]
    store, out = store_of(f"{bucket.root}/out"), OutFile(f"{bucket.root}/out", nbytes, ())
    part = store.part(located(out.path), "0123456789")
    unfinished = store.create(out, part, overwrite=True)
    data = np.random.default_rng(1).bytes(nbytes)
    sink: Any = store.open_part(part) if late == "task" else store.open_pack(part)
    sink.write(data[:-9], 0)
    sink.finish(False) if late == "task" else sink.end(nbytes - 9)
    unfinished.discard()
    with closing(sink), pytest.raises(FileNotFoundError, match="its run has ended"):
        sink.keep("task-0", lambda: b"receipt")
    assert bucket.objects() == []
    again = store.create(out, part, overwrite=True)
    sink = store.open_part(part)
    sink.write(data, 0)
    again.receive(sink.finish(False))
    again.commit(safetensors)
    assert bucket.objects() == ["out"]
    assert bucket.read("out") == data


_JOB = """
import sys, anamnesis
from anamnesis.writers import upload
upload.PART_BYTES = int(sys.argv[3])
upload.part_bytes = lambda nbytes: upload.PART_BYTES
anamnesis.run({'inputs': [sys.argv[1]], 'output': {'path': sys.argv[2], 'dtype': 'bf16',
    'max_shard_size': '7MB'}, 'run': {'executor': 'serial'}})
"""


def test_a_run_that_is_killed_goes_on_with_the_parts_that_were_sent(
    server: tuple[str, str], bucket: OtherBucket, model: Path, tmp_path: Path
) -> None:
    url, faults = f"{bucket.root}/out", Faults()
    last = r"comp=blocklist" if bucket.store == "az" else r"whole"
    command = [sys.executable, "-c", _JOB, str(model), url, str(PARTS[bucket.store])]
    faults.add(f"(PUT|POST) .*{last}", "server-error", 1 << 30)  # no file is completed
    with faulty(server[1], faults) as proxy:
        run = subprocess.Popen(command, env={**os.environ, **environment(bucket.store, proxy)})
        while not any(last in line for line in faults.seen):
            assert run.poll() is None
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    assert remote(bucket).keys().isdisjoint({"model-00001-of-00002.safetensors"})
    faults = Faults()
    with faulty(server[1], faults) as proxy:
        env = {**os.environ, **environment(bucket.store, proxy)}
        assert subprocess.run(command, env=env, check=False).returncode == 0
    again = [s for s in faults.seen if "00001-of" in s and "task-" in s and "PUT" in s]
    assert again == []  # what the tasks of the first shard had sent outlived the client
    convert(model, tmp_path / "out", max_shard_size="7MB")
    assert remote(bucket) == local(tmp_path / "out")
    assert strays(bucket) == []
