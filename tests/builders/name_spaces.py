"""Processes in network name spaces and root folders of their own, joined by a bridge.

Each has an address, a line of a stated rate, a read-only view of this machine's files, and an empty
`/tmp` and `/dev/shm`, so that nothing passes between them but by the network. Needs root.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONFINED = """
set -e
root=$1; shift
mount --make-rprivate /
mount --bind / "$root"
mount -o remount,bind,ro "$root"
for path in /proc /dev /sys; do mount --rbind "$path" "$root$path"; done
mount -t tmpfs amn-test "$root/tmp"
mount -t tmpfs amn-test "$root/dev/shm"
for path in $READABLE; do
  test -d "$root$path" || mkdir -p "$root$path"
  mount --rbind "$path" "$root$path"
  mount -o remount,bind,ro "$root$path"
done
exec chroot "$root" sh -c 'cd /tmp && exec "$@"' sh "$@"
"""


class Network:
    """A bridge and what hangs on it; `host` is this machine's address there."""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = f"amn{secrets.token_hex(2)}", folder
        number = int(self.name[3:], 16)
        self._prefix = f"10.{64 + number // 256 % 64}.{number % 256}"
        self.host = f"{self._prefix}.1"
        self._spaces: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        _run("ip", "link", "add", self.name, "type", "bridge")
        _run("ip", "address", "add", f"{self.host}/24", "dev", self.name)
        _run("ip", "link", "set", self.name, "up")

    def space(self, rate: str = "") -> tuple[str, str]:
        """A new name space and its address; `rate`, each way, is in tc's words."""
        number = len(self._spaces) + 2
        space, address = f"{self.name}-{number}", f"{self._prefix}.{number}"
        _run("ip", "netns", "add", space)
        self._spaces.append(space)
        here, there = f"{self.name}h{number}", f"{self.name}n{number}"
        _run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", space)
        _run("ip", "link", "set", here, "master", self.name, "up")
        inside = ("ip", "-n", space)
        _run(*inside, "address", "add", f"{address}/24", "dev", there)
        _run(*inside, "link", "set", there, "up")
        _run(*inside, "link", "set", "lo", "up")
        if rate:
            shape = ("root", "tbf", "rate", rate, "burst", "256k", "latency", "100ms")
            _run("tc", "qdisc", "add", "dev", here, *shape)
            _run("ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", there, *shape)
        return space, address

    def start(self, space: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command in a name space, with a root folder of its own."""
        root = self.folder / f"root-{len(self.processes)}"
        root.mkdir(parents=True)
        known = {**os.environ, "READABLE": " ".join(_mounted()), "HOME": "/tmp"}
        known |= {"ANAMNESIS_CACHE": "/tmp/cache", **environment}
        confined = ("unshare", "-m", "sh", "-c", _CONFINED, "sh", str(root), *command)
        with open(self.folder / f"said-{len(self.processes)}", "wb") as said:
            process = subprocess.Popen(
                ["ip", "netns", "exec", space, *confined],
                env=known,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        self.processes.append(process)
        return process

    def said(self, process: subprocess.Popen[bytes]) -> str:
        """What a process has written to its standard error."""
        return (self.folder / f"said-{self.processes.index(process)}").read_text(errors="replace")

    def close(self) -> None:
        """End everything, and take the network down."""
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], check=False)
        subprocess.run(["ip", "link", "del", self.name], check=False)


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network as long as the block; OSError where this process may not make one."""
    made = Network(folder)
    try:
        yield made
    finally:
        made.close()


def _mounted() -> list[str]:
    """Folders that modules come from and that the root's own view has not: of other file systems,
    or of folders that are empty there."""
    folders = [sys.prefix, sys.base_prefix, *filter(os.path.isdir, filter(None, sys.path))]
    folders.append(str(Path(__file__).parents[2]))
    own = os.stat("/").st_dev
    found: list[str] = []
    for path in sorted({os.path.realpath(path) for path in folders}):
        inside = any(path.startswith(f"{other}/") for other in found)
        apart = os.stat(path).st_dev != own or path.startswith(("/tmp/", "/dev/shm/"))
        if apart and not inside:
            found.append(path)
    return found


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise OSError(f"{' '.join(command)}: {error.stderr.decode()}") from error


__all__ = ["Network", "network"]
