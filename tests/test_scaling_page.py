"""docs/scaling.md says what docs/scaling.json says, and its arithmetic holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from clock import within

from benchmarks.scaling import page, whole
from benchmarks.scaling.overheads import plan_costs, shard_costs

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_is_made_from_the_figures() -> None:
    assert page.PAGE.read_text() == page.rewritten()


def test_a_projection_is_bounded_by_workers_or_by_the_scheduler() -> None:
    costs = replace(page.Costs.of(page.load()), start=0, plan=0, shard=0, task=0)
    out = 140e9
    assert costs.seconds(out, 1) == pytest.approx(140 * costs.gigabyte)
    few, many = int(costs.limit), 10 * int(costs.limit)
    assert costs.seconds(out, 1) == pytest.approx(few * costs.seconds(out, few))
    assert costs.limited(many)
    tasks = out / page.TASK_BYTES
    assert costs.seconds(out, many) == costs.seconds(out, 2 * many)
    assert costs.seconds(out, many) == pytest.approx(tasks * costs.wall)


def test_a_plan_of_many_tasks() -> None:
    """The figures of docs/scaling.json are of 100,000."""
    with within(2):
        found = plan_costs(2_000)
    assert found["tasks"] >= 2_000
    assert found["pickled_bytes"][1] < 2_000


def test_a_shard_costs_something(tmp_path: Path) -> None:
    assert shard_costs(3, 1, str(tmp_path))["disk"]["microseconds"][0] != 0


def test_a_model_without_holes(tmp_path: Path) -> None:
    found = whole.on_disk(1e-9, str(tmp_path), "190MiB")
    assert found["shards"] == 1
    assert found["out_bytes"] > 1.39 * found["stored_bytes"]
    assert list(tmp_path.iterdir()) == []
