"""Build the sdist and the wheel, look into them, and try each in an environment of its own.

python tests/distribution.py FOLDER    # leaves both in FOLDER; needs `build`
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(folder: Path) -> None:
    """Build, check and try; CalledProcessError or SystemExit where anything is wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        # From a copy of what git has, so that nothing that lies about is taken along.
        source = Path(scratch) / "anamnesis"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
        command = [sys.executable, "-m", "build", "--outdir", str(folder), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        private = (str(source), str(ROOT), str(Path.home()))
        for built in sorted(folder.iterdir()):
            found = problems(built, private)
            if found:
                raise SystemExit("\n".join(found))
            attempt(built, Path(scratch) / built.name)
            print(f"{built}: {built.stat().st_size:,} bytes, installed and tried")


def problems(built: Path, private: tuple[str, ...]) -> list[str]:
    """What does not belong into a distribution: other top folders, and paths of this machine."""
    found = []
    names = []
    for name, data in members(built):
        names.append(name)
        found += [f"{built.name}: {name} names {p}" for p in private if _names(data, p)]
    if built.suffix == ".whl":
        tops = {name.partition("/")[0] for name in names}
        found += [f"{built.name}: {t}" for t in tops if t != "anamnesis" and ".dist-info" not in t]
        inside = {name.split("/")[1] for name in names if name.startswith("anamnesis/")}
        found += [f"{built.name}: {n}" for n in inside & {"tests", "docs", "benchmarks", "configs"}]
        needed = {"anamnesis/py.typed", "anamnesis/kernels/data"}
        inside = {n if n in needed else n.rpartition("/")[0] for n in names}
        found += [f"{built.name}: no {n}" for n in needed - inside]
    else:
        found += [f"{built.name}: no {n}" for n in ("LICENSE", "README.md") if not _has(names, n)]
        found += [f"{built.name}: {n}" for n in names if "/docs/_build/" in n or "/.venv" in n]
    return found


def _names(data: bytes, path: str) -> bool:
    """Whether a path is in there as one, not as the end of another (`$folder/root/usr`)."""
    return re.search(rb"(?<![\w}.])" + re.escape(path.encode()) + rb"/", data) is not None


def _has(names: list[str], wanted: str) -> bool:
    return any(name.partition("/")[2] == wanted for name in names)


def members(built: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a wheel or an sdist."""
    if built.suffix == ".whl":
        with zipfile.ZipFile(built) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
        return
    with tarfile.open(built) as packed:
        for member in packed:
            file = packed.extractfile(member)
            if file is not None:
                yield member.name, file.read()


def attempt(built: Path, folder: Path) -> None:
    """Install it alone, and recover the sample away from the checkout."""
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    pip = [str(binaries / "python"), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    subprocess.run([*pip, str(built)], check=True)
    shutil.copytree(ROOT / "configs", folder / "configs")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    out = "out/quickstart/smollm2-135m-layer0.safetensors"
    for arguments in (["--version"], ["run", "configs/quickstart.yaml"], ["verify", out]):
        subprocess.run([binaries / "amn", *arguments], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
