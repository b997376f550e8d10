"""The walls: which room may import what, tables sorted and complete, packaging as it is on disk."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Set
from functools import cache
from pathlib import Path

import pytest

from anamnesis.kernels import ENCODINGS
from anamnesis.kernels.encoders import ENCODERS
from anamnesis.kernels.transcoders import SOURCES as TRANSCODED
from anamnesis.kernels.transcoders import TARGETS
from anamnesis.pipeline.executors import EXECUTORS
from anamnesis.readers import READERS
from anamnesis.readers.schemes import SCHEMES
from anamnesis.writers import WRITERS

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("analytics", "cli", "kernels", "model", "names", "pipeline", "readers", "writers")
MODULES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
HEAVY = ("dask", "distributed", "numba", "llvmlite", "pyarrow", "numpy", "ml_dtypes", "rich")


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def constants(path: Path) -> set[str]:
    """The strings of a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def within(found: Set[str], *packages: str) -> set[str]:
    return {m for m in found if any(m == p or m.startswith(p + ".") for p in packages)}


PACKAGE = {
    p: ".".join(("anamnesis", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for p in (*ROOT.glob("*.py"), *MODULES)
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def circles() -> list[str]:
    """Modules that import one another, by way of others too; imports inside functions count."""
    names, edges = set(PACKAGE.values()), {}
    for path, module in PACKAGE.items():
        found = {m for m in imports(path) if m in names}
        # `from anamnesis import owned` is of that module, and of the package only by its way.
        edges[module] = {m for m in found if not within(found - {m}, m)} - {module}
    while ends := [m for m, onwards in edges.items() if not onwards & edges.keys()]:
        for end in ends:
            del edges[end]
    return sorted(edges)  # circles, and what leads to them


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert circles() == []


def test_private_names_of_other_projects_stay_theirs() -> None:
    """Nothing of Dask, pyarrow or numpy that begins with an underscore is imported."""
    others = ("dask", "distributed", "matplotlib", "ml_dtypes", "numpy", "pyarrow", "rich")
    found = {m for path in MODULES for m in within(imports(path), *others)}
    assert not {m for m in found if any(part.startswith("_") for part in m.split("."))}


# The rooms that a room knows nothing of, and the libraries that it leaves alone.
ABOVE = {
    "analytics": ("model", "cli"),
    "model": ("cli",),
    "names": ("pipeline", "writers", "analytics", "model", "cli", "kernels"),
    "pipeline": ("analytics", "model", "cli"),
    "readers": ("pipeline", "writers", "analytics", "model", "cli", "names"),
    "writers": ("pipeline", "kernels"),
}
LEFT_ALONE = {
    "kernels": ("pyarrow", "dask", "ml_dtypes"),
    "names": ("dask",),
    "readers": ("dask",),
    "writers": ("dask",),
}
# What a room, or a file, takes of a room that it knows little of.
OF_KERNELS = {f"anamnesis.kernels.{one}" for one in ("ENCODINGS", "Encoding", "Window")}
OUTSIDE_KERNELS = {
    "_cache.py": {"anamnesis.owned", "anamnesis.errors", "anamnesis.errors.AnamnesisError"},
    "_native.py": {"anamnesis.address_space"},
}


def misplaced(path: Path) -> set[str]:
    """What a file imports and may not."""
    found, room = imports(path), path.relative_to(ROOT).parts[0]
    ours = within(found, "anamnesis") - {"anamnesis"}
    wrong = within(ours, "anamnesis.__version__", *(f"anamnesis.{r}" for r in ABOVE.get(room, ())))
    wrong |= within(found, *LEFT_ALONE.get(room, ()))
    if room == "kernels":
        wrong |= {m for m in ours if not m.startswith("anamnesis.kernels")}
        wrong -= OUTSIDE_KERNELS.get(path.name, set())
    if room == "readers":
        wrong |= {m for m in ours if m.startswith("anamnesis.kernels.")} - OF_KERNELS
    if room == "writers":
        wrong |= {
            m
            for m in within(ours, "anamnesis.readers")
            if not m.startswith("anamnesis.readers.gguf_types")
        }
        wrong -= {"anamnesis.readers.dtypes", "anamnesis.readers.dtypes.DTYPES"}
        wrong -= within(ours, "anamnesis.readers.source", "anamnesis.readers.urls")
    return wrong


def test_rooms_import_in_one_direction() -> None:
    assert {name(p): wrong for p in MODULES if (wrong := misplaced(p))} == {}


# Who opens files by other means than `owned`, and which those are.
OPENERS = {
    "cli/failure.py": "the size of this process",
    "cli/main.py": "the null device",
    "cli/streams.py": "the null device",
    "kernels/_cache.py": "the kernels' own sources",
    "kernels/_native.py": "numba's version",
    "pipeline/sections.py": "the kernel's count of processors",
    "pipeline/yaml_strict.py": "a job file",
    "readers/inflate.py": "a file without a name",
    "readers/source.py": "inputs",
    "writers/lease.py": "the kernel's number of its start",
}
_OPENING = {"read_bytes", "read_text", "write_bytes", "write_text", "fdopen", "mkstemp", "mkdtemp"}
_OPENING |= {"copyfile", "copy", "copy2", "memory_map", "NamedTemporaryFile", "TemporaryFile"}
# What reads inputs; below, by `written` and `companions`, a finished output and a model's folder.
_INPUTS = {"cli/flags.py", "pipeline/companions.py", "pipeline/written.py"}


def opens(node: ast.AST) -> bool:
    """Whether a call opens a file by its path."""
    if not isinstance(node, ast.Call):
        return False
    function, first = node.func, node.args[0] if node.args else None
    if isinstance(function, ast.Name):
        # What `owned` gives is a descriptor already.
        wraps = isinstance(first, ast.Call) and ast.unparse(first.func).startswith("owned.")
        return function.id == "open" and not wraps and ast.unparse(first or node) != "fd"
    if not isinstance(function, ast.Attribute):
        return False
    of = ast.unparse(function.value)
    if function.attr == "copy" and of != "shutil":
        return False
    if function.attr == "open":
        modes = isinstance(first, ast.Constant) and set(str(first.value)) <= set("rwxab+t")
        return of in ("os", "io") or modes
    return function.attr in _OPENING


def test_files_of_our_own_are_opened_by_one_helper() -> None:
    modules, source = [*MODULES, ROOT / "__init__.py"], "anamnesis.readers.source.LocalFile"
    calls = {
        f"{name(path)}:{node.lineno}"
        for path in modules
        if name(path) not in OPENERS
        for node in ast.walk(ast.parse(path.read_text()))
        if opens(node)
    }
    assert not calls
    found = {name(path) for path in modules if source in imports(path)}
    assert {one for one in found if not one.startswith("readers/")} <= _INPUTS


@pytest.mark.parametrize(
    "text",
    [
        'open(path, "rb")',
        "os.open(path, flags)",
        'path.open("wb")',
        "path.read_bytes()",
        "tempfile.mkstemp()",
        "shutil.copy(a, b)",
        "pa.memory_map(path)",
    ],
)
def test_what_opens_a_file_is_seen(text: str) -> None:
    assert any(opens(node) for node in ast.walk(ast.parse(text)))


def private_of_compilers(path: Path) -> set[str]:
    """What a file imports of numba, llvmlite and bodies, and may not."""
    found = imports(path)
    if path.parent == ROOT / "kernels" / "bodies":
        return within(found, "numba") - within(found, "numba.types", "numba.extending") - {"numba"}
    wrong = within(found, "numba", "anamnesis.kernels.bodies", "llvmlite")
    return wrong - within(found, "llvmlite") if path.name == "_native.py" else wrong


def test_only_bodies_import_numba_and_only_what_is_public_of_it() -> None:
    assert {name(p): wrong for p in MODULES if (wrong := private_of_compilers(p))} == {}


BODIES = {p for p in MODULES if p.parent == ROOT / "kernels" / "bodies"}
BODIES -= {ROOT / "kernels" / "bodies" / stem for stem in ("_compile.py", "_jit.py")}


def needs_numba(function: ast.FunctionDef) -> bool:
    """Whether a body allocates or raises."""
    for node in ast.walk(function):
        if isinstance(node, ast.Raise | ast.Assert | ast.Try):
            return True
        name_of = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if name_of in ("np.empty", "np.zeros", "np.full"):
            return True
    return False


def test_bodies_neither_allocate_nor_raise() -> None:
    """Both need numba at run time; scratch comes from glue, or from the stack (`_jit.stack`)."""
    found = []
    for path in sorted(BODIES):
        for top in ast.parse(path.read_text()).body:
            for statement in top.orelse if isinstance(top, ast.If) else [top]:
                if isinstance(statement, ast.FunctionDef) and needs_numba(statement):
                    found.append(f"{name(path)}:{statement.lineno}")
    assert BODIES
    assert not found


def test_windows_are_decoded_in_one_place() -> None:
    """Nobody else makes windows for decoding; `raw_batches` cuts raw blocks, `reads` only looks."""
    modules = [*MODULES, *(ROOT / "benchmarks").rglob("*.py")]
    decode = "anamnesis.pipeline.decode.decode_function"
    assert {name(p) for p in modules if decode in imports(p)} == {"pipeline/windows.py"}
    windows = "anamnesis.readers.batch.iter_windows"
    found = {name(p) for p in modules if windows in imports(p)}
    assert found == {"pipeline/reads.py", "pipeline/windows.py", "pipeline/values.py"}


def test_files_stay_short() -> None:
    lines = {name(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: count for path, count in lines.items() if count > 400} == {}


@pytest.mark.parametrize(
    "table",
    [ENCODERS, ENCODINGS, EXECUTORS, READERS, SCHEMES, TARGETS, TRANSCODED, WRITERS],
    ids=lambda t: next(iter(t)),
)
def test_tables_are_sorted(table: dict[str, object]) -> None:
    assert list(table) == sorted(table)


def test_every_file_is_in_its_table() -> None:
    schemes = {row.target.partition(":")[0] for row in SCHEMES.values()} | {"passthrough", "base"}
    on_disk = {p.stem for p in (ROOT / "readers/schemes").glob("[a-z]*.py")}
    assert on_disk == schemes
    kernels = {row.target.partition(":")[0] for row in ENCODINGS.values()}
    kernels |= {row.target.partition(":")[0] for row in ENCODERS.values()}
    for row in (*TRANSCODED.values(), *TARGETS.values()):
        kernels.add(row[1].partition(":")[0])
    others = {"bits", "config", "diff", "encoders", "ends", "loss", "readback", "stats", "table"}
    others |= {"transcoders", "transposed", "types"}
    assert {p.stem for p in (ROOT / "kernels").glob("[a-z]*.py")} == kernels | others


def test_a_row_says_all_of_an_encoder() -> None:
    """No table is kept by encoder: what is known of one is in its file, or in its row."""
    names = set(ENCODERS) - set(ENCODINGS)
    kept = {"kernels/encoders.py", "kernels/transcoders.py"}  # codes that need no encoding anew
    rooms = ("cli/", "kernels/", "model/", "pipeline/", "writers/")
    for path in MODULES:
        if name(path) in kept or not name(path).startswith(rooms):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
                assert len(keys & names) < 2, f"{name(path)}:{node.lineno}"


def test_a_row_says_all_of_an_encoding() -> None:
    """What other rooms know of encodings is in the table, not in tables of their own."""
    from importlib import import_module

    from anamnesis.kernels._row import FAMILIES

    for encoding, row in ENCODINGS.items():
        targets = [("anamnesis.kernels", t) for t in (row.target, row.prepare)]
        targets.append(("anamnesis.analytics.scan", row.sections))
        targets += [("benchmarks", bench.layer) for bench in row.cases]
        for room, target in targets:
            module, _, function = target.partition(":")
            assert not target or callable(getattr(import_module(f"{room}.{module}"), function))
        assert row.family in FAMILIES
        assert row.cases, encoding
    names = set(ENCODINGS) - {"bf16", "f16", "f32", "f64"}  # also dtypes, and words of settings
    ours = [p for p in MODULES if not name(p).startswith(("kernels/", "readers/"))]
    listing = {
        name(p) for p in [*ours, ROOT / "benchmarks/cases.py"] if len(names & constants(p)) > 5
    }
    assert listing == {"analytics/scan/ggml_fields.py"}  # the fields of ggml's blocks


def test_packages_listed_by_hand_are_the_folders() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {
        ".".join(("anamnesis", *p.parent.relative_to(ROOT).parts))
        for room in ROOMS
        for p in (ROOT / room).rglob("__init__.py")
    }
    assert listed == folders | {"anamnesis"}


def test_words_of_messages_stand_once() -> None:
    """The nearest word and what is left of a list are worded in words.py."""
    again = re.compile(r"get_close_matches|did you mean .*map\(repr|- \w+(:,)?\} more\"? if ")
    for path in MODULES:
        found = again.search(path.read_text())
        assert not found, f"{name(path)}: {found[0] if found else ''}"


def test_the_page_says_what_every_room_holds() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("| room |")[2].partition("\n\n")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("| ")]
    said = {one for cell in first for one in re.findall(r"`([^`]+)`", cell)}
    modules = {p.name for p in ROOT.glob("*.py") if not p.name.startswith("__")}
    assert {f"{room}/" for room in ROOMS} | modules <= said


def test_no_stray_module_in_the_root() -> None:
    rooms = {
        "__init__.py",
        "__main__.py",
        "address_space.py",
        "errors.py",
        "keywords.py",
        "limits.py",
        "owned.py",
        "record.py",
        "sizes.py",
        "stopping.py",
        "supported.py",
        "version.py",
        "words.py",
    }
    assert {p.name for p in ROOT.glob("*.py")} == rooms
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import anamnesis", HEAVY),
        ("import anamnesis.errors, anamnesis.limits", HEAVY),
        ("import anamnesis.cli.main", HEAVY),
        ("import anamnesis.kernels, anamnesis.readers, anamnesis.readers.schemes", HEAVY),
        ("import anamnesis.readers.model", HEAVY),
        ("import anamnesis.pipeline.report", HEAVY),
    ],
)
def test_start_up_stays_light(statement: str, forbidden: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    )
    assert done.stdout.strip() == "[]"
