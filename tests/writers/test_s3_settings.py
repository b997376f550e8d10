"""How the client that writes to S3 is made: as fsspec's configuration has it for reading."""

from __future__ import annotations

import pytest

from anamnesis.writers.s3 import CONNECTIONS, S3

pytest.importorskip("botocore", reason="botocore is not installed (extra test)")


def test_the_settings_of_connections_are_those_for_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that wants its buckets in the host's name, or the path, is told so once."""
    from fsspec.config import conf

    own = {"s3": {"addressing_style": "virtual"}, "read_timeout": 7}
    settings = {"config_kwargs": own, "client_kwargs": {"region_name": "eu-north-1"}}
    monkeypatch.setitem(conf, "s3", {**settings, "endpoint_url": "http://store.example/base"})
    meta = S3("s3://b")._client.meta
    assert meta.config.s3["addressing_style"] == "virtual"
    assert (meta.config.read_timeout, meta.config.max_pool_connections) == (7, CONNECTIONS)
    assert (meta.region_name, meta.endpoint_url) == ("eu-north-1", "http://store.example/base")
