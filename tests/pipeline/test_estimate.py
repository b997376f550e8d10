"""What `amn plan` says beforehand, against runs from a hub of known latency and bandwidth."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hub import MODEL, Hub, served

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.limits import MiB
from anamnesis.pipeline.estimate import Amounts, Assumed, amounts_of, estimate
from anamnesis.pipeline.fit import BASE_BYTES
from anamnesis.pipeline.plan import Spec, make_plan
from anamnesis.pipeline.reading import PROCESS_BYTES, THREAD_BYTES
from anamnesis.pipeline.requests import Requests
from anamnesis.readers.model import load_model

pytest.importorskip("aiohttp")
pytest.importorskip("huggingface_hub")
Amn = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with served(monkeypatch) as hub:
        yield hub


@pytest.fixture
def model(hub: Hub, write_safetensors: Callable[..., Path], tmp_path: Path) -> str:
    """The URL of 40 MiB of FP8."""
    codes = np.random.default_rng(3).integers(0, 120, 4 * MiB, np.uint8).tobytes()
    tensors = {}
    for number in range(10):
        tensors[f"layers.{number}.weight"] = ("F8_E4M3", (2048, 2048), codes)
        scale = np.float32(0.5).tobytes()
        tensors[f"layers.{number}.weight_scale"] = ("F32", (), scale)
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    config = {"quantization_config": {"quant_method": "fp8"}}
    hub.files = {
        "model.safetensors": path.read_bytes(),
        "config.json": json.dumps(config).encode(),
    }
    return f"hf://{MODEL}"


LINES = {
    "bandwidth decides": (0.02, 20e6, 512 * MiB),
    "latency decides": (0.4, 500e6, BASE_BYTES + PROCESS_BYTES + THREAD_BYTES + 10 * MiB),
}


@pytest.mark.parametrize("line", LINES)
def test_a_run_takes_about_as_long_as_was_said(
    line: str, model: str, hub: Hub, tmp_path: Path
) -> None:
    """Without what this process has imported already; a busy machine may take longer by far."""
    latency, bandwidth, memory = LINES[line]
    plan = make_plan(load_model(model), Spec(str(tmp_path / "o")), memory_bytes=memory, threads=1)
    amounts = amounts_of(plan)
    said = estimate(amounts, plan.threads, Assumed(0, bandwidth, latency))
    expected = said.seconds - said.parts["start"]
    anamnesis.remember(model, tmp_path / "warm", threads=1)
    hub.requests.clear()
    hub.latency, hub.bandwidth = latency, bandwidth
    begin = time.monotonic()
    anamnesis.remember(model, tmp_path / "out", threads=1, memory=memory)
    seconds = time.monotonic() - begin
    assert 0.6 * expected < seconds < 10 * expected
    assert said.parts["read"] > 4 * said.parts["decode"]
    assert abs(len(hub.requests) - said.gets) <= 8 + 0.3 * said.gets
    assert amounts.get_bytes == sum(tensor.stored_bytes for tensor in plan.model.tensors)


def test_more_workers_until_the_scheduler_decides() -> None:
    amounts = Amounts(
        out_bytes=140 * 10**9, tasks=2086, files=14, get_bytes=70 * 10**9, gets=17_000, opening=30
    )
    amounts = replace(amounts, at_a_time=16)
    line = Assumed(1, 125e6, 0.05)
    one = estimate(amounts, 1, line)
    waiting = 2086 * 0.05  # for the first bytes of each task
    assert one.seconds == pytest.approx(70e9 / 125e6 + waiting, rel=0.02)
    eight = estimate(amounts, 1, replace(line, workers=8))
    assert 7 < one.seconds / eight.seconds < 8
    many, more = (estimate(amounts, 1, replace(line, workers=n)).seconds for n in (1000, 2000))
    assert many == pytest.approx(more, rel=0.05)
    slow = estimate(replace(amounts, at_a_time=1), 1, replace(line, latency=1.0))
    assert slow.parts["read"] == pytest.approx(17_000)


def test_the_client_decides_where_it_joins_the_parts() -> None:
    """Eight at a time, three requests and two parts each, however many workers there are."""
    output = Requests(writes=1, joins=2114)
    amounts = Amounts(
        out_bytes=140 * 10**9, tasks=2086, files=14, put_bytes=140 * 10**9, output=output
    )
    amounts = replace(amounts, at_a_time=16, out_files=28)
    found = [estimate(amounts, 1, Assumed(n, 1.25e9, 0.05)).seconds for n in (64, 128)]
    assert found[0] == found[1]
    assert found[0] == pytest.approx(2114 * (0.15 + 16 * MiB / 1.25e9) / 8, rel=0.2)
    ending = replace(amounts, output=replace(output, ends=28 * 20))
    more = 28 * 20 * 0.05 / 4 + 20 * 0.05  # four files at a time, and the last by itself
    assert estimate(ending, 1, Assumed(64, 1.25e9, 0.05)).seconds == pytest.approx(found[0] + more)


def test_a_task_of_one_part_is_read_and_then_sent() -> None:
    """On a worker: nothing is sent before the first part is full. Of eight, one in eight is."""
    amounts = Amounts(out_bytes=80 * MiB, tasks=10, files=1, gets=20, get_bytes=80 * MiB)
    line = Assumed(1, 2e6, 0.0)
    alone = estimate(amounts, 1, line).seconds
    sent = replace(amounts, put_bytes=80 * MiB, output=Requests(writes=1, sends=10))
    assert estimate(sent, 1, line).seconds - alone == pytest.approx(80 * MiB / 2e6, rel=0.02)
    wide = replace(amounts, tasks=1, put_bytes=64 * MiB, get_bytes=64 * MiB)
    more = 72 * MiB / 2e6 - 80 * MiB / 2e6
    assert estimate(wide, 1, line).seconds - alone == pytest.approx(more, rel=0.02)
    here = replace(line, workers=0)  # where the next task's bytes come meanwhile
    assert estimate(sent, 1, here).seconds == pytest.approx(80 * MiB / 2e6, rel=0.05)


def test_parts_are_sent_two_at_a_time() -> None:
    """A line is full where two parts take longer than an answer; a task waits for its last."""
    tasks, parts = 2086, 14 * 596
    output = Requests(sends=parts, waits=2 * tasks)
    amounts = Amounts(out_bytes=70 * 10**9, tasks=tasks, files=14, put_bytes=70 * 10**9)
    amounts = replace(amounts, output=output, gets=1, get_bytes=1)
    slow = estimate(amounts, 1, Assumed(1, 125e6, 0.05))
    assert slow.parts["write"] == 70e9 / 125e6
    assert slow.parts["wait"] == pytest.approx(4 * tasks * 0.05)
    assert slow.seconds == pytest.approx(70e9 / 125e6 + 4 * tasks * 0.05, rel=0.02)
    fast = estimate(amounts, 1, Assumed(1, 1.25e9, 0.05))
    assert fast.parts["write"] == pytest.approx((parts * 0.05 + 70e9 / 1.25e9) / 2)


def test_parts_that_the_client_joins(model: str) -> None:
    """Those with a beginning or an end of a task in them, but for files' ends; none when packed."""
    spec = Spec("memory://bucket/o", max_shard_bytes=20_000_000)
    plan = make_plan(load_model(model), spec, memory_bytes=512 * MiB, threads=1)
    files = len(plan.layout.files)
    assert amounts_of(plan).output.joins == 2 * files  # the third part is short, and of one task
    spec = replace(spec, max_shard_bytes=10**9)
    whole = make_plan(load_model(model), spec, memory_bytes=512 * MiB, threads=1)
    assert amounts_of(whole).output.joins == len(whole.tasks)
    packed = replace(spec, path="memory://bucket/o.parquet", format="parquet")
    plan = make_plan(load_model(model), packed, memory_bytes=512 * MiB, threads=1)
    assert amounts_of(plan).output.joins == 0


