"""What people write into job files by habit, and what they are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from anamnesis.errors import UsageError
from anamnesis.pipeline.config import load_job
from anamnesis.sizes import meant_size, parse_size

GOOD = "inputs: [a.gguf]\noutput: {path: o}\n"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (GOOD + "run: {memory: 4G}", "; did you mean 4GiB or 4GB?"),
        (GOOD + "run: {disk: 1.5 tb}", "; did you mean 1.5TiB or 1.5TB?"),
        (GOOD + "run: {memory: much}", "GB TB)"),
        ("inputs: [a.gguf]\noutput: {path: o, overwrite: yes}\n", "; did you mean true?"),
        (GOOD + "run: {keep_going: off}", "; did you mean false?"),
        (GOOD + "run: {executor: dask}", "; did you mean distributed?"),
        (GOOD + "run: {executor: dask-cluster}", "allowed: serial | threads | distributed | null"),
        ("inputs: [a.gguf]\noutput: o\n", "compression, bf16; write {path: 'o'}"),
        ("inputs: [a.gguf]\noutput: [o]\n", "compression, bf16"),
        ("inputs: a.gguf\noutput: {path: o}\n", "; write ['a.gguf']"),
        ("inputs: [a.gguf]\noutput:\n\tpath: o\n", "any token; lines are indented with blanks"),
    ],
)
def test_the_way_out_of_a_job_file(text: str, answer: str, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(text)
    with pytest.raises(UsageError) as told:
        load_job(job, [])
    assert str(told.value).endswith(answer)


@pytest.mark.parametrize("text", ["4G", "4g", "4 gb", "4Gb", "4GIB"])
def test_a_size_in_another_spelling_is_asked_for(text: str) -> None:
    assert meant_size(text) == "4GiB or 4GB"
    with pytest.raises(UsageError, match="did you mean 4GiB or 4GB"):
        parse_size(text)
    assert meant_size(f"{text}s") == meant_size("") == ""
