"""A bucket, and clocks that differ from the store's: of this machine, and of credentials."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from buckets import KEYS, Bucket, Faults, faulty, forget_clients

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.writers import stores

pytest.importorskip("s3fs", reason="s3fs is not installed (extra test)")
auth = pytest.importorskip("botocore.auth")
TOLERATED = timedelta(minutes=15)


class Strict(Faults):
    """A server that looks at the time of a request, as S3 does, and at its token."""

    valid = ""  # tokens of sessions that end with it; others have expired

    def judge(self, headers: Mapping[str, str]) -> str:
        said = datetime.strptime(headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
        if abs(datetime.now(UTC) - said.replace(tzinfo=UTC)) > TOLERATED:
            return "skewed"
        token = headers.get("X-Amz-Security-Token", "")
        return "" if token.endswith(self.valid) else "expired"


STRICT = Strict()


@pytest.fixture(scope="module")
def strict(endpoint: str) -> Iterator[str]:
    """The server behind clocks and credentials that are looked at."""
    with faulty(endpoint, STRICT) as proxy:
        yield proxy


@pytest.fixture
def bucket(
    strict: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": strict}.items():
        monkeypatch.setenv(key, value)
    forget_clients()
    yield Bucket(strict, f"k{abs(hash(request.node.name)):x}")
    forget_clients()


@pytest.fixture
def model(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    data = np.random.default_rng(3).standard_normal((64, 64)).astype("f4").tobytes()
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"layer.weight": ("F32", (64, 64), data)})
    return path


def set_clock(monkeypatch: pytest.MonkeyPatch, ahead: timedelta) -> None:
    """Have this process take it to be later, when it signs and when it waits."""
    now = auth.get_current_datetime
    monkeypatch.setattr(auth, "get_current_datetime", lambda *a, **k: now(*a, **k) + ahead)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead.total_seconds())


@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_clock_that_is_wrong_is_named(
    bucket: Bucket, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    bucket.put("in/model.safetensors", model.read_bytes())
    set_clock(monkeypatch, timedelta(minutes=minutes))
    with pytest.raises(PermissionError, match="clock"):
        anamnesis.convert(model, f"s3://{bucket.name}/out", to="safetensors")
    with pytest.raises(PermissionError, match="clock"):
        anamnesis.convert(f"s3://{bucket.name}/in/model.safetensors", tmp_path / "o", to="hf")
    assert not (tmp_path / "o").exists()
    monkeypatch.undo()
    assert bucket.objects() == ["in/model.safetensors"]


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_lock_lasts_by_the_clock_of_the_store(
    bucket: Bucket, model: Path, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    """A machine that is ten minutes ahead takes no lock over that was renewed just now."""
    url = f"s3://{bucket.name}/out"
    path = stores.located(url)
    with stores.store_of(path).lock(path):
        set_clock(monkeypatch, timedelta(minutes=minutes))
        with pytest.raises(UsageError, match="another run is writing it"):
            anamnesis.convert(model, url, to="safetensors")
    anamnesis.convert(model, url, to="safetensors")
    assert anamnesis.verify(url)["tensors"] == 1


PROCESS = """
import datetime, json, sys
log, session = sys.argv[1:3]
hours = int(open(session).read())
with open(log, "a") as file:
    file.write("asked\\n")
end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=hours)
print(json.dumps({"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "s",
    "SessionToken": f"session-{hours}", "Expiration": end.isoformat()}))
"""


def test_credentials_that_expire_are_asked_for_again(
    bucket: Bucket, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By both drivers, through the means of their own; the server refuses those that are old."""
    credentials = pytest.importorskip("botocore.credentials").RefreshableCredentials
    bucket.put("in/model.safetensors", model.read_bytes())
    log, script, config = tmp_path / "log", tmp_path / "process.py", tmp_path / "config"
    session = tmp_path / "session"
    script.write_text(PROCESS)
    config.write_text(
        f"[default]\ncredential_process = {sys.executable} {script} {log} {session}\n"
    )
    for key in KEYS:
        if key != "AWS_DEFAULT_REGION":
            monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    forget_clients()
    remaining, asked = credentials._seconds_remaining, list[int]()
    # A session of one hour, and two hours later one of five hours: whatever this machine takes.
    for hours, passed in ((1, 0), (5, 2)):
        session.write_text(str(hours))
        monkeypatch.setattr(STRICT, "valid", f"session-{hours}" if passed else "")
        monkeypatch.setattr(
            credentials,
            "_seconds_remaining",
            lambda self, passed=passed: remaining(self) - passed * 3600,
        )
        out = f"s3://{bucket.name}/out{hours}"
        anamnesis.convert(f"s3://{bucket.name}/in/model.safetensors", out, to="safetensors")
        assert anamnesis.verify(out)["tensors"] == 1
        asked.append(len(log.read_text().splitlines()))
    assert 2 <= asked[0] <= asked[1] - 2  # by each driver, and again
