"""Fuzz every target, or those named: `python tests/fuzz/run.py [TARGET...]`; see `make fuzz`.

FUZZ_SECONDS (20) is the time of each target, FUZZ_JOBS how many run at once. FUZZ_SEED repeats a
run's choices, as far as its time allows; without one every run goes elsewhere. A find is put into
`regressions/TARGET/`, where tests/hostile/test_fuzz_regressions.py replays it from then on. What
libFuzzer learns is kept in `build/fuzz/TARGET` until the next `make clean`.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from replay import kept_files, replay  # noqa: E402
from targets import TARGETS  # noqa: E402

WORK = HERE.parents[1] / "build" / "fuzz"
REGRESSIONS = HERE / "regressions"


def main() -> int:
    names = sys.argv[1:] or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        print(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
        return 2
    if importlib.util.find_spec("atheris") is None:
        count = replay(names)
        print(
            f"NOT FUZZED: atheris has no build for Python {platform.python_version()} on "
            f"{platform.system()} {platform.machine()} (there are some for CPython 3.11 to 3.14 "
            f"on Linux x86_64). The {count} kept files were replayed and all went well."
        )
        return 0
    seconds = int(os.environ.get("FUZZ_SECONDS", "20"))
    jobs = int(os.environ.get("FUZZ_JOBS", str(min(len(names), os.cpu_count() or 1))))
    with ThreadPoolExecutor(jobs) as pool:
        failed = [name for name in pool.map(lambda n: _fuzz(n, seconds), names) if name]
    if failed:
        print(f"finds in: {', '.join(failed)}; the files are in tests/fuzz/regressions")
    return 1 if failed else 0


def _fuzz(name: str, seconds: int) -> str:
    """Run one target; its name when something was found."""
    learnt, finds = WORK / name, WORK / "finds" / name
    for folder in (learnt, finds):
        folder.mkdir(parents=True, exist_ok=True)
    words = WORK / f"{name}.dict"
    words.write_text("".join(_quoted(word) for word in TARGETS[name].words))
    command = [
        *(sys.executable, str(HERE / "fuzz_one.py"), name, str(learnt)),
        *map(str, sorted({path.parent for path in kept_files(name)})),
        f"-max_total_time={seconds}",
        f"-seed={os.environ.get('FUZZ_SEED', '0')}",  # 0: by the clock
        f"-artifact_prefix={finds}/",
        f"-dict={words}",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    # Kernels as plain Python: nothing to compile, and an index out of bounds is an IndexError.
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    if "FUZZ_SEED" in env:
        env["PYTHONHASHSEED"] = "0"
    log = WORK / f"{name}.log"
    with log.open("w") as out:
        done = subprocess.run(command, env=env, stdout=out, stderr=subprocess.STDOUT, check=False)
    text = log.read_text(errors="replace")
    runs = re.search(r"number_of_executed_units: (\d+)", text)
    print(
        f"{name:12} {int(runs[1]) if runs else 0:>9,} executions, exit {done.returncode}",
        flush=True,
    )
    if not done.returncode or _stalled(finds, name, env):
        return ""
    told = [line for line in text.splitlines() if not line.startswith(("#", "INFO"))]
    print("\n".join(told[-60:]), flush=True)
    for path in finds.iterdir():
        (REGRESSIONS / name).mkdir(parents=True, exist_ok=True)
        print(f"{path.name}: base64 {b64encode(path.read_bytes()).decode()}", flush=True)
        path.rename(REGRESSIONS / name / path.name)
    return name


def _stalled(finds: Path, name: str, env: dict[str, str]) -> bool:
    """Whether all that was found is a time-out that does not happen again: the machine's fault."""
    found = list(finds.iterdir())
    for path in found:
        command = [sys.executable, str(HERE / "fuzz_one.py"), name, str(path)]
        if (
            not path.name.startswith("timeout-")
            or subprocess.run(command, env=env, capture_output=True, check=False).returncode
        ):
            return False
        print(f"{name}: {path.name} does not happen again; the machine stood still", flush=True)
        path.unlink()
    return bool(found)


def _quoted(word: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n'


if __name__ == "__main__":
    sys.exit(main())
