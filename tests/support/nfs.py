"""Two hosts that share a folder over NFS: a server and two clients, each with a Linux kernel of its own.

The server is the kernel's own (nfsd, lockd), and so are the clients. A host here can lose power, and so can the server.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.host import PLAIN, Host
from support.index import LocalIndex
from support.kernels import Kernel, Kernels
from support.shim import Shim, install_shim

SERVER = "10.9.0.1"
CLIENTS = {"host-a": "10.9.0.2", "host-b": "10.9.0.3"}
#: Seconds for which the server keeps what a client that fell silent has locked, and for which it takes back, after a
#: restart, what was locked before. Linux's default is 90, the least that it takes is 10.
LEASE_SECONDS = 10
_TESTS = Path(__file__).parents[1]
_SERVE_INDEX = """\
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.index import LocalIndex
LocalIndex(Path(sys.argv[2]), port=int(sys.argv[3]))
time.sleep(1e6)
"""
_REACHED = """\
import socket, sys, time
until = time.monotonic() + 30
while time.monotonic() < until:
    try:
        sys.exit(socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close())
    except OSError:
        time.sleep(0.05)
sys.exit("nobody serves the index")
"""
_PROCESSES = """\
import os
found = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            found[int(pid)] = os.fsdecode(file.read()).split("\\0")
    except OSError:
        pass
print(found)
"""
_slug = re.compile(r"[^0-9a-z]+")


class NfsHost(Host):
    """A client, with the options that it mounted the folder with."""

    remembers = 0

    def __init__(self, kernel: Kernel, cluster: NfsCluster, options: str) -> None:
        self.name, self.kernel, self.options = kernel.name, kernel, options
        self._root = f"{cluster.folder}/{_slug.sub('-', options)}"
        self.mount = self._root
        self.prefix, self.local = f"{cluster.folder}/shim", str(cluster.kernels.local)
        self.log = f"{self.local}/uv-mutex.log"
        self._serving: list[subprocess.Popen[bytes]] = []

    def connect(self, folder: str) -> None:
        """Mount what the server offers, and share a folder of it, which is made."""
        os.makedirs(self._root, exist_ok=True)
        self.mount = self._root
        if self.kernel.run(["mountpoint", "-q", self._root]).returncode:
            offered = "/" if "vers=4" in self.options else "/srv"
            self._run("mount", "-t", "nfs", "-o", self.options, f"{SERVER}:{offered}", self._root)
        self.mount = f"{self._root}/{folder}"
        self._run("mkdir", "-p", "-m", "755", self.mount)

    def clean(self) -> None:
        """End all that was started here, and forget what it kept."""
        for serving in self._serving:
            serving.kill()
            serving.wait()
        self._serving.clear()
        self._run()
        self._run("sh", "-c", f"rm -rf {self.log} {self.local}/*/..?* {self.local}/*/.[!.]* {self.local}/*/*")

    def use(self, index: LocalIndex) -> None:
        """Serve the same folder at the same URL here."""
        words = [os.path.realpath(sys.executable), "-ISc"]
        serve = [*words, _SERVE_INDEX, str(_TESTS), str(index.folder), str(index.port)]
        self._serving.append(subprocess.Popen(self.kernel.enter(serve, env=PLAIN), stdin=subprocess.DEVNULL))
        self._run(*words, _REACHED, str(index.port))

    def enter(self, words: Sequence[str], *, env: Mapping[str, str], cwd: str = "/") -> list[str]:
        """A command line that runs another here, with just this environment block."""
        return self.kernel.enter(words, env=env, cwd=cwd)

    def shims(self) -> list[int]:
        """Every shim and every `uv-mutex exec` that runs here, by its process id here."""
        shim = Shim(Path(self.prefix))
        processes = ast.literal_eval(self.ask(os.path.realpath(sys.executable), "-ISc", _PROCESSES))
        return sorted(pid for pid, words in processes.items() if shim.is_called_by(words))

    def send(self, pid: int, number: int) -> None:
        """Send a signal to a process here."""
        self.run(["kill", f"-{number}", str(pid)])

    def kill(self, name: str) -> None:
        """SIGKILL for every process here whose program is called that."""
        self.run(["pkill", f"-{signal.SIGKILL:d}", "-x", name])

    def freeze(self) -> None:
        """Stop the kernel."""
        self.kernel.pause()

    def thaw(self) -> None:
        """Let the kernel go on."""
        self.kernel.resume()

    def _run(self, *words: str) -> None:
        done = self.kernel.run(words)
        assert done.returncode == 0, f"{words} on {self.name}: {done.stderr.decode()}"


class NfsCluster:
    """A server and two clients, booted. A context; `pair` connects the clients anew for each test."""

    def __init__(self, folder: Path, *, writable: Sequence[Path] = ()) -> None:
        """
        :param folder: a new folder that every user can reach.
        :param writable: folders of this machine that the hosts can write, too.
        """
        self.folder = folder
        self.kernels = Kernels(folder, writable, {"server": SERVER, **CLIENTS})
        disk = folder / "disk"
        try:
            with disk.open("wb") as file:
                file.truncate(4 << 30)
            subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", disk], check=True)
            install_shim(folder / "shim")
            self.server = Kernel(
                "server", self.kernels, memory="512M", words=[f"ubd0={disk}", f"lease={LEASE_SECONDS}"]
            )
            self.clients = [Kernel(name, self.kernels) for name in CLIENTS]
            self._boot()
        except BaseException:
            self.close()
            raise
        self._numbers = itertools.count(1)
        self._hosts: list[NfsHost] = []

    def pair(self, options: str, index: LocalIndex | None = None) -> list[NfsHost]:
        """The two hosts, in good health, with a new folder of the server mounted.

        :param options: what to mount it with, "vers=" first.
        :param index: a package index that both shall reach.
        """
        self.release()
        self._boot()
        folder = f"test-{next(self._numbers)}"
        self._hosts = [NfsHost(kernel, self, options) for kernel in self.clients]
        for host in self._hosts:
            host.clean()
            host.connect(folder)
            if index:
                host.use(index)
        return self._hosts

    def release(self) -> None:
        """End what the last test left on the hosts."""
        for host in self._hosts:
            if host.kernel.is_up:
                host.kernel.resume()
                host.clean()
        self._hosts = []

    def export(self, option: str) -> None:
        """Offer the folder with another option."""
        done = self.server.run(["exportfs", "-o", f"rw,sync,no_subtree_check,fsid=0,{option}", "*:/srv"])
        assert done.returncode == 0, done.stderr.decode()

    def close(self) -> None:
        """End the kernels. The folder remains."""
        self.kernels.close()

    def _boot(self) -> None:
        down = [kernel for kernel in (self.server, *self.clients) if not kernel.is_up]
        for kernel in down:
            kernel.begin_to_boot()
        for kernel in down:
            kernel.wait_for_boot()
