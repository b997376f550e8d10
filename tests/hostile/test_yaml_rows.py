"""Job files that would run code, never end, or mean something else than they say (rows Y01-Y04)."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anamnesis.errors import AnamnesisError, LimitError, SecurityError, UsageError
from anamnesis.pipeline import yaml_strict
from anamnesis.pipeline.config import load_job
from anamnesis.pipeline.yaml_strict import parse

SMALL = "inputs: [a]\noutput: {path: o}\n"


def refused(text: str, error: type[AnamnesisError] = UsageError) -> str:
    with pytest.raises(error) as caught:
        parse(text, "job.yaml")
    said = str(caught.value)
    assert type(caught.value) is error
    assert said.startswith("job.yaml")
    assert said.isprintable()
    assert len(said) < 500
    return said


# --- Y01: tags


@pytest.mark.parametrize(
    "text",
    [
        "run: !!python/object/apply:os.system ['touch OWNED']",
        "run: !!python/object/new:os.system ['touch OWNED']",
        "run: !!python/object:builtins.object {}",
        "run: !!python/name:os.system",
        "run: !!python/name:os.system ''",
        "run: !!python/module:os",
        "run: !!python/tuple [1, 2]",
        "run: !!python/%6fbject/apply:os.system ['touch OWNED']",
        "run: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch OWNED']",
        "%TAG !p! tag:yaml.org,2002:python/\n---\nrun: !p!object/apply:os.system ['touch OWNED']",
        "%TAG ! tag:yaml.org,2002:python/\n---\nrun: !object/apply:os.system ['touch OWNED']",
        "run: !python/object/apply:os.system ['touch OWNED']",
        "!!python/object/apply:os.system ['touch OWNED']",
        "!!python/object/apply:os.system ['touch OWNED']: 1",
        "inputs: [!!python/object/apply:os.system ['touch OWNED']]",
    ],
)
def test_y01_python_tags(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "python/" in refused(text, SecurityError)
    assert not list(tmp_path.iterdir())


def test_y01_says_where(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SMALL + "run:\n  threads: !!python/name:os.system\n")
    with pytest.raises(SecurityError, match=r"job\.yaml:4:12: run\.threads: the tag 'tag:yaml"):
        load_job(path)
    path.write_text(SMALL)
    with pytest.raises(SecurityError, match=r"^--set run\.threads:1:1: the tag 'tag:yaml"):
        load_job(path, ["run.threads=!!python/name:os.system"])


@pytest.mark.parametrize(
    "tag", ["!foo", "!!str", "!!int", "!!binary", "!!set", "!", "!!ruby/object:X", "!<x>"]
)
def test_y01_other_tags(tag: str) -> None:
    said = refused(f"run: {{threads: {tag} 4}}")
    assert said.startswith("job.yaml:1:16: run.threads: tag ")
    assert refused(f"{tag} a: 1").endswith("quote a value to make it text")


# --- Y02: aliases


def bomb(levels: int = 9) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join(lines)


def test_y02_alias_bomb() -> None:
    said = refused(bomb())
    assert said.startswith("job.yaml:1:5: a0: anchor 'a0' is not allowed")
    assert len(bomb()) < 1000


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("run: {threads: *x}", "1:16: run.threads: alias 'x'"),
        ("inputs: [a, *x]", "1:13: inputs[1]: alias 'x'"),
        ("*x : 1", "1:1: alias 'x'"),
        ("run: &x {threads: 4}", "1:6: run: anchor 'x'"),
        ("? &x run\n: 4", "1:3: anchor 'x'"),
        ("&x run: 4", "1:1: anchor 'x'"),
        ("base: &b {a: 1}\nrun: {<<: *b}", "1:7: base: anchor 'b'"),
        ("&x [*x]", "1:1: anchor 'x'"),  # a cycle
    ],
)
def test_y02_aliases_and_anchors(text: str, where: str) -> None:
    assert refused(text).startswith(f"job.yaml:{where} is not allowed; write the value out")


def test_y02_node_budget() -> None:
    with pytest.raises(LimitError, match="holds over 20,000 values") as caught:
        parse("inputs: [" + "a," * 20_001 + "]", "job.yaml")
    assert caught.value.have == yaml_strict.MAX_NODES
    assert len(parse("inputs: [" + "a," * 10_000 + "]", "job.yaml").data["inputs"]) == 10_000


# --- Y03: structure and scalars


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: 1\nb: 2\na: 3", "3:1: a: duplicate key; the first is at job.yaml:1:1"),
        ("run: {threads: 1, 'threads': 2}", "1:19: run.threads: duplicate key; the first is"),
        ("- {a: 1, a: 2}", "1:10: [0].a: duplicate key; the first is at job.yaml:1:4"),
    ],
)
def test_y03_duplicate_keys(text: str, where: str) -> None:
    assert refused(text).startswith(f"job.yaml:{where}")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 5_000 + "]" * 5_000,
        "{a: " * 5_000 + "}" * 5_000,
        "- " * 50_000,
        "".join(f"{' ' * n}a:\n" for n in range(1_000)),
    ],
)
def test_y03_deep_nesting(text: str) -> None:
    assert "nested over 16 levels deep" in refused(text)


@pytest.mark.parametrize("text", ["{" * 100_000, "? " * 50_000, "[a]: 1", "{a: 1}: 2", "? - a"])
def test_y03_keys_are_text(text: str) -> None:
    assert "a key must be text" in refused(text)


@pytest.mark.parametrize("number", ["9" * 100_000, "-" + "1" * 41, "1." + "0" * 100_000])
def test_y03_long_numbers(number: str) -> None:
    said = refused(f"limits: {{max_items: {number}}}")
    assert said.startswith("job.yaml:1:21: limits.max_items: a number of ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("0", 0),
        ("-12", -12),
        ("+7", 7),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("1e3", 1000.0),
        ("-.inf", -math.inf),
        # YAML 1.1, and so PyYAML, reads these as false, 8, 90, 1000, a date, and so on.
        ("NO", "NO"),
        ("no", "no"),
        ("off", "off"),
        ("y", "y"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("0o10", "0o10"),
        ("0b1", "0b1"),
        ("2024-01-01", "2024-01-01"),
        ("tRUE", "tRUE"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("=", "="),
        ("<<", "<<"),
        ("'1'", "1"),
        ('"null"', "null"),
        ("''", ""),
        ("|\n  1", "1"),
    ],
)
def test_y03_scalars(text: str, value: Any) -> None:
    found = parse(f"a: {text}", "job.yaml").data["a"]
    assert (found, type(found)) == (value, type(value))


def test_y03_nan() -> None:
    assert math.isnan(parse(".nan", "job.yaml").data)


def test_y03_keys_keep_their_text() -> None:
    text = "{NO: 1, 1: 2, null: 3, <<: {a: 1}}"
    assert parse(text, "job.yaml").data == {"NO": 1, "1": 2, "null": 3, "<<": {"a": 1}}


def test_y03_surprises_in_a_job(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("inputs: [NO, 010, 1:30]\noutput: {path: off}")
    job = load_job(path)
    assert job.inputs == ("NO", "010", "1:30")
    assert job.output.path == "off"
    for text, said in [
        ("run: {threads: 010}", r"run\.threads: found '010'; allowed: auto \| a whole number"),
        ("run: {threads: 1:30}", r"run\.threads: found '1:30'; allowed: auto"),
        ("run: {threads: 4.0}", r"run\.threads: found 4\.0; allowed: auto"),
        ("run: {threads: true}", r"run\.threads: found true; allowed: auto"),
        ("limits: {max_items: 1_000}", r"limits\.max_items: found '1_000'; allowed: a whole"),
        ("select: {include: [1.10]}", r"include\[0\]: found 1\.1; allowed: text.*; quote it"),
        ("select: {include: [~]}", r"include\[0\]: found null; allowed: text"),
    ]:
        path.write_text(SMALL + text)
        with pytest.raises(UsageError, match=said):
            load_job(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "1:6: while parsing a flow sequence"),
        ("run:\n\tthreads: 4", "2:1: while scanning for the next token, found character '\\t'"),
        ("a: b: c", "1:5: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "2:1: expected a single document"),
        ("a: \x07", "1:4: the character '\\x07' is not allowed"),
        ("a: 1\nb: \x1b[31m", "2:4: the character '\\x1b' is not allowed"),
        ('a: "\\ud800"', "1:4: a: half of a surrogate pair is not text"),
        ("a: \ud800", "1:4: the character '\\ud800' is not allowed"),
        ("%YAML 2.0\n---\na: 1", "1:1: found incompatible YAML document"),
        ("a: !x!y z", "1:4: while parsing a node, found undefined tag handle"),
    ],
)
def test_y03_not_yaml(text: str, said: str) -> None:
    assert refused(text).startswith(f"job.yaml:{said}")


@pytest.mark.parametrize("text", ['a: "\\UFFFFFFFF"', f"%YAML {'9' * 5000}.1\n---\na: 1"])
def test_y03_what_pyyaml_lets_escape(text: str) -> None:
    assert refused(text) == "job.yaml: a \\U escape or a %YAML version is out of range"


def test_y03_a_deep_file_leaves_the_process_alive(tmp_path: Path) -> None:
    """In a process of its own, as a stack that overflows would take this one along."""
    path = tmp_path / "job.yaml"
    path.write_text("[" * 1_000_000)
    code = f"from anamnesis.pipeline.config import load_job; load_job({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "UsageError" in done.stderr
    assert "RecursionError" not in done.stderr


def test_messages_show_no_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SMALL + '"a\\n\\e[31m": 1')
    with pytest.raises(UsageError, match=r"3:1: 'a\\n\\x1b\[31m': unknown key") as caught:
        load_job(path)
    assert str(caught.value).isprintable()


# --- Y04: paths


@pytest.mark.parametrize(
    "name",
    ["$", "a$HOME", "a/~/b", "%USERPROFILE%", "../x", "a/../../x", "/a//b/./c/",
     "-x", "*.q4", " x ", "file:///x", "`id`", "$(id)"],
)  # fmt: skip
def test_y04_paths_are_literal(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/elsewhere")
    path = tmp_path / "job.yaml"
    path.write_text(f"inputs: ['{name}']\noutput: {{path: '{name}'}}")
    settings = load_job(path).resolve()
    assert settings.inputs == (name,)
    assert settings.path == name
    overridden = load_job(path, [f"output.path='{name}'", f"inputs=['{name}']"]).resolve()
    assert overridden == settings


@pytest.mark.parametrize("name", ["~", "~/x", "~/../x"])
def test_y04_a_leading_tilde_is_the_home_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/elsewhere")
    path = tmp_path / "job.yaml"
    path.write_text(f"inputs: ['{name}']\noutput: {{path: '{name}'}}")
    settings = load_job(path).resolve()
    assert settings.inputs == (settings.path,) == (name.replace("~", "/elsewhere"),)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        *(("${HOME}", r"\$\{HOME\}"), ("a/${B}/c", r"\$\{B\}"), ("$HOME/x", r"\$HOME")),
        *(("~root/x", "~root"), ("~nobody-here/x", "~nobody-here"), ("${", r"\$\{")),
        ("https://host/${TOKEN}/m.gguf", r"\$\{TOKEN\}"),
    ],
)
def test_y04_a_variable_is_refused_by_name(name: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    for text in (f"inputs: [a]\noutput: {{path: '{name}'}}", f"inputs: ['{name}']\n{OUTPUT}"):
        path.write_text(text)
        with pytest.raises(UsageError, match=f"(output.path|inputs): .*: {named} is not expanded"):
            load_job(path).resolve()


OUTPUT = "output: {path: o}"
