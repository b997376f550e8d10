"""Outputs in a bucket: the same bytes as on a disk, whole or absent, whatever fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from buckets import (
    KEYS,
    Bucket,
    Faults,
    faulty,
    files_in_memory,
    forget_clients,
    local,
    model_in,
    remote,
)

import anamnesis
from anamnesis.errors import FormatError, IntegrityError, UsageError
from anamnesis.writers import stores, upload

SHARD = "6MB"


@pytest.fixture
def bucket(
    endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    use(endpoint, monkeypatch)
    yield Bucket(endpoint, f"b{abs(hash(request.node.name)):x}")
    forget_clients()


def use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(key, value)
    forget_clients()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_in(tmp_path / "model")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts a shard, as S3 has it: none but the last is below 5 MiB."""
    monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)


def convert(model: Path | str, out: Path | str, to: str = "safetensors", **settings: Any) -> None:
    anamnesis.convert(model, out, to=to, **settings)


def strays(bucket: Bucket) -> list[str]:
    """What only an unfinished run has: uploads, locks, journals, parts."""
    return [*bucket.uploads(), *(key for key in bucket.objects() if "/." in f"/{key}")]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("folder", "safetensors"),
        ("folder", "hf"),
        ("one.safetensors", "safetensors"),
        ("one.arrow", "arrow"),
        ("folder", "arrow"),
        ("one.gguf", "gguf"),
        ("folder", "gguf"),
        ("one.parquet", "parquet"),
        ("folder", "parquet"),
        ("one.arrow", "arrow lz4"),
        ("folder", "arrow zstd"),
    ],
)
def test_a_bucket_gets_the_bytes_that_a_disk_gets(
    bucket: Bucket, model: Path, tmp_path: Path, name: str, form: str
) -> None:
    form, _, compression = form.partition(" ")
    settings = {} if "." in name else {"max_shard_size": SHARD}
    settings |= {"compression": compression} if compression else {}
    settings |= {"names": "stored"} if form == "gguf" else {}
    convert(model, tmp_path / "out" / name, to=form, dtype="bf16", **settings)
    url = f"s3://{bucket.name}/out/{name}"
    convert(model, url, to=form, dtype="bf16", **settings)
    assert remote(bucket) == local(tmp_path / "out")
    assert strays(bucket) == []
    assert anamnesis.verify(url) == anamnesis.verify(tmp_path / "out" / name)


def test_encoded_tensors_that_lie_in_several_places(
    bucket: Bucket, model: Path, tmp_path: Path
) -> None:
    settings = {"dtype": "bf16", "encode": "fp8-channel"}
    convert(model, tmp_path / "out", to="hf", **settings)
    convert(model, f"s3://{bucket.name}/out", to="hf", **settings)
    assert remote(bucket) == local(tmp_path / "out")


def test_any_store_that_fsspec_writes_to(memory: Any, model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "out", dtype="bf16", max_shard_size=SHARD)
    convert(model, "memory://out", dtype="bf16", max_shard_size=SHARD)
    assert files_in_memory("/out/") == local(tmp_path / "out")
    assert not [name for name in memory.store if name.startswith("/out/.")]
    assert anamnesis.verify("memory://out")["tensors"] == 6
    memory.store["/out/model-00001-of-00002.safetensors"].getbuffer()[9000] ^= 1
    with pytest.raises(IntegrityError):
        anamnesis.verify("memory://out")


def test_what_is_there_is_refused_as_in_a_folder(bucket: Bucket, model: Path) -> None:
    url = f"s3://{bucket.name}/out"
    bucket.put("out/model.safetensors", b"another's")
    with pytest.raises(UsageError, match=r"model\.safetensors is not of an output"):
        convert(model, url, dtype="bf16")
    assert bucket.objects() == ["out/model.safetensors"]


