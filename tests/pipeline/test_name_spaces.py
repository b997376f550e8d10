"""Server, scheduler, workers and client that share no network and no folder but what is meant."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from buckets import Bucket
from name_spaces import Network

import anamnesis

sys.path.insert(0, str(Path(__file__).parent))
from network_lab import client, cluster, model_bytes, server, written

pytest.importorskip("s3fs", reason="s3fs is not installed (extra test)")
pytest.importorskip("moto.server", reason="moto[server] is not installed (extra test)")


def test_nothing_passes_but_by_the_network(tmp_path: Path) -> None:
    data = model_bytes(40_000_000)
    (tmp_path / "model.safetensors").write_bytes(data)
    anamnesis.convert(
        tmp_path / "model.safetensors", tmp_path / "want", to="safetensors", max_shard_size="12MB"
    )
    try:
        made = Network(tmp_path / "spaces")
    except OSError as error:
        pytest.skip(f"may not make a network here: {error}")
    try:
        endpoint = server(made)
        bucket = Bucket(endpoint, "lab")
        bucket.put("in/model.safetensors", data)
        address = cluster(made, endpoint, 2)
        _, _, said = client(made, endpoint, address, "out", "12MB")
        assert said == ""
        found = {k.removeprefix("out/"): bucket.read(k) for k in bucket.objects() if "out/" in k}
        assert found == {path.name: path.read_bytes() for path in (tmp_path / "want").iterdir()}
        assert bucket.uploads() == []
        assert [written(process.pid) for process in made.processes[2:4]] == [0, 0]
    finally:
        made.close()
