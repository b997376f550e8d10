"""The job file: every key, every default, and errors that say where and what was meant."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from job_files import FULL, SMALL, message

from anamnesis.errors import LimitError, UsageError
from anamnesis.limits import GiB, Limits, MiB
from anamnesis.pipeline import config, sections
from anamnesis.pipeline.config import Job, Output, Run, job_from, load_job, schema
from anamnesis.sizes import parse_size


def test_every_key_reads(job_file: Any) -> None:
    settings = load_job(job_file(FULL)).resolve()
    assert settings.inputs == ("models/llama-fp8",)
    assert settings.path == "out/llama-bf16"
    assert settings.passthrough == "keep"
    assert settings.limits == Limits()


def test_defaults_are_those_of_the_example(job_file: Any) -> None:
    short = load_job(job_file("inputs: [models/llama-fp8]\noutput: {path: out/llama-bf16}"))
    assert short.resolve() == load_job(job_file(FULL)).resolve()


def test_sizes_resolve_to_bytes(job_file: Any) -> None:
    job = load_job(
        job_file(
            SMALL + "run: {memory: 256MiB}\nlimits: {max_total_bytes: 1GiB, max_single_alloc: 99}"
        ),
        ["output.max_shard_size=64KiB"],
    )
    settings = job.resolve()
    assert settings.memory_bytes == 256 * MiB
    assert settings.max_shard_bytes == 65_536
    assert settings.limits == Limits(max_total_bytes=GiB, max_single_alloc=99)


@pytest.mark.parametrize(
    ("output", "passthrough", "meant"),
    [
        ({}, None, ("bf16", "keep")),
        ({"dtype": "f32"}, None, ("f32", "f32")),
        ({"dtype": "bf16"}, None, ("bf16", "bf16")),
        ({"dtype": "f32"}, "keep", ("f32", "keep")),
        ({"dtype": "f32"}, "f16", ("f32", "f16")),
        ({}, "bf16", ("bf16", "bf16")),
        ({"format": "arrow"}, None, ("bf16", "keep")),
        ({"format": "arrow", "dtype": "f32"}, None, ("f32", "f32")),
    ],
)
def test_dtype_and_passthrough(
    output: dict[str, str], passthrough: str | None, meant: tuple[str, str]
) -> None:
    job = job_from(
        inputs=["a"], output={"path": "o", **output}, numbers={"passthrough": passthrough}
    )
    settings = job.resolve()
    assert (settings.dtype, settings.passthrough) == meant


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(**run: Any) -> int:
        return job_from(inputs=["a"], output={"path": "o"}, run=run).resolve().threads

    monkeypatch.setattr(sections, "available_cpus", lambda: 7)
    assert threads() == 7
    assert threads(threads=3) == 3
    assert threads(executor="serial") == 1
    with pytest.raises(UsageError, match=r"run\.threads: the serial executor uses 1, found 3"):
        threads(executor="serial", threads=3)


def test_available_cpus_are_those_of_this_process() -> None:
    affinity = getattr(os, "sched_getaffinity", None)
    most = len(affinity(0)) if affinity else os.cpu_count() or 1
    assert 1 <= sections.available_cpus() <= most


def test_a_scheduler_brings_the_executor_that_uses_it() -> None:
    def executor(**run: Any) -> str:
        return job_from(inputs=["a"], output={"path": "o"}, run=run).resolve().executor

    address = {"scheduler": "tcp://host:8786"}
    assert executor() == "threads"
    assert executor(**address) == executor(**address, executor="distributed") == "distributed"
    with pytest.raises(UsageError, match=r"run\.scheduler: is for .*, found serial; leave one"):
        executor(**address, executor="serial")


def test_values_pass_between_processes() -> None:
    job = job_from(inputs=["a"], output={"path": "o"})
    assert pickle.loads(pickle.dumps(job)) == job
    settings = job.resolve()
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(AttributeError):
        settings.path = "elsewhere"  # type: ignore[misc]


def test_python_values() -> None:
    job = job_from(inputs=[Path("a/b")], output=Output(path="o"), run=Run(threads=2))
    assert job == Job(inputs=("a/b",), output=Output(path="o"), run=Run(threads=2))
    with pytest.raises(UsageError, match=r"^outptu: unknown key; did you mean output\?$"):
        job_from(inputs=["a"], outptu={})
    with pytest.raises(UsageError, match=r"^inputs\[1\]: found b'a'; allowed: text"):
        job_from(inputs=["a", b"a"], output={"path": "o"})
    with pytest.raises(UsageError, match="of type object; allowed: plain data"):
        job_from(inputs=[object()], output={"path": "o"})


def test_a_constructor_checks_nothing_but_resolve_does() -> None:
    with pytest.raises(UsageError, match=r"output\.format: found 'zip'; allowed: safetensors"):
        Job(inputs=("a",), output=Output(path="o", format="zip")).resolve()  # type: ignore[arg-type]


def test_choices_are_the_rows_of_the_tables() -> None:
    from anamnesis.pipeline.executors import EXECUTORS
    from anamnesis.writers import WRITERS

    defs = schema()["$defs"]
    formats = defs["Output"]["properties"]["format"]["anyOf"][0]["enum"]
    assert sorted(formats) == sorted(WRITERS)
    executors = defs["Run"]["properties"]["executor"]["anyOf"][0]["enum"]
    assert sorted(executors) == sorted(EXECUTORS)
    dtypes = {dtype for row in WRITERS.values() for dtype in row.dtypes}
    assert set(get_args(config.Dtype)) == dtypes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (1, 1),
        ("1", 1),
        ("17B", 17),
        ("512MiB", 512 << 20),
        ("256KiB", 256 << 10),
        ("3GiB", 3 << 30),
        ("2TiB", 2 << 40),
        ("5GB", 5_000_000_000),
        ("5 GB", 5_000_000_000),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1MB", 1_000_000),
        ("2TB", 2_000_000_000_000),
        ("1.5GiB", 3 << 29),
        ("0.001kB", 1),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_sizes(text: int | str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5gb",
        "5Gb",
        "5G",
        "5GiBs",
        "GB",
        "-5GB",
        "5  GB",
        "5GB\n",
        "1e9",
        "0x10",
        "٣GB",
        "5,5GB",
        ".5GB",
        "5.GB",
        "0",
        "0GB",
        "1.5B",
        "0.0001kB",
        0,
        -1,
        2**63,
        "9" * 19 + "TiB",
        "9" * 99,
        1.0,
        True,
        None,
    ],
)
def test_sizes_that_cannot_be_meant(text: Any) -> None:
    with pytest.raises(UsageError, match="allowed: whole bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "output2: {}",
            "job.yaml:3:1: output2: unknown key; did you mean output?",
        ),
        (
            "run:\n  thread: 4",
            "job.yaml:4:3: run.thread: unknown key; did you mean run.threads?",
        ),
        ("dtype: f32", "job.yaml:3:1: dtype: unknown key; did you mean output.dtype?"),
        ("thread: 4", "job.yaml:3:1: thread: unknown key; did you mean run.threads?"),
        (
            "zzz: 1",
            "job.yaml:3:1: zzz: unknown key; "
            "the keys here are inputs, output, select, numbers, run, limits, allow",
        ),
        (
            "run: {threads: 0}",
            "job.yaml:3:7: run.threads: found 0; allowed: auto | a whole number from 1 to 1024",
        ),
        (
            "run: {threads: many}",
            "job.yaml:3:7: run.threads: found 'many'; "
            "allowed: auto | a whole number from 1 to 1024",
        ),
        (
            "numbers: {rounding: exakt}",
            "job.yaml:3:11: numbers.rounding: found 'exakt'; allowed: exact | reference; "
            "did you mean exact?",
        ),
        (
            "numbers: {passthrough: BF16}",
            "job.yaml:3:11: numbers.passthrough: found 'BF16'; "
            "allowed: keep | bf16 | f16 | f32 | null; did you mean bf16?",
        ),
        (
            "numbers: {assume_unit_scale: 1}",
            "job.yaml:3:11: numbers.assume_unit_scale: found 1; allowed: true | false",
        ),
        (
            "limits: {max_items: 2e6}",
            "job.yaml:3:10: limits.max_items: found 2000000.0; allowed: a whole number, 1 or more",
        ),
        (
            "limits: {max_expansion_ratio: 0}",
            "job.yaml:3:10: limits.max_expansion_ratio: found 0; "
            "allowed: a whole number, 1 or more",
        ),
        (
            "limits: {max_total_bytes: 3PB}",
            "job.yaml:3:10: limits.max_total_bytes: found '3PB'; allowed: whole bytes (1048576), "
            "binary (512MiB: KiB MiB GiB TiB) or decimal (5GB: kB MB GB TB) | null",
        ),
        (
            "run: {memory: 0.5B}",
            "job.yaml:3:7: run.memory: found '0.5B'; allowed: whole bytes from 1 to 2**63 - 1",
        ),
        (
            "run:",
            "job.yaml:3:1: run: found null; "
            "allowed: a mapping with the keys executor, threads, memory, disk, staging, scheduler, "
            "keep_going",
        ),
        (
            "select:\n  include:\n    - ok\n    - 3",
            "job.yaml:6:7: select.include[1]: found 3; allowed: text, at least one character; "
            "quote it to mean text",
        ),
        (
            "select: {include: 3}",
            "job.yaml:3:10: select.include: found 3; allowed: a pattern, or a list of them",
        ),
        (
            'select: {include: ["a\\0b"]}',
            "job.yaml:3:20: select.include[0]: found 'a\\x00b'; "
            "allowed: text, at least one character",
        ),
    ],
)
def test_errors_name_the_place_and_what_is_allowed(job_file: Any, text: str, expected: str) -> None:
    assert message(job_file, SMALL + text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "job.yaml: inputs: required, and missing"),
        ("inputs: [a]", "job.yaml: output: required, and missing"),
        ("inputs: [a]\noutput: {dtype: f32}", "job.yaml:2:1: output.path: required, and missing"),
        (
            "inputs: []\noutput: {path: o}",
            "job.yaml:1:1: inputs: found an empty list; allowed: a list of text, at least one item",
        ),
        (
            "inputs: a.gguf\noutput: {path: o}",
            "job.yaml:1:1: inputs: found 'a.gguf'; "
            "allowed: a list of text, at least one item; write ['a.gguf']",
        ),
        (
            "[a]",
            "job.yaml: found a list; allowed: a mapping with the keys "
            "inputs, output, select, numbers, run, limits, allow",
        ),
    ],
)
def test_what_is_required(job_file: Any, text: str, expected: str) -> None:
    assert message(job_file, text) == expected


def test_a_long_value_is_cut(job_file: Any) -> None:
    said = message(job_file, SMALL + f"run: {{memory: {'x' * 5000}}}")
    assert "(5,002 characters)" in said
    assert len(said) < 300


def test_overrides_win_in_order(job_file: Any) -> None:
    path = job_file(SMALL + "run: {threads: 2}")
    overrides = ["output.dtype=f32", "run.threads=4", "run.threads=5", "inputs=[x, y]"]
    job = load_job(path, [*overrides, "select.exclude=['*.bias']", "run.memory=1GiB"])
    assert job.inputs == ("x", "y")
    assert job.output == Output(path="o", dtype="f32")
    assert job.run == Run(threads=5, memory="1GiB")
    assert job.select.exclude == ("*.bias",)


def test_an_override_of_a_section_replaces_it(job_file: Any) -> None:
    path = job_file(SMALL + "run: {threads: 2, memory: 1GiB}")
    assert load_job(path, ["run={threads: 3}"]).run == Run(threads=3)


def test_an_override_may_mend_the_file(job_file: Any) -> None:
    assert load_job(job_file("inputs: [a]"), ["output.path=o"]).output.path == "o"
    assert load_job(job_file(""), ["output.path=o=p", "inputs=[a]"]).output.path == "o=p"
    assert load_job(job_file("inputs: [a]\noutput: {path: 3}"), ["output.path=null#"]).output == (
        Output(path="null#")
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.thread=4", "--set: run.thread: unknown key; did you mean run.threads?"),
        ("dtype=f32", "--set: dtype: unknown key; did you mean output.dtype?"),
        ("inputs.0=a", "--set: inputs.0: unknown key"),
        ("run..x=1", "--set: run.''.x: unknown key; the keys here are"),
        ("run={thread: 1}", "--set: run.thread: unknown key; did you mean run.threads?"),
        ("run.threads=none", "--set: run.threads: found 'none'; allowed: auto |"),
        ("output.path=2024", "--set: output.path: found 2024; allowed: text"),
        ("output.path=", "--set: output.path: found null; allowed: text"),
        ("output=x", "--set: output: found 'x'; allowed: a mapping"),
        ("run.threads", "--set 'run.threads': allowed: KEY=VALUE"),
        ("=4", "--set '=4': allowed: KEY=VALUE"),
        ("run.threads=[", "--set run.threads:1:2: while parsing a flow node"),
        ("run.threads=&a 4", "--set run.threads:1:1: anchor 'a' is not allowed"),
    ],
)
def test_wrong_overrides(job_file: Any, override: str, expected: str) -> None:
    assert message(job_file, SMALL, override).startswith(expected)


def test_an_override_below_a_value_that_is_no_section(job_file: Any) -> None:
    said = message(job_file, "inputs: [a]\noutput: {path: o}\nrun: 3", "run.threads=4")
    assert said == "job.yaml:3:1: run: found 3; allowed: a mapping"


def test_the_file_is_not_too_big(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(SMALL.encode().ljust((1 << 20), b" "))
    assert load_job(path).inputs == ("a",)
    path.write_bytes(SMALL.encode().ljust((1 << 20) + 5, b" "))
    with pytest.raises(LimitError, match="at most 1,048,576 bytes") as caught:
        load_job(path)
    assert (caught.value.need, caught.value.have) == ((1 << 20) + 5, 1 << 20)


def test_the_file_is_utf8(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + "inputs: [é]\noutput: {path: o}".encode())
    assert load_job(path).inputs == ("é",)
    path.write_bytes(b"inputs: [a]\noutput: {path: \xe9}")
    with pytest.raises(UsageError, match=r"job\.yaml:2:16: not UTF-8: byte 0xe9"):
        load_job(path)
    path.write_bytes(SMALL.encode("utf-16"))
    with pytest.raises(UsageError, match="not UTF-8"):
        load_job(path)


def test_importing_stays_cheap() -> None:
    heavy = "{'yaml', 'rich', 'numpy', 'pyarrow', 'numba', 'dask', 'fractions'}"
    code = f"import sys, anamnesis.pipeline.config; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