def test_an_output_is_replaced_when_asked(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    url = f"s3://{bucket.name}/out"
    convert(model, url, dtype="bf16", max_shard_size="3MB")
    with pytest.raises(UsageError, match="exists already"):
        convert(model, url, dtype="f16", max_shard_size=SHARD)
    convert(model, url, dtype="f16", max_shard_size=SHARD, overwrite=True)
    convert(model, tmp_path / "out", dtype="f16", max_shard_size=SHARD)
    assert remote(bucket) == local(tmp_path / "out")
    assert strays(bucket) == []


def test_a_crash_while_an_output_is_replaced_leaves_no_mix(
    endpoint: str, bucket: Bucket, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader sees the old output, the new one, or none: no index, no configuration, no manifest.

    The first new file is complete when the second fails, again and again.
    """
    url, faults = f"s3://{bucket.name}/out", Faults()
    old, new = {"dtype": "bf16", "max_shard_size": SHARD}, {"dtype": "f16", "max_shard_size": SHARD}
    convert(model, url, **old)
    before = remote(bucket)
    faults.add("POST .*00002-of.*uploadId", "expired", 1 << 30)
    with faulty(endpoint, faults) as proxy:
        use(proxy, monkeypatch)
        with pytest.raises(OSError, match="ExpiredToken"):
            convert(model, url, **new, overwrite=True)
    use(endpoint, monkeypatch)
    left = remote(bucket)
    shards = {name for name in before if name.endswith(".safetensors")}
    assert set(left) <= shards
    assert left != {name: before[name] for name in left}  # some of it is new
    with pytest.raises(UsageError, match="no manifest"):
        anamnesis.verify(url)
    convert(model, url, **new, overwrite=True)
    convert(model, tmp_path / "out", **new)
    assert remote(bucket) == local(tmp_path / "out")
    assert strays(bucket) == []


def test_a_file_that_would_join_a_model_is_refused(
    bucket: Bucket, model: Path, tmp_path: Path
) -> None:
    whole = (model / "model.safetensors").read_bytes()
    bucket.put("m/a.safetensors", whole)
    convert(model, f"s3://{bucket.name}/m/b.safetensors", dtype="bf16")  # no model's folder
    bucket.put("n/a.safetensors", whole)
    bucket.put("n/config.json", b"{}")
    with pytest.raises(UsageError, match="would be loaded with, or in place of"):
        convert(model, f"s3://{bucket.name}/n/b.safetensors", dtype="bf16")
    bucket.put("o/b.safetensors.index.json", b"{}")
    with pytest.raises(UsageError, match="would be loaded in place of the model"):
        convert(model, f"s3://{bucket.name}/o/b.safetensors", dtype="bf16")
    assert strays(bucket) == []


def test_outputs_are_compared_with_their_input(bucket: Bucket, model: Path) -> None:
    bucket.put("in/model.safetensors", (model / "model.safetensors").read_bytes())
    for name, to in (("a", "hf"), ("a.parquet", "parquet"), ("a.arrow", "arrow")):
        url, source = f"s3://{bucket.name}/out/{name}", f"s3://{bucket.name}/in/model.safetensors"
        convert(model if to == "hf" else source, url, to=to, dtype="bf16")
        found = anamnesis.verify(url, against=model if to == "hf" else source)
        assert found["pieces_decoded"] == found["pieces"] > 0
    bucket.put(
        "in/model.safetensors", (model / "model.safetensors").read_bytes()[:-4] + b"\1\2\3\4"
    )
    with pytest.raises(IntegrityError, match="differ from"):
        anamnesis.verify(url, against=source)


def test_what_can_be_had_of_a_broken_model(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "in", dtype="f32", max_shard_size=SHARD)
    broken = sorted((tmp_path / "in").glob("*.safetensors"))[0]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-100])
    url = f"s3://{bucket.name}/out"
    for out in (tmp_path / "out", url):
        with pytest.raises(FormatError, match="cannot be read"):
            convert(tmp_path / "in", out, dtype="bf16", keep_going=True)
    assert remote(bucket, "out.incomplete/") == local(tmp_path / "out.incomplete")
    broken.write_bytes(whole)
    for out in (tmp_path / "out", url):
        convert(tmp_path / "in", out, dtype="bf16")
    assert remote(bucket) == local(tmp_path / "out")
    assert remote(bucket, "out.incomplete/") == {}
    assert strays(bucket) == []


def test_the_prefix_of_an_input_is_refused(bucket: Bucket, model: Path) -> None:
    bucket.put("m/model.safetensors", (model / "model.safetensors").read_bytes())
    source = f"s3://{bucket.name}/m/model.safetensors"
    with pytest.raises(UsageError, match="the input"):
        convert(source, f"s3://{bucket.name}/m", dtype="bf16")
    convert(source, f"s3://{bucket.name}/n", dtype="bf16")  # from store to store
    assert "n/model.safetensors" in bucket.objects()


PASSING = [
    ("PUT .*partNumber=1", "slow-down"),
    ("PUT .*partNumber=1", "server-error"),
    ("PUT .*partNumber=2", "drop"),
    ("PUT .*partNumber=2", "lost-answer"),
    ("POST .*uploads", "lost-answer"),
    ("POST .*uploadId", "lost-answer"),
    ("POST .*uploadId", "slow-down"),
    ("GET .*part/", "cut"),
    ("PUT .*journal", "server-error"),
    ("PUT .*journal", "lost-answer"),
    ("PUT .*anamnesis.lock", "lost-answer"),
    ("PUT .*anamnesis.json", "drop"),
    ("DELETE", "drop"),
]


@pytest.mark.parametrize(("pattern", "fault"), PASSING)
def test_what_passes_is_tried_again(
    endpoint: str,
    bucket: Bucket,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    fault: str,
) -> None:
    faults = Faults()
    faults.add(pattern, fault)
    convert(model, tmp_path / "out", dtype="bf16", max_shard_size="20MB")
    with faulty(endpoint, faults) as proxy:
        use(proxy, monkeypatch)
        convert(model, f"s3://{bucket.name}/out", dtype="bf16", max_shard_size="20MB")
    assert faults.rules[0][2] == 0, "the fault was never met"
    assert remote(bucket) == local(tmp_path / "out")
    assert strays(bucket) == []


@pytest.mark.parametrize("pattern", ["PUT .*partNumber", "POST .*uploadId", "PUT .*journal"])
def test_what_does_not_pass_ends_the_run_and_leaves_nothing(
    endpoint: str, bucket: Bucket, model: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    faults = Faults()
    faults.add(pattern, "expired", 1 << 30)
    with faulty(endpoint, faults) as proxy:
        use(proxy, monkeypatch)
        with pytest.raises(OSError, match="ExpiredToken") as caught:
            convert(model, f"s3://{bucket.name}/out", dtype="bf16")
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
    assert remote(bucket) == {}
    assert strays(bucket) == []


def test_no_secret_is_written(bucket: Bucket, model: Path) -> None:
    convert(model, f"s3://{bucket.name}/out", dtype="bf16")
    for key in bucket.objects():
        if "anamnesis" in key:
            assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in bucket.read(key)
            assert KEYS["AWS_ACCESS_KEY_ID"].encode() not in bucket.read(key)


def start(model: Path, url: str) -> subprocess.Popen[bytes]:
    code = (
        "import sys, anamnesis; from anamnesis.writers import upload; upload.PART_BYTES = 5 << 20\n"
        "anamnesis.run({'inputs': [sys.argv[1]], 'output': {'path': sys.argv[2], 'dtype': 'bf16',"
        " 'max_shard_size': '7MB'}, 'run': {'executor': 'serial'}})"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(model), url])


def test_a_run_that_is_killed_goes_on_with_the_parts_that_were_sent(
    endpoint: str, bucket: Bucket, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, faults = f"s3://{bucket.name}/out", Faults()
    faults.add("POST .*uploadId", "server-error", 1 << 30)  # no upload is completed
    with faulty(endpoint, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
        run = start(model, url)
        while not any("POST" in s and "uploadId" in s for s in faults.seen):
            assert run.poll() is None
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    assert remote(bucket).keys().isdisjoint({"model-00001-of-00002.safetensors"})
    assert bucket.uploads()
    faults = Faults()
    with faulty(endpoint, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
        run = start(model, url)
        assert run.wait() == 0
    again = [s for s in faults.seen if s.startswith("PUT") and "00001-of" in s and "/task-" in s]
    assert again == []  # what the tasks of the first shard had sent outlived the client
    convert(model, tmp_path / "out", dtype="bf16", max_shard_size="7MB")
    assert remote(bucket) == local(tmp_path / "out")
    assert strays(bucket) == []


def test_what_a_completed_file_left_is_removed_by_the_next_run(
    bucket: Bucket, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{bucket.name}/out"

    def killed(self: upload.Upload) -> None:
        raise OSError("the client ended right after it had completed a file")

    with monkeypatch.context() as patch:
        patch.setattr(upload.Upload, "_abort_others", killed)
        patch.setattr(upload.Upload, "discard", lambda self: None)
        patch.setattr(stores.store_of(url), "clear", lambda *arguments: None)
        with pytest.raises(OSError, match="right after"):
            anamnesis.run({"inputs": [model], "output": {"path": url, "max_shard_size": SHARD}})
    assert any(key.startswith("out/.model-00001") for key in bucket.objects())
    anamnesis.run({"inputs": [model], "output": {"path": url, "max_shard_size": SHARD}})
    assert strays(bucket) == []


def test_one_run_an_output(bucket: Bucket, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anamnesis.writers import lease

    url = f"s3://{bucket.name}/out"
    path = stores.located(url)
    with stores.store_of(path).lock(path), pytest.raises(UsageError, match="another run"):
        convert(model, url, dtype="bf16")
    assert strays(bucket) == []
    bucket.put(".out.anamnesis.lock", b'{"host":"gone","machine":"x","pid":1,"token":"t"}')
    with pytest.raises(UsageError, match="or was killed"):
        convert(model, url, dtype="bf16")
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)  # by the store's clock it has run out
    convert(model, url, dtype="bf16")
    assert strays(bucket) == []


def test_a_run_that_lost_its_lock_completes_nothing(
    endpoint: str, bucket: Bucket, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anamnesis.writers.lease import Lease

    inner = Lease.check

    def taken(self: Lease) -> None:
        bucket.put(".out.anamnesis.lock", b"another's")
        inner(self)

    monkeypatch.setattr(Lease, "check", taken)
    with pytest.raises(UsageError, match="taken it over"):
        convert(model, f"s3://{bucket.name}/out", dtype="bf16")
    assert remote(bucket) == {}
    assert bucket.uploads() == []
    assert bucket.read(".out.anamnesis.lock") == b"another's"
