"""Parsing a checkpoint opens the file and nothing else: no import, no process, no code.

Python's audit events (https://docs.python.org/3/library/audit_events.html) are recorded in a
process of its own while hostile and good files are opened, listed and converted.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pth_bytes
import pytest

B = pth_bytes

_CHILD = """
import json, sys
from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.pth import list_globals
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

paths, warm = json.loads(sys.argv[1]), sys.argv[2]
def read(path):
    names = []
    for function in (lambda: resolve(Ledger(open_container(path, Limits()))),
                     lambda: list_globals(path, Limits())):
        try:
            function()
            names.append("")
        except AnamnesisError as error:
            names.append(type(error).__name__)
    return names
read(warm)  # whatever our own modules import on first use is imported now
events = []
recording = False
def hook(event, arguments):
    if recording:
        events.append((event, str(arguments[0])[:300] if arguments else ""))
sys.addaudithook(hook)
modules = set(sys.modules)
recording = True
results = {path: read(path) for path in paths}
recording = False
print(json.dumps({"events": events, "results": results, "new": sorted(set(sys.modules) - modules)}))
"""


def files(folder: Path, marker: Path) -> dict[str, bytes]:
    """Checkpoints that leave a marker when they are run, in every way a pickle can."""
    tensor, data = B.tensor(B.storage()), {"0": B.DATA}
    touch = B.value(f"touch {marker}")
    run = B.call(B.global_("os", "system"), touch)
    opening = B.call(B.global_("builtins", "open"), B.value(str(marker)), B.value("w"))
    code = B.value(f"open({str(marker)!r}, 'w').close()")
    both = B.dict_({"w": tensor, "x": run})
    return {
        "good.pth": B.good_pth(),
        "legacy.pth": B.good_legacy(),
        "reduce.pth": B.pth(B.pickled(both), data),
        "open.pth": B.pth(B.pickled(B.dict_({"x": opening})), data),
        "exec.pth": B.pth(B.pickled(B.call(B.global_("builtins", "exec"), code)), data),
        "import.pth": B.pth(
            B.pickled(B.call(B.global_("importlib", "import_module"), B.value("antigravity"))), data
        ),
        "module.pth": B.pth(B.pickled(B.global_("this", "s")), data),
        "inst.pth": B.pth(B.pickled(b"(" + touch + b"ios\nsystem\n"), data),
        "obj.pth": B.pth(B.pickled(b"(" + B.global_("os", "system") + touch + b"o"), data),
        "newobj.pth": B.pth(
            B.pickled(B.global_("subprocess", "Popen") + b"(" + touch + b"t\x81"), data
        ),
        "second.pth": B.pth(B.pickled(B.dict_({"w": tensor})) + B.pickled(run), data),
        "key.pth": B.pth(B.pickled(B.dict_({"w": B.tensor(B.storage("/etc/passwd"))})), data),
        "legacy-object.pth": B.legacy(run, []),
        "legacy-magic.pth": B.legacy(run, [], magic=B.pickled(run)),
        "legacy-keys.pth": B.legacy(
            B.one_tensor(legacy_form=True), [("0", 4, B.DATA)], keys=B.pickled(run)
        ),
        "bare.pth": B.pickled(run),
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("audit")
    marker = folder / "marker"
    paths = []
    for name, content in files(folder, marker).items():
        (folder / name).write_bytes(content)
        paths.append(str(folder / name))
    (folder / "warm.pth").write_bytes(B.good_legacy())
    (folder / "warm.pt").write_bytes(B.good_pth())
    child = _CHILD.replace("read(warm)", "[read(warm + s) for s in ('.pth', '.pt')]")
    done = subprocess.run(
        [sys.executable, "-c", child, json.dumps(paths), str(folder / "warm")],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return {**result, "marker": marker, "folder": str(folder), "paths": paths}


def test_nothing_but_the_file_is_opened(recorded: dict[str, Any]) -> None:
    events = {event for event, _ in recorded["events"]}
    assert events == {"open", "builtins.id"}  # `id` is our own, of nodes that were seen
    opened = {argument for event, argument in recorded["events"] if event == "open"}
    assert opened == set(recorded["paths"])


def test_nothing_is_imported_or_run(recorded: dict[str, Any]) -> None:
    assert recorded["new"] == []
    assert not recorded["marker"].exists()


def test_what_became_of_each(recorded: dict[str, Any]) -> None:
    found = {Path(path).name: kinds for path, kinds in recorded["results"].items()}
    good = {name for name, kinds in found.items() if kinds[0] == ""}
    assert good == {"good.pth", "legacy.pth"}
    assert found.pop("key.pth") == ["FormatError", ""]
    bad = {kinds[0] for name, kinds in found.items() if name not in good}
    assert bad == {"SecurityError"}
    assert {kinds[1] for kinds in found.values()} == {""}  # the report always comes


def test_the_files_do_run_elsewhere(tmp_path: Path) -> None:
    """Python's own unpickler runs them, or this test would prove nothing."""
    marker = tmp_path / "marker"
    content = files(tmp_path, marker)["bare.pth"]
    pickle.loads(content)
    assert marker.exists()
