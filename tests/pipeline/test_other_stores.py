"""`gs://` by the generic path, against an emulator of Google Cloud Storage in a process of its own.

Skipped unless `gcsfs` and `gcp-storage-emulator` are installed, which no extra brings.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import free_port

sys.path.insert(0, str(Path(__file__).parent))
from network_lab import model_bytes

# The emulator serves one connection after the other, of which a driver keeps several open. It cuts
# a byte off a body that ends as a line does, which a run finds and refuses; here none does.
_SERVER = """
import http.server, sys, time
import gcp_storage_emulator.server as emulator
emulator.server.HTTPServer = http.server.ThreadingHTTPServer
emulator.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="b").start()
time.sleep(600)
"""
_RUN = """
import sys, fsspec, anamnesis
from fsspec.config import conf
endpoint, model, want = sys.argv[1:]
conf["gs"] = {"token": "anon", "project": "test", "endpoint_url": endpoint}
for name, settings in (("out", {"to": "hf", "max_shard_size": "12MB"}),
        ("o.parquet", {"to": "parquet"})):
    anamnesis.convert(model, f"{want}/{name}", **settings)
    anamnesis.convert(model, f"gs://b/{name}", **settings)
    assert anamnesis.verify(f"gs://b/{name}") == anamnesis.verify(f"{want}/{name}")
store = fsspec.filesystem("gs")
store.invalidate_cache()
for path in store.find("b"):
    name = path.removeprefix("b/")
    assert "anamnesis.lock" not in name and ".part" not in name, name
    if "anamnesis" not in name:
        assert store.cat_file(path) == open(f"{want}/{name}", "rb").read(), name
"""


@pytest.fixture
def endpoint() -> Iterator[str]:
    for package in ("gcsfs", "gcp_storage_emulator"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    url, quiet = f"http://127.0.0.1:{free_port()}", subprocess.DEVNULL
    command = [sys.executable, "-c", _SERVER, url.rpartition(":")[2]]
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except urllib.error.HTTPError as error:
                error.close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def test_google_cloud_storage(endpoint: str, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(model_bytes(20_000_000))
    (tmp_path / "want").mkdir()
    known = {"STORAGE_EMULATOR_HOST": endpoint, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, endpoint, str(model), str(tmp_path / "want")],
        env={**os.environ, **known},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
