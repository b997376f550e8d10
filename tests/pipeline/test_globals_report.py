"""`amn inspect --globals`: a report that no file can stop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pth_bytes
import pytest

from anamnesis.errors import FormatError
from anamnesis.limits import Limits
from anamnesis.pipeline.globals_report import as_text, report_globals

Amn = Callable[..., subprocess.CompletedProcess[str]]


B = pth_bytes
EVIL = B.dict_(
    {"w": B.tensor(B.storage()), "x": B.call(B.global_("os", "system"), B.value("exit 1"))}
)


def evil(tmp_path: Path, name: str = "evil.pth") -> Path:
    path = tmp_path / name
    path.write_bytes(B.pth(B.pickled(EVIL), {"0": B.DATA}))
    return path


def test_as_json(amn: Amn, tmp_path: Path) -> None:
    path = evil(tmp_path)
    done = amn("inspect", "--globals", "--json", path)
    assert (done.returncode, done.stderr) == (0, "")
    pickle = f"{path}: archive/data.pkl"
    assert json.loads(done.stdout) == {
        "path": str(path),
        "allowed": False,
        "globals": [
            {"name": "torch._utils._rebuild_tensor_v2", "allowed": True, "pickle": pickle},
            {"name": "torch.FloatStorage", "allowed": True, "pickle": pickle},
            {"name": "collections.OrderedDict", "allowed": True, "pickle": pickle},
            {"name": "os.system", "allowed": False, "pickle": pickle},
        ],
        "problems": [],
    }


def test_arrays_of_objects(tmp_path: Path) -> None:
    """They are pickles, which numpy runs when it is told to."""
    objects = np.array([{}, print], dtype=object)
    np.savez(tmp_path / "m.npz", w=np.ones(2), bad=objects)
    np.save(tmp_path / "m.npy", objects)
    for name, where in (("m.npz", "m.npz: bad.npy"), ("m.npy", "m.npy")):
        found = report_globals(str(tmp_path / name), Limits())
        assert "builtins.print" in {g.name for g in found.refused}
        assert {g.pickle for g in found.globals} == {f"{tmp_path}/{where}: array of objects"}
        said = f"{tmp_path}/{where}: is an array of Python objects, stored as a pickle"
        assert found.problems == (said,)
    np.savez(tmp_path / "good.npz", w=np.ones(2))
    assert report_globals(str(tmp_path / "good.npz"), Limits()).globals == ()


def test_as_text(amn: Amn, tmp_path: Path) -> None:
    path = evil(tmp_path)
    done = amn("info", "--globals", path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[3] == f"REFUSED  os.system  ({path}: archive/data.pkl)"
    assert lines[-1] == f"{path}: 4 globals, 1 of them not allowed"
    refused = amn("inspect", path)
    assert refused.returncode == 6
    assert refused.stderr.startswith("error: SecurityError: ")
    assert "'os.system'" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["good.pth", "model.bin", "blob"])
def test_a_good_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for content in (B.good_pth(), B.good_legacy()):
        path.write_bytes(content)
        found = report_globals(str(path), Limits())
        assert found.to_dict()["allowed"] is True
        assert found.problems == ()
        assert as_text(found).endswith(f"{path}: 3 globals, all allowed")


@pytest.mark.parametrize("name", ["x.pkl", "x.bin", "x.pt", "x"])
def test_any_pickle(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(B.pickled(B.call(B.global_("builtins", "eval"), B.value("1"))))
    found = report_globals(str(path), Limits())
    assert [g.name for g in found.refused] == ["builtins.eval"]
    assert "torch.save did not write" in found.problems[0]


@pytest.mark.parametrize("name", ["net.pt", "net.jit"])
def test_torchscript(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    net = B.pickled(B.global_("__torch__", "Net"))
    path.write_bytes(B.archive([("n/data.pkl", net), ("n/constants.pkl", B.pickled(b"N"))]))
    assert [g.name for g in report_globals(str(path), Limits()).refused] == ["__torch__.Net"]


def test_a_folder(tmp_path: Path) -> None:
    evil(tmp_path, "pytorch_model-00001-of-00002.bin")
    (tmp_path / "pytorch_model-00002-of-00002.bin").write_bytes(B.good_pth())
    found = report_globals(str(tmp_path), Limits())
    assert len(found.globals) == 7
    assert len(found.refused) == 1


def test_other_containers_have_none(tmp_path: Path, sample: Path) -> None:
    found = report_globals(str(sample), Limits())
    assert as_text(found) == f"{sample}: no globals"
    assert found.to_dict()["allowed"] is True


def test_names_cannot_command_a_terminal(amn: Amn, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    names = B.value("mod\x1b[2J\udc80") + B.value("na\nme") + b"\x93"
    path.write_bytes(B.pth(B.pickled(names), {}))
    done = amn("inspect", "--globals", path)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert r"'mod\x1b[2J\\udc80.na\nme'" in done.stdout
    found = json.loads(amn("inspect", "--globals", "--json", path).stdout)
    assert found["globals"][0]["name"] == "mod\x1b[2J\\udc80.na\nme"


def test_what_is_no_file_of_pickles(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"<!doctype html>")
    with pytest.raises(FormatError, match="HTML"):
        report_globals(str(path), Limits())
    with pytest.raises(FileNotFoundError):
        report_globals(str(tmp_path / "none"), Limits())
