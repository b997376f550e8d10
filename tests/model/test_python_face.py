"""The functions as people call them: keywords, patterns, progress, notebooks, `dir`."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis import errors
from anamnesis.cli.main import cli
from anamnesis.errors import ArgumentError, UsageError
from anamnesis.pipeline.config import Job, job_from
from anamnesis.pipeline.keys import KEYS, flag
from anamnesis.pipeline.validate import require_key

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
FUNCTIONS = tuple("convert diff inspect open_model parse remember run scan stats verify".split())
MISSPELT = {"include": "inclde", "dtype": "dtyp", "scheduler": "schedular", "limits": "limit"}
MISSPELT |= {"against": "agains", "max_shard_size": "max_shard", "assume_unit_scale": "unit_scale"}
ATTENTION = "blk.*attn_k*"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_misspelt_keyword_names_the_nearest(name: str) -> None:
    function = getattr(anamnesis, name)
    known = inspect.signature(function).parameters
    tried = 0
    for right, wrong in MISSPELT.items():
        if right in known:
            said = rf"{name}\(\) has no keyword '{wrong}'; did you mean '{right}'\?"
            with pytest.raises(ArgumentError, match=said):
                function("a", **{wrong: 1})
            tried += 1
    assert tried
    with pytest.raises(TypeError, match="its keywords are "):
        function("a", xyzzy=1)
    with pytest.raises(ValueError, match="xyzzy"):
        function("a", xyzzy=1)


def test_a_misspelt_keyword_of_a_method_names_the_nearest(sample: Path) -> None:
    model, same = anamnesis.open_model(sample), anamnesis.diff(sample, sample)
    found, tensor = anamnesis.stats(sample, "output_norm*"), model["output_norm.weight"]
    for owner in (model, tensor, found, same):
        tried = 0
        for name in dir(type(owner)):
            method = getattr(type(owner), name)
            if name.startswith("_") or name == "get" or not inspect.isfunction(method):
                continue  # `get` is that of every mapping
            for key in list(inspect.signature(method).parameters)[1:]:
                with pytest.raises(ArgumentError, match=rf"{name}\(\) has no .*; .* '{key}'\?"):
                    getattr(owner, name)(**{key + "x": 1})
                tried += 1
        assert tried, owner
    with pytest.raises(ArgumentError, match=r"to_numpy\(\) has no .*'dtype'; it takes none"):
        tensor.to_numpy(dtype="f4")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_keyword_is_real_and_typed(name: str) -> None:
    function = getattr(anamnesis, name)
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
        assert parameter.annotation not in (inspect.Parameter.empty, "Any")
    assert inspect.signature(function).return_annotation not in (inspect.Signature.empty, "Any")


def test_every_keyword_of_a_conversion_is_in_its_documentation() -> None:
    told = set(re.findall(r"\w+", inspect.getdoc(anamnesis.remember) or ""))
    assert set(inspect.signature(anamnesis.remember).parameters) <= told


def test_a_setting_has_one_name_everywhere() -> None:
    """Keywords are the table's, its keys are the job file's, and each has a flag."""
    own = {"path", "out", "limits", "progress"}
    for function in (anamnesis.remember, anamnesis.convert):
        assert set(inspect.signature(function).parameters) == own | set(KEYS)
    for key in KEYS.values():
        require_key(Job, tuple(key.split(".")))
    sections = {key.partition(".")[0] for key in KEYS.values()}
    job = job_from(inputs=["a"], output={"path": "b"})
    every = {f"{s}.{k}" for s in sections for k in getattr(job, s).__struct_fields__}
    assert every - {"output.path"} == set(KEYS.values())
    flags = {opt for option in cli.commands["convert"].params for opt in option.opts}
    assert {flag(name) for name in KEYS} - flags == {"--executor", "--passthrough"}


def test_the_page_has_the_table_of_names() -> None:
    made = "".join(
        f"| `{name}` | `{key}` | {f'`{flag(name)}`' if has else ''} |\n"
        for name, key in KEYS.items()
        for has in [name not in ("executor", "passthrough")]
    )
    page = PAGE.read_text()
    shown = page.partition("<!-- names -->")[2].partition("<!-- /names -->")[0]
    assert shown == f"\n| keyword | job file | flag |\n|---|---|---|\n{made}"


def test_a_text_is_one_pattern(sample: Path, tmp_path: Path) -> None:
    """Not a list of letters, of which `*` fits everything."""
    one = ["blk.0.attn_k.weight"]

    def names(path: Path) -> list[str]:
        return list(anamnesis.open_model(path))

    assert [row.tensor for row in anamnesis.stats(sample, ATTENTION)] == one
    assert [row.tensor for row in anamnesis.diff(sample, sample, include=ATTENTION)] == one
    found = anamnesis.scan(sample, ATTENTION, columns="tensor").read_all()
    assert found["tensor"].unique().to_pylist() == one
    found = anamnesis.open_model(sample).scan(ATTENTION).read_all()
    assert found["tensor"].unique().to_pylist() == one
    out = tmp_path / "o.safetensors"
    for to_try in (
        lambda: anamnesis.remember(sample, out, include=ATTENTION, overwrite=True),
        lambda: anamnesis.convert(sample, out, to="safetensors", include=ATTENTION, overwrite=True),
        lambda: anamnesis.run(
            {"inputs": [sample], "output": {"path": out}, "select": {"include": ATTENTION}},
            set={"output.overwrite": True},
        ),
    ):
        out.unlink(missing_ok=True)
        to_try()
        assert names(out) == one
    rest = anamnesis.stats(sample, exclude="blk.*")
    assert [row.tensor for row in rest] == ["token_embd.weight", "output_norm.weight"]
    assert len(anamnesis.diff(sample, sample, exclude="blk.*").compared) == 2
    anamnesis.remember(sample, out, exclude="blk.*", overwrite=True)
    assert sorted(names(out)) == ["output_norm.weight", "token_embd.weight"]


def test_a_text_is_one_pattern_in_a_job_file(sample: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        f"inputs: ['{sample}']\noutput: {{path: '{tmp_path}/o.safetensors'}}\n"
        "select: {include: 'blk.*attn_k*'}\n"
    )
    (outcome,) = anamnesis.run(job)
    assert outcome.tensors == 1


def test_a_job_as_a_mapping_with_settings_on_top(sample: Path, tmp_path: Path) -> None:
    job = {"inputs": [sample], "output": {"path": tmp_path / "o.safetensors"}}
    (outcome,) = anamnesis.run(job, set={"output.dtype": "f32", "select.include": ATTENTION})
    assert outcome.out_bytes == 192 * 576 * 4
    with pytest.raises(UsageError, match=r"output\.dtyp: unknown key; did you mean output\.dtype"):
        anamnesis.run(job, set={"output.dtyp": "f32"})
    with pytest.raises(UsageError, match=r"output\.dtype: found 'f8'; allowed: bf16"):
        anamnesis.run(job, set=["output.dtype=f8"])
    assert job == {"inputs": [sample], "output": {"path": tmp_path / "o.safetensors"}}


def conversions(sample: Path, out: Path) -> list[Callable[..., Any]]:
    return [
        lambda **how: anamnesis.remember(sample, out, overwrite=True, **how),
        lambda **how: anamnesis.convert(sample, out, to="safetensors", overwrite=True, **how),
        lambda **how: anamnesis.run(
            {"inputs": [sample], "output": {"path": out, "overwrite": True}}, **how
        ),
        lambda **how: anamnesis.stats(sample, **how),
        lambda **how: anamnesis.diff(sample, sample, **how),
    ]


@pytest.mark.parametrize("number", range(5))
def test_progress_is_a_function_or_a_flag(
    number: int, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function = conversions(sample, tmp_path / "o.safetensors")[number]
    calls: list[tuple[int, int]] = []
    function(progress=lambda *call: calls.append(call))
    assert calls[0][0] == 0
    assert calls[-1][0] == calls[-1][1] > 0
    assert calls == sorted(calls)
    assert len({total for _, total in calls}) == 1
    function(progress=False)
    assert capsys.readouterr() == ("", "")
    function(progress=True)
    assert ("done" in capsys.readouterr().err) == (number < 3)  # what writes nothing is soon over
    with pytest.raises(UsageError, match="progress: found 3; allowed: True, False, or a function"):
        function(progress=3)


def test_what_progress_raises_ends_the_run(sample: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def told(done: int, total: int) -> None:
        if done:
            raise StopError

    for how in ({}, {"executor": "serial"}):
        with pytest.raises(StopError):
            anamnesis.remember(sample, tmp_path / "o.safetensors", progress=told, **how)
        assert list(tmp_path.iterdir()) == []


def test_the_package_as_people_look_at_it() -> None:
    code = (
        "import anamnesis; print(sorted(n for n in dir(anamnesis) if not n.startswith('_')));"
        "print(anamnesis.errors.LimitError.__name__, anamnesis.Limits().max_items)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = sorted([*FUNCTIONS, "Limits", "errors", "register_bfloat16"])
    assert done.stdout.splitlines() == [str(names), "LimitError 2000000"]
    classes = [n for n, c in vars(errors).items() if isinstance(c, type) and n.endswith("Error")]
    shown = [n for n in dir(errors) if not n.startswith("__")]
    assert shown == sorted(classes) == sorted(errors.__all__)
    code = "from anamnesis import *; print(remember.__name__, errors.FormatError.exit_code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "remember 3\n"


def test_help_on_the_package_names_what_people_call() -> None:
    told = set(re.findall(r"\w+", anamnesis.__doc__ or ""))
    assert set(anamnesis.__all__) <= told


def test_a_script_that_takes_everything_runs(sample: Path, tmp_path: Path) -> None:
    """Its types are looked at by `make typecheck`. In a process of its own: it registers a type."""
    command = [sys.executable, Path(__file__).parents[1] / "user_script.py", sample, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("KeyError \"no tensor 'no such")
    assert {"a.safetensors", "a.arrow", "b", "stats.csv"} <= {p.name for p in tmp_path.iterdir()}


@pytest.fixture
def evil(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    name = "<script>alert(1)</script>\x1b[2J"
    entries = {name: ("F32", (2, 3), bytes(24)), "w": ("F32", (4,), bytes(16))}
    return write_safetensors(tmp_path / "evil.safetensors", entries)


def test_notebooks_get_tables(sample: Path, evil: Path, tmp_path: Path) -> None:
    for path in (sample, evil):
        for found in (
            anamnesis.inspect(path),
            anamnesis.stats(path),
            anamnesis.diff(path, path),
            anamnesis.remember(path, tmp_path / f"{path.stem}-out"),
        ):
            text = found._repr_html_()
            assert text.count("<table>") == text.count("</table>") == 1
            assert path.stem in text
            assert "<script>" not in text
            assert "\x1b" not in text
    assert "31.5" not in anamnesis.diff(sample, sample)._repr_html_()
    assert "no error" in anamnesis.diff(sample, sample)._repr_html_()


def test_notes_reach_python(sample: Path, tmp_path: Path) -> None:
    outcome = anamnesis.remember(sample, tmp_path / "o.safetensors")
    assert "names are those of the GGUF" in outcome.notes[0]
    assert outcome.notes[0][:20] in outcome._repr_html_()


def test_a_picture_without_a_path_is_shown(sample: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = anamnesis.diff(sample, sample)
    drawing = found.plot()
    assert drawing._repr_svg_() == drawing.svg
    assert drawing.svg.startswith("<svg")
    assert drawing.png[:8] == b"\x89PNG\r\n\x1a\n"
    again = found.plot(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text() == again.svg == drawing.svg


@pytest.mark.parametrize("name", ["torch.bfloat16", "float32", "float16"])
def test_a_dtype_of_a_library_is_told_the_nearest(name: str, sample: Path, tmp_path: Path) -> None:
    import numpy as np

    class Torch:
        itemsize = 2

        def __repr__(self) -> str:
            return name

    given: list[Any] = [Torch()]
    if "." not in name:
        given = [getattr(np, name), np.dtype(name)]
    short = {"torch.bfloat16": "bf16", "float32": "f32", "float16": "f16"}[name]
    for dtype in given:
        with pytest.raises(UsageError, match=rf"output\.dtype: found .* did you mean {short}\?"):
            anamnesis.remember(sample, tmp_path / "o.safetensors", dtype=dtype)


def test_limits_may_be_a_mapping(sample: Path) -> None:
    with pytest.raises(anamnesis.errors.LimitError, match="max_items"):
        anamnesis.stats(sample, limits={"max_items": 1})
    said = r"Limits\(\) has no keyword 'max_item'; did you mean 'max_items'"
    with pytest.raises(ArgumentError, match=said):
        anamnesis.open_model(sample, limits={"max_item": 1})
    with pytest.raises(ArgumentError, match=said):
        anamnesis.Limits(max_item=1)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"limits: found 3; allowed: Limits"):
        anamnesis.inspect(sample, limits=3)  # type: ignore[arg-type]


def test_a_tensor_that_is_not_there_names_the_nearest(sample: Path) -> None:
    for found in (
        anamnesis.open_model(sample),
        anamnesis.stats(sample),
        anamnesis.diff(sample, sample),
    ):
        with pytest.raises(
            KeyError, match=r"no tensor 'attn_k'; there is 'blk\.0\.attn_k\.weight'"
        ):
            found["attn_k"]
        with pytest.raises(KeyError, match=r"there is 'blk\.0\.attn_k\.weight'"):
            found["blk.0.attn_k.weights"]


def test_a_report_is_short(sample: Path) -> None:
    """Also of a model with a vocabulary in its metadata."""
    text = repr(anamnesis.inspect(sample))
    assert text.startswith(f"<Report {sample}: gguf, 11 tensors, ")
    assert len(text.splitlines()) == 4
    assert "gguf-q4-1" in text


def test_tables_are_frames(sample: Path) -> None:
    pytest.importorskip("pandas")
    for table in (anamnesis.stats(sample), anamnesis.diff(sample, sample), anamnesis.parse(sample)):
        assert len(table.to_pandas()) == 11


@pytest.mark.parametrize(
    ("name", "near"),
    [("load", "open_model"), ("from_pretrained", "open_model"), ("quantize", "convert")],
)
def test_a_function_of_another_library_leads_to_ours(name: str, near: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; did you mean '{near}'"):
        getattr(anamnesis, name)
    assert not hasattr(anamnesis, "_repr_")
