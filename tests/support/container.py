"""Containers on this machine: each has processes, a hostname, a network, mounts and a /tmp of its own.

They share folders of this machine by bind mounts, and its kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from support import need
from support.host import Host
from support.index import LocalIndex
from support.namespaces import Namespaces, NoWire, bind, kill, own_tmp
from support.shim import Shim
from support.users import GROUP, everybodys_python, install_for_everybody
from support.uvs import cache, uv

_CLONE_NEWNET = 0x40000000


class NamespaceHost(Namespaces, Host):
    """A host that is made of namespaces of this machine."""

    def shims(self) -> list[int]:
        """Every shim and every `uv-mutex exec` that runs here, by its process id outside."""
        shim = Shim(Path(self.prefix))
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if shim.is_called_by(os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")):
                    found.append(pid)
        return found

    def send(self, pid: int, number: int) -> None:
        """Send a signal to a process, by its process id outside."""
        kill(pid, number)


def kept_in_tmp(*folders: Path) -> list[Path]:
    """What a host with a /tmp of its own must see of this machine's: these folders, Python, and the uvs."""
    return [*folders, cache(), *{Path(path).resolve() for path in (sys.prefix, sys.base_prefix)}]


def _identity(user: int) -> list[str]:
    """The options of setpriv for the user of a container; none for root. Skips the test where there can't be one."""
    need.root()
    for program in ("unshare", "nsenter", "setpriv", "ip"):
        need.executable(program)
    if not user:
        return []
    options = [f"--reuid={user}", f"--regid={GROUP}", "--clear-groups"]
    probe = ["setpriv", *options, "unshare", "--user", "--map-root-user", "true"]
    need.that(not subprocess.run(probe, check=False).returncode, "needs user namespaces for everybody")
    return options


class Container(NamespaceHost):
    """A container. All see the shared folder and what is local at the same paths, where they have different ones."""

    remembers = 0

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        hostname: str = "",
        own_paths: bool = False,
        prefix: Path | None = None,
        index: LocalIndex | None = None,
        seen: Sequence[Path] = (),
        user: int = 0,
        setup: str = "",
    ) -> None:
        """
        :param folder: where its files lie, and in `shared` what it shares with the others.
        :param hostname: by default its name.
        :param own_paths: whether the shared folder is at a path that no other container has.
        :param prefix: where a shim is installed; by default one is installed, for every user, as are Python and uv.
        :param index: a package index that it shall reach.
        :param seen: further folders that it sees.
        :param user: start it as this user, who is root there. By default it is root's.
        :param setup: what else a shell is to do there first.
        """
        identity = _identity(user)
        here, local, shared = folder / name, folder / "local", folder / "shared"
        self.local, self.log = str(local), str(local / "uv-mutex.log")
        self.prefix = str(prefix or folder / "shim")
        self.mount = str(folder / f"shared-{name}" if own_paths else shared)
        self._folder, self._shared = folder, shared
        self._python = "" if prefix else everybodys_python()
        for path in (here, here / "tmp", here / "cache", here / "home", local, shared, Path(self.mount)):
            path.mkdir(exist_ok=True)
            if user and here in (path, path.parent):
                os.chown(path, user, GROUP)
        if not Path(self.prefix).exists():
            install_for_everybody(Path(self.prefix))
        super().__init__(
            hostname or name,
            [],
            log=folder / f"{name}.log",
            folder=(str(here), self.local),
            setup=own_tmp(kept_in_tmp(folder, prefix, *seen) if prefix else [folder])
            + bind(shared, self.mount)
            + setup,
            network=NoWire(),
            user=identity,
            python=self._python or sys.executable,
        )
        if index:
            index.serve_also(self.network_entrance())

    def put(self, source: Path, name: str) -> None:
        """Copy a folder of this machine, which the container does not see."""
        shutil.copytree(source, self._shared / name, symlinks=True)

    def network_entrance(self) -> Callable[[], None]:
        """A function that lets the thread that calls it enter the network of the container."""
        path = f"/proc/{self.pid}/ns/net"

        def enter() -> None:
            fd = os.open(path, os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"can't enter {path}")
            finally:
                os.close(fd)

        return enter

    def env(self, uv_version: str, *, shimmed: bool = True, **extra: str) -> dict[str, str]:
        """A whole environment block; TMPDIR is the container's /tmp, as it is by default."""
        everything = {**super().env(uv_version, shimmed=shimmed), "TMPDIR": "/tmp", **extra}
        if self._python:
            real, copy = uv(uv_version), self._folder / uv_version / "uv"
            if not copy.exists():
                copy.parent.mkdir()
                shutil.copy(real, copy)
            everything["PATH"] = everything["PATH"].replace(str(real.parent), str(copy.parent))
            everything["UV_PYTHON"] = self._python
        return everything