def test_what_requests_cost() -> None:
    amounts = Amounts(out_bytes=1, tasks=1, files=1, gets=1_976, opening=4)
    amounts = replace(amounts, output=Requests(reads=20, writes=500))
    assert estimate(amounts, 1, Assumed()).cost is None
    with pytest.raises(UsageError, match="--price-source"):
        Assumed(price_get=0.0004)
    prices = Assumed(price_get=0.5, price_put=5.0, price_source="a price list, 2026")
    assert estimate(amounts, 1, prices).cost == pytest.approx(1 + 2.5)


def test_plan_has_the_fields_of_a_dry_run(amn: Amn, fp8_model: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"inputs: [{fp8_model}]\noutput: {{path: {tmp_path}/o}}\n")
    dry = json.loads(amn("run", job, "--dry-run", "--json").stdout)
    assert json.loads(amn("plan", job, "--json").stdout) == dry
    flags = ("--workers", 8, "--bandwidth", "1GB", "--latency", 5, "--set", "output.dtype=f32")
    prices = ("--price-get", 0.0004, "--price-source", "S3 Standard, us-east-1, 2026-11")
    found = json.loads(amn("plan", job, "--json", *flags, *prices).stdout)["plans"][0]
    assert found.keys() == dry["plans"][0].keys()
    assert found["out_bytes"] > 1.9 * dry["plans"][0]["out_bytes"]
    assert found["assumed"]["workers"] == 8
    assert found["assumed"]["latency"] == 0.005
    assert found["requests"] == {"get": 0, "put": 0}
    assert "expected" in amn("plan", job).stdout
    assert not (tmp_path / "o").exists()
    wrong = amn("plan", job, "--price-get", 1)
    assert wrong.returncode == 2
    assert "--price-source" in wrong.stderr


def test_the_plan_of_a_model_behind_a_url_says_its_requests(model: str, tmp_path: Path) -> None:
    from anamnesis.pipeline.explain import explain

    plan = make_plan(
        load_model(model), Spec(str(tmp_path / "o")), memory_bytes=512 * MiB, threads=2
    )
    assumed = Assumed(price_get=1.0, price_source="nobody")
    page = explain(plan, estimate(amounts_of(plan), 2, assumed), assumed)
    assert re.search(r"^requests \d\d to read, 0 to write$", page, re.MULTILINE)
    assert "most of it to read; 125 MB/s and 50 ms a line" in page
    assert "for requests (nobody)" in page
