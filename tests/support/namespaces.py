"""Processes of this machine that see a host of their own: other processes, hostname, mounts and, if asked, network.

What is killed is killed with its namespace; nothing outlives the test process, even if that is killed itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# Reaps what is orphaned in the namespace, as an init must. Ends when the pipe does that the test process holds.
_INIT = """\
import os, signal, socket, subprocess, sys, time
hostname, folder, seen_at, wanted, setup, *command = sys.argv[1:]
socket.sethostname(hostname)
subprocess.run(["sh", "-ec", setup], check=True)
if folder != seen_at:
    subprocess.run(["mount", "--bind", folder, seen_at], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], stderr=subprocess.DEVNULL)
sys.stdin.readline()
child = subprocess.Popen(command, stdin=subprocess.DEVNULL) if command else None
while wanted and not os.path.ismount(wanted):
    assert child is None or child.poll() is None, "the client did not start"
    time.sleep(0.02)
print("ready", flush=True)
signal.signal(signal.SIGCHLD, lambda *_: None)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.1)
"""


class Namespaces:
    """A process that is the first of its PID namespace, with a hostname, mounts and perhaps a network of its own."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        folder: tuple[str, str] = ("", ""),
        mount: str = "",
        network: Wire | None = None,
        setup: str = "",
        user: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        """
        :param command: what to run there, beside the init.
        :param folder: a folder of this machine, and where it is seen there.
        :param mount: a path that the command mounts something on.
        :param network: makes a network of its own, whose links this sets up before the command starts.
        :param setup: a shell script that the init runs first, to mount more.
        :param user: options of setpriv that make it those of a user, who is root there: "rootless".
        :param python: an interpreter that this user may use.
        """
        self.name = name
        self._own = [*(["--net"] if network else []), *(["--user"] if user else [])]
        kinds = ["--mount", "--uts", "--ipc", "--pid", *self._own, *(["--map-root-user"] if user else [])]
        self._log = log.open("ab")
        unshare = ["setpriv", *user, "--pdeathsig", "KILL", "unshare", *kinds, "--fork", "--kill-child", "--mount-proc"]
        self._unshare = subprocess.Popen(
            [*unshare, python, "-ISc", _INIT, name, *folder, mount, setup, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            start_new_session=True,
        )
        try:
            self.pid = self._find_init()
            if network:
                network.connect(self)
            assert self._unshare.stdin
            assert self._unshare.stdout
            self._unshare.stdin.write(b"\n")
            self._unshare.stdin.flush()
            if not self._unshare.stdout.readline():
                raise AssertionError(f"{name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        except BaseException:
            self.close()
            raise

    def _find_init(self) -> int:
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for pid in map(int, children.read_text().split()):
                with contextlib.suppress(OSError):
                    if b"-ISc" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return pid
            time.sleep(0.01)
        raise AssertionError(f"{self.name} did not start")

    def enter(self, words: Sequence[str], *, env: Mapping[str, str], cwd: str = "/") -> list[str]:
        """A command line that runs another here, with just this environment block."""
        entering = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--pid", *self._own]
        return [*entering, f"--wdns={cwd}", "env", "-i", *(f"{name}={value}" for name, value in env.items()), *words]

    def outside(self, path: str) -> Path:
        """What is at a path here, as the test process can reach it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def pids(self) -> list[int]:
        """Every process here but the init."""
        own = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for item in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{item}/ns/pid") == own and int(item) != self.pid:
                    found.append(int(item))
        return found

    def freeze(self) -> None:
        """SIGSTOP for every process, again until none has been born meanwhile."""
        stopped: set[int] = set()
        while fresh := set(self.pids()) - stopped:
            for pid in fresh:
                kill(pid, signal.SIGSTOP)
            stopped |= fresh

    def thaw(self) -> None:
        """SIGCONT for every process, and for each nsenter, which stopped with its child."""
        for pid in self.pids():
            kill(pid, signal.SIGCONT)
            with contextlib.suppress(OSError, IndexError):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                if b"nsenter" in Path(f"/proc/{parent}/cmdline").read_bytes():
                    kill(parent, signal.SIGCONT)

    def kill(self, name: str) -> None:
        """SIGKILL for every process whose program is called that."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, with all that runs and is mounted there."""
        self._unshare.kill()
        self._unshare.wait()
        for stream in (self._unshare.stdin, self._unshare.stdout, self._log):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()


class Wire:
    """The link of a host to the server, as a pair of interfaces in their two networks."""

    def __init__(self, server: Namespaces, number: int) -> None:
        self._server = server
        self._tag = f"uvm{secrets.token_hex(3)}"
        self.server_address, self._address = f"10.213.{number}.1", f"10.213.{number}.2"

    def connect(self, host: Namespaces) -> None:
        """Put the link in place."""
        near, far = f"{self._tag}s", f"{self._tag}h"
        _ip("link", "add", near, "type", "veth", "peer", "name", far)
        for name, end, address in ((near, self._server, self.server_address), (far, host, self._address)):
            _ip("link", "set", name, "netns", str(end.pid))
            self._on(end, "addr", "add", f"{address}/30", "dev", name)
            self._on(end, "link", "set", name, "up")

    def cut(self) -> None:
        """Nothing gets through, and neither end is told."""
        self._on(self._server, "link", "set", f"{self._tag}s", "down")

    def mend(self) -> None:
        """Whole again."""
        self._on(self._server, "link", "set", f"{self._tag}s", "up")

    def _on(self, end: Namespaces, *words: str) -> None:
        subprocess.run(["nsenter", "--target", str(end.pid), "--net", "ip", *words], check=True)


class NoWire(Wire):
    def __init__(self) -> None:
        """A network without links."""

    def connect(self, host: Namespaces) -> None:
        """There is nobody to connect to yet."""


def bind(source: str | Path, target: str | Path) -> str:
    """A line of a shell script that shows a folder at a second path."""
    return f"mount --rbind {shlex.quote(str(source))} {shlex.quote(str(target))}\n"


def own_tmp(kept: Iterable[Path]) -> str:
    """A shell script that gives a mount namespace its own /tmp, in which some folders are still where they were."""
    lines = ["mount -t tmpfs -o mode=1777 tmpfs /mnt"]
    for path in kept:
        if path.is_relative_to("/tmp"):
            lines += [f"mkdir -p {shlex.quote(f'/mnt{str(path)[4:]}')}", bind(path, f"/mnt{str(path)[4:]}").rstrip()]
    return "\n".join([*lines, bind("/mnt", "/tmp")])


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def kill(pid: int, number: int) -> None:
    """Send a signal to what may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
