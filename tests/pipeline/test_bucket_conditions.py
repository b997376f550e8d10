"""A bucket that refuses one kind of request: conditions, conflicts, too many, an expired token."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import KEYS, Bucket, Faults, faulty, forget_clients, s3_server

import anamnesis
from anamnesis.errors import AnamnesisError, IntegrityError
from anamnesis.limits import MiB
from anamnesis.readers import retry
from anamnesis.writers import lease, upload
from anamnesis.writers.s3 import S3

pytest.importorskip("s3fs", reason="s3fs is not installed (extra test)")
ALWAYS = 1 << 30
PART_BYTES = MiB  # of which those of a file are a multiple
KINDS = {
    "look at the input": "(GET|HEAD) .*/in/",
    "list": "GET .*list-type=2",
    "lock": "PUT .*anamnesis.lock",
    "begin": "POST .*uploads",
    "how to write": "PUT .*part/upload",
    "part": "PUT .*partNumber=2",
    "task": "PUT .*part/task",
    "scrap": "GET .*part/0",
    "record": "PUT .*journal",
    "complete": "POST .*uploadId",
    "look at the output": "HEAD .*out/model-",
    "manifest": "PUT .*anamnesis.json",
    "remove": "DELETE .*part/",
    "abort": "DELETE .*uploadId",
}
FAULTS = ("precondition", "conflict", "slow-down", "expired")
# Of each kind one fault in a row, so that each meets every fault in turn; `oracle` has all of them.
USUAL = {(kind, FAULTS[n % len(FAULTS)]) for n, kind in enumerate(KINDS)}
PAIRS = [
    pytest.param(*pair, marks=() if pair in USUAL else pytest.mark.oracle)
    for pair in product(KINDS, FAULTS)
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server(part_bytes=PART_BYTES) as url:
        yield url


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def bucket(
    server: str, faults: Faults, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """Looked at by the test as it is; the package comes by a proxy that does what `faults` says."""
    monkeypatch.setattr(upload, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(S3.__init__, "__defaults__", (1,))  # botocore's own attempts
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # and those of s3fs
    with faulty(server, faults) as proxy:
        for key, value in {**KEYS, "AWS_ENDPOINT_URL": proxy}.items():
            monkeypatch.setenv(key, value)
        forget_clients()
        yield Bucket(server, f"c{abs(hash(request.node.name)):x}")
        forget_clients()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2.4 MB in tensors whose edges lie inside of parts."""
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    rng = np.random.default_rng(7)
    save_file({f"t{n}": rng.random((100, 1001), np.float32) for n in range(6)}, path)
    return path


def convert(source: str | Path, out: str | Path) -> None:
    anamnesis.convert(source, out, to="safetensors", max_shard_size="1.8MB", threads=1)


def refused(source: str, out: str) -> str:
    """What a run says when it ends; "" when it ends well."""
    try:
        convert(source, out)
    except (AnamnesisError, OSError) as error:
        return str(error)
    return ""


def finals(bucket: Bucket) -> dict[str, bytes]:
    keys = [key for key in bucket.objects() if key.startswith("out/model-")]
    return {key.removeprefix("out/"): bucket.read(key) for key in keys}


@pytest.fixture(scope="module")
def wanted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("wanted")
    convert(model, folder / "out")
    return {path.name: path.read_bytes() for path in (folder / "out").glob("model-*")}


@pytest.mark.parametrize(("kind", "fault"), PAIRS)
def test_a_kind_of_request_that_is_refused(
    bucket: Bucket,
    faults: Faults,
    model: Path,
    wanted: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    fault: str,
) -> None:
    """The run ends with a documented error or well; what has a final name is whole."""
    source, out = f"s3://{bucket.name}/in/model.safetensors", f"s3://{bucket.name}/out"
    bucket.put("in/model.safetensors", model.read_bytes())
    faults.add(KINDS[kind], fault, ALWAYS)
    if kind == "abort":  # which only what failed before does
        faults.add(KINDS["part"], "expired", ALWAYS)
    error = refused(source, out)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in error
    assert not error or "s3://" in error
    assert faults.rules[0][2] < ALWAYS, "no request was of this kind"
    found = finals(bucket)
    assert found.items() <= wanted.items()
    assert kind == "abort" or bucket.uploads() == []
    faults.rules.clear()
    forget_clients()
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)  # a lock that could not be removed
    convert(source, out)
    assert finals(bucket) == wanted
    assert bucket.uploads() == []
    assert [key for key in bucket.objects() if "/." in f"/{key}"] == []


@pytest.mark.parametrize("kind", ["lock", "record", "complete", "part"])
def test_a_conflict_passes(
    bucket: Bucket, faults: Faults, model: Path, wanted: dict[str, bytes], kind: str
) -> None:
    """It is of two requests at a time, maybe of one and the same that was made again."""
    faults.add(KINDS[kind], "conflict", 2)
    convert(model, f"s3://{bucket.name}/out")
    assert faults.rules[0][2] == 0
    assert finals(bucket) == wanted


def test_an_upload_that_was_completed_though_nobody_heard(
    bucket: Bucket,
    faults: Faults,
    model: Path,
    wanted: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request that is made again finds the name taken: by itself."""
    ask, heard = S3._ask, list[str]()

    def deaf(self: S3, operation: str, url: str, **arguments: Any) -> Any:
        answer = ask(self, operation, url, **arguments)
        if operation == "complete_multipart_upload":
            heard.append(url)
            raise FileExistsError(17, "was written by another meanwhile (PreconditionFailed)", url)
        return answer

    monkeypatch.setattr(S3, "_ask", deaf)
    convert(model, f"s3://{bucket.name}/out")
    assert len(heard) == len(wanted)
    assert finals(bucket) == wanted


def test_an_input_that_is_written_again_while_it_is_read(
    bucket: Bucket, faults: Faults, model: Path
) -> None:
    bucket.put("in/model.safetensors", model.read_bytes())
    opened = anamnesis.open_model(f"s3://{bucket.name}/in/model.safetensors")
    faults.add("GET .*/in/", "precondition", ALWAYS)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        opened["t3"].to_numpy()


def test_the_version_that_a_url_names(
    bucket: Bucket, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where fsspec's configuration says that versions count; never the newest one instead."""
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"version_aware": True})
    bucket.client.put_bucket_versioning(
        Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"}
    )
    data = model.read_bytes()
    first = bucket.client.put_object(Bucket=bucket.name, Key="m.safetensors", Body=data)
    bucket.put("m.safetensors", data[:-4] + b"\0\0\xc0\x7f")
    forget_clients()
    url = f"s3://{bucket.name}/m.safetensors"
    newest = anamnesis.open_model(url)["t5"].to_numpy()
    named = anamnesis.open_model(f"{url}?versionId={first['VersionId']}")["t5"].to_numpy()
    assert np.isnan(newest).sum() == 1
    assert np.isnan(named).sum() == 0


def test_a_lock_whose_renewal_was_answered_to_nobody(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same request again finds another version: its own."""
    from anamnesis.writers import stores

    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    put, times = S3.put, list[str]()

    def deaf(self: S3, url: str, data: bytes, **condition: Any) -> str:
        version = put(self, url, data, **condition)
        if condition.get("version"):
            times.append(url)
            raise FileExistsError(17, "was written by another meanwhile", url)
        return version

    monkeypatch.setattr(S3, "put", deaf)
    path = stores.located(f"s3://{bucket.name}/out")
    with stores.store_of(path).lock(path) as held:
        while len(times) < 3:
            pass
        held.check()
