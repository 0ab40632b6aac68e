"""A machine of a cluster, of whatever kind, as the tests see it: it shares a folder with others, and runs commands."""

from __future__ import annotations

import abc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.project import Project
from support.uvs import uv

PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_FILES = """\
import os, sys
root = sys.argv[1]
print({
    path: (os.lstat(path).st_size, os.lstat(path).st_mtime_ns)
    for folder, _, names in os.walk(root)
    for path in (f"{folder}/{name}" for name in names)
    if f"{root}/.uv-mutex" not in path and "/.nfs" not in path
})
"""


class Host(abc.ABC):
    """A machine with its own hostname, TMPDIR, uv cache and, in effect, shim."""

    name: str
    #: Where the shared folder is on this host.
    mount: str
    #: Where the shim's prefix is on this host.
    prefix: str
    #: Where TMPDIR, cache and home are on this host.
    local: str
    #: Seconds after which no client remembers what another has removed; 0: it may, and the shim must bear that.
    remembers: float = 2
    #: The UV_MUTEX_LOG, where this host has it.
    log: str

    @abc.abstractmethod
    def enter(self, words: Sequence[str], *, env: Mapping[str, str], cwd: str = "/") -> list[str]:
        """A command line that runs another here, with just this environment block."""

    @abc.abstractmethod
    def shims(self) -> list[int]:
        """Every shim that runs here, by a process id for `send`."""

    @abc.abstractmethod
    def send(self, pid: int, number: int) -> None:
        """Send a signal to one of them."""

    @abc.abstractmethod
    def kill(self, name: str) -> None:
        """SIGKILL for every process here whose program is called that."""

    @abc.abstractmethod
    def freeze(self) -> None:
        """Stop all that runs here, at once."""

    @abc.abstractmethod
    def thaw(self) -> None:
        """Let it go on."""

    def path(self, name: str) -> str:
        """Where something of the shared folder is on this host."""
        return f"{self.mount}/{name}"

    def env(self, uv_version: str, *, shimmed: bool = True, **extra: str) -> dict[str, str]:
        """A whole environment block for this host.

        :param extra: more variables, or other values for these.
        """
        folders = [str(uv(uv_version).parent), "/usr/bin", "/bin"]
        return {
            "PATH": ":".join([f"{self.prefix}/bin", *folders] if shimmed else folders),
            "HOME": f"{self.local}/home",
            "TMPDIR": f"{self.local}/tmp",
            "UV_CACHE_DIR": f"{self.local}/cache",
            "UV_LINK_MODE": "copy",
            "UV_PYTHON": os.path.realpath(sys.executable),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_MUTEX_LOG": self.log,
            "UV_MUTEX_LOG_ARGS": "1",
            **extra,
        }

    def run(
        self, words: Sequence[str], env: Mapping[str, str] = PLAIN, name: str = "", *, timeout: float = 300
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command here, in a folder of the shared one, and wait for it, its output captured."""
        return subprocess.run(
            self.enter(words, env=env, cwd=self.path(name)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )

    def start(self, words: Sequence[str], env: Mapping[str, str], name: str = "") -> subprocess.Popen[bytes]:
        """Start one command here, in a folder of the shared one, its output captured."""
        return subprocess.Popen(
            self.enter(words, env=env, cwd=self.path(name)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, *words: str) -> str:
        """What a command says that must succeed."""
        done = self.run(words)
        assert done.returncode == 0, f"{words} on {self.name}: {done.stderr.decode()}"
        return done.stdout.decode()

    def put(self, source: Path, name: str) -> None:
        """Copy a folder of this machine into the shared folder."""
        self.ask("cp", "-r", str(source), self.path(name))

    def read(self, name: str) -> str:
        """The text of a file of the shared folder."""
        return self.ask("cat", self.path(name))

    def listing(self, name: str) -> list[str]:
        """The names in a folder of the shared one; none where it is missing."""
        done = self.run(["ls", "-A", self.path(name)])
        return done.stdout.decode().split()

    def files(self, name: str) -> dict[str, tuple[int, int]]:
        """Size and time of every file of a project, but for the locks', and for what NFS keeps of removed ones."""
        answer = self.ask(os.path.realpath(sys.executable), "-ISc", _FILES, self.path(name))
        return dict(eval(answer))

    def calls(self) -> list[dict[str, Any]]:
        """What the shims here have logged."""
        return [json.loads(line) for line in self.run(["cat", self.log]).stdout.splitlines()]


def project_on(host: Host, name: str, **options: Any) -> str:
    """Make a project (see Project.make) in the shared folder; return its name there."""
    with tempfile.TemporaryDirectory() as folder:
        Project.make(Path(folder, name), name=name, **options)
        host.put(Path(folder, name), name)
    return name


def remove_tree(host: Host, name: str) -> None:
    """`rm -rf` on a host; then wait as long as clients must be given to forget what was there."""
    host.ask("rm", "-rf", host.path(name))
    time.sleep(host.remembers)


def calls(hosts: Iterable[Host]) -> list[dict[str, Any]]:
    """What the hosts' shims have logged."""
    return [line for host in hosts for line in host.calls()]


def preparations(hosts: Iterable[Host]) -> int:
    """How many calls brought an environment up to date."""
    return sum(line["prepared"] for line in calls(hosts))
