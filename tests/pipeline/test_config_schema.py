"""The schema of job files: it accepts and refuses what the parser does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from job_files import FULL, SMALL, message

from anamnesis.pipeline.config import job_from, load_job, schema


def test_the_file_systems_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_job(tmp_path / "none.yaml")
    with pytest.raises(IsADirectoryError):
        load_job(tmp_path)


VALID = [
    SMALL,
    FULL,
    SMALL + "run: {memory: 1.5GiB, threads: 3}",
    SMALL + "limits: {max_total_bytes: 12}",
]


INVALID = [
    "inputs: [a]",
    "inputs: []\noutput: {path: o}",
    SMALL + "zzz: 1",
    SMALL + "run: {thread: 1}",
    SMALL + "run: {threads: 0}",
    SMALL + "run: {memory: 5gb}",
    SMALL + "run: {memory: 0}",
    SMALL + "numbers: {rounding: 3}",
    "inputs: ['']\noutput: {path: o}",
]


def test_the_schema_is_json_and_explains_every_key() -> None:
    whole = json.loads(json.dumps(schema()))
    assert whole["required"] == ["inputs", "output"]
    for part in (whole, *whole["$defs"].values()):
        assert part["description"]
        assert part["additionalProperties"] is False
        for name, key in part["properties"].items():
            assert "$ref" in key or "$ref" in str(key.get("allOf")) or key["description"], name


def test_the_schemas_size_pattern_is_the_parsers() -> None:
    pattern = schema()["$defs"]["Run"]["properties"]["memory"]["anyOf"][1]["pattern"]
    for text in ("5GB", "1.5 KiB", "12"):
        assert re.search(pattern, text)
    for text in ("5gb", "GB", "5GBx", "x5GB", "-5"):
        assert not re.search(pattern, text)


@pytest.mark.parametrize("text", VALID)
def test_the_schema_accepts_what_loads(job_file: Any, text: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from anamnesis.pipeline.yaml_strict import parse

    load_job(job_file(text)).resolve()
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(parse(text, "job").data)


@pytest.mark.parametrize("text", INVALID)
def test_the_schema_refuses_what_does_not(job_file: Any, text: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from anamnesis.pipeline.yaml_strict import parse

    message(job_file, text)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema()).validate(parse(text, "job").data)


def test_defaults_satisfy_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    job = job_from(inputs=["a"], output={"path": "o"})
    jsonschema.Draft202012Validator(schema()).validate(
        json.loads(msgspec.json.encode(job)),
    )
