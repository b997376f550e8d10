"""A real scheduler and worker under TLS, and schedulers that cannot be reached."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.executors import SchedulerError, scheduler
from anamnesis.pipeline.jobs import run_job

Settings = dict[str, str]


class Cluster:
    """`dask scheduler` and a `dask worker`, in a folder of their own."""

    def __init__(self, folder: Path, protocol: str, environ: Settings) -> None:
        self._folder = folder
        self._environ = {**os.environ, **environ}
        self._processes: list[subprocess.Popen[bytes]] = []
        file = folder / "scheduler.json"
        self._start("scheduler", "--port=0", "--no-dashboard", f"--protocol={protocol}")
        while not (file.exists() and file.read_text()):
            assert self._processes[0].poll() is None, (folder / "0.log").read_text()
            time.sleep(0.05)
        self.address = str(json.loads(file.read_text())["address"])
        self._start("worker", "--nthreads=1", "--no-dashboard", f"--protocol={protocol}")

    def _start(self, *arguments: str) -> None:
        log = (self._folder / f"{len(self._processes)}.log").open("wb")
        more = [f"--scheduler-file={self._folder / 'scheduler.json'}", "--host=127.0.0.1"]
        command = [sys.executable, "-m", "dask", *arguments, *more]
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._environ,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self._processes.append(process)

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=120)


def authority(folder: Path) -> Settings:
    """A certificate that signs itself, and what Dask's configuration says of it."""
    folder.mkdir(exist_ok=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    found = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(cert)}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        found[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(cert)
        found[f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY"] = str(key)
    return found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    return authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def secure(certificates: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("secure"), "tls", certificates)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("plain"), "tcp", {})
    yield found
    found.stop()


@pytest.fixture
def amn(fp8_model: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run the model on a scheduler, in a process with such settings; what it said."""
    job = tmp_path / "job.yaml"
    job.write_text(f"inputs: [{fp8_model}]\noutput: {{path: {tmp_path}/out.safetensors}}\n")

    def run(address: str, environ: Settings) -> tuple[int, str]:
        command = [sys.executable, "-m", "anamnesis", "run", str(job), "--scheduler", address]
        done = subprocess.run(
            command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=240
        )
        return done.returncode, done.stderr

    return run


def _told(errors: str) -> str:
    """Our own line; Dask's client may log what it was doing behind it, when it is closed."""
    return next(line for line in errors.splitlines() if line.startswith("error: "))


def test_the_same_bytes_under_tls(
    secure: Cluster, certificates: Settings, amn: Any, fp8_model: Path, tmp_path: Path
) -> None:
    assert secure.address.startswith("tls://")
    code, errors = amn(secure.address, certificates)
    assert code == 0, errors
    anamnesis.remember(fp8_model, tmp_path / "here.safetensors")
    here = (tmp_path / "here.safetensors").read_bytes()
    assert (tmp_path / "out.safetensors").read_bytes() == here


def test_certificates_that_are_text(secure: Cluster, certificates: Settings) -> None:
    """As a service keeps those of a cluster that it has started."""
    names = {"CA_FILE": "ca-file", "CLIENT__CERT": "client.cert", "CLIENT__KEY": "client.key"}
    found = {
        f"distributed.comm.tls.{name}": Path(certificates[f"DASK_DISTRIBUTED__COMM__TLS__{key}"])
        for key, name in names.items()
    }
    text = dask.config.set({name: path.read_text() for name, path in found.items()})
    with text, scheduler.connected(secure.address) as client:
        assert client.scheduler.address == secure.address


REFUSED = {
    "no certificates": ({}, 2, "TLS needs distributed.comm.tls.ca-file"),
    "no certificate of the client": ("ca", 2, "TLS needs distributed.comm.tls.client.cert"),
    "no such file": ("missing", 2, "no file /nowhere/cert.pem"),
    "a file that is no certificate": ("garbage", 2, "distributed.comm.tls: "),
    "another authority": ("other", 1, "a certificate of another authority"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tls_that_is_not_set_up_is_told(
    case: str, secure: Cluster, certificates: Settings, amn: Any, tmp_path: Path
) -> None:
    how, code, text = REFUSED[case]
    ca = "DASK_DISTRIBUTED__COMM__TLS__CA_FILE"
    settings: Settings = {}
    if how == "ca":
        settings = {ca: certificates[ca]}
    elif how == "missing":
        settings = {**certificates, ca: "/nowhere/cert.pem"}
    elif how == "garbage":
        (tmp_path / "garbage.pem").write_text("garbage")
        settings = {**certificates, ca: str(tmp_path / "garbage.pem")}
    elif how == "other":
        settings = authority(tmp_path / "other")
    found, errors = amn(secure.address, settings)
    assert found == code, errors
    assert text in _told(errors)
    assert not list(tmp_path.glob("*out.safetensors*"))


def test_one_protocol_where_the_other_is_spoken(
    secure: Cluster, plain: Cluster, certificates: Settings, amn: Any
) -> None:
    code, errors = amn(secure.address.replace("tls", "tcp"), certificates)
    assert code == 1, errors
    assert "under TLS its address begins with tls://" in _told(errors)
    code, errors = amn(plain.address.replace("tcp", "tls"), certificates)
    assert code == 1, errors
    assert "it may have no TLS" in _told(errors)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8787/status", "https://x:1", "file:///x"])
def test_an_address_of_something_else_is_a_usage_error_at_once(
    address: str, fp8_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"run\.scheduler: .*begins with one of tcp://"):
        job_from(
            inputs=[str(fp8_model)],
            output={"path": str(tmp_path / "out")},
            run={"executor": "distributed", "scheduler": address},
        ).resolve()


def test_a_scheduler_that_is_not_there_is_tried_once_a_job(
    fp8_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []
    connect = socket.create_connection

    def counted(*where: Any) -> socket.socket:
        tried.append(where)
        return connect(*where)

    monkeypatch.setattr(scheduler.socket, "create_connection", counted)
    inputs = [str(shutil.copy(fp8_model, tmp_path / f"{n}.safetensors")) for n in range(3)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        job = job_from(
            inputs=inputs,
            output={"path": str(tmp_path / "o")},
            run={"executor": "distributed", "scheduler": address},
        )
        summary = run_job(job)
    assert len(tried) == 1
    assert len(summary.failures) == 3
    assert all(isinstance(error, SchedulerError) for _, error in summary.failures)
    assert "cannot be reached: [Errno 111] Connection refused" in str(summary.failures[0][1])
