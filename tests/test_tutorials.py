"""The tutorials show what their blocks print, each followed from its top in a folder of its own.

`make tutorial` makes such a folder for a reader (`python tests/test_tutorials.py FOLDER` anywhere),
in which `run_page.py PAGE --write` mends a page.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
JOB = """\
inputs: [models/llama-fp8]
output:
  path: out/llama-cluster
  max_shard_size: 200KB
run:
  executor: distributed
  threads: 2
"""


def prepare(folder: Path) -> None:
    """What the tutorials stand on: the sample, an FP8 model, the same as a GGUF, and a job."""
    from llama_folder import llama_folder

    import anamnesis

    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "models").mkdir(parents=True)
    llama_folder(folder / "models" / "llama-fp8", "fp8")
    anamnesis.convert(folder / "models" / "llama-fp8", folder / "models" / "llama.gguf", to="gguf")
    (folder / "cluster-job.yaml").write_text(JOB)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("tutorials")
    prepare(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_print_what_the_page_shows(
    page: Path,
    prepared: Path,
    page_blocks: Callable[[Path], list[tuple[str, str]]],
    as_shown: Callable[[str], list[str]],
) -> None:
    def steady(text: str) -> list[str]:
        text = re.sub(r"\b(tcp|http)://127\.0\.0\.1:\d+", r"\1://HOST", text)
        return as_shown(re.sub(r"again in [\d.]+ s", "again", text))

    command = [sys.executable, str(ROOT / "tests" / "run_page.py"), str(page)]
    done = subprocess.run(command, cwd=prepared, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed, blocks = json.loads(done.stdout), page_blocks(page)
    compared = 0
    for number, (kind, text) in enumerate(blocks):
        if kind in ("console", "text"):
            output = printed[number if kind == "console" else number - 1]
            assert steady(output) == steady(text), text.partition("\n")[0]
            assert "error: " not in output
            compared += 1
    assert compared > 3
    shutil.rmtree(prepared / "out")


def test_every_tutorial_is_followed() -> None:
    assert len(PAGES) == 4


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests" / "builders"))
    prepare(Path(sys.argv[1]))
