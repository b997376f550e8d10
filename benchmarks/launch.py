"""Run a command and print its wall time, processor time and peak memory as JSON.

Run by itself, without the package: a child's peak starts at what its parent had resident when it
was forked, so the parent must be small.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    to_null = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    begin = time.perf_counter()
    os.environ["AMN_BENCH_BEGIN"] = repr(begin)  # one clock for all processes
    pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[to_null])
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - begin
    found = {
        "exit": os.waitstatus_to_exitcode(status),
        "begin": begin,
        "seconds": seconds,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
