"""Hosts on this machine that share a volume over GlusterFS, a real distributed filesystem.

A host is a set of namespaces (its own processes, hostname, mounts and, if asked, network) with a GlusterFS client, so
that it can be frozen, cut off or lost whole. All hosts see the volume at the same path, as on a cluster. What is killed
is killed with its namespace; nothing outlives the test process, even if that is killed itself.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support import need
from support.herd import read_log
from support.project import Project
from support.shim import Shim, install_shim
from support.uvs import uv

# Reaps what is orphaned in the namespace, as an init must. Ends when the pipe does that the test process holds.
_INIT = """\
import os, signal, socket, subprocess, sys, time
hostname, folder, seen_at, wanted, *command = sys.argv[1:]
socket.sethostname(hostname)
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
_counter = itertools.count()


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
    ) -> None:
        """
        :param command: what to run there, beside the init.
        :param folder: a folder of this machine, and where it is seen there.
        :param mount: a path that the command mounts something on.
        :param network: makes a network of its own, whose links this sets up before the command starts.
        """
        self.name = name
        self.own_network = network is not None
        kinds = ["--mount", "--uts", "--ipc", "--pid", *(["--net"] if network else [])]
        self._log = log.open("ab")
        unshare = ["setpriv", "--pdeathsig", "KILL", "unshare", *kinds, "--fork", "--kill-child", "--mount-proc"]
        self._unshare = subprocess.Popen(
            [*unshare, sys.executable, "-ISc", _INIT, name, *folder, mount, *command],
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
        network = ["--net"] if self.own_network else []
        entering = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--pid", *network]
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
                _kill(pid, signal.SIGSTOP)
            stopped |= fresh

    def thaw(self) -> None:
        """SIGCONT for every process, and for each nsenter, which stopped with its child."""
        for pid in self.pids():
            _kill(pid, signal.SIGCONT)
            with contextlib.suppress(OSError, IndexError):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                if b"nsenter" in Path(f"/proc/{parent}/cmdline").read_bytes():
                    _kill(parent, signal.SIGCONT)

    def kill(self, name: str) -> None:
        """SIGKILL for every process whose program is called that."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    _kill(pid, signal.SIGKILL)

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


class _NoWire(Wire):
    def __init__(self) -> None:
        """A network without links."""

    def connect(self, host: Namespaces) -> None:
        """There is nobody to connect to yet."""


class Host(Namespaces):
    """A machine of the cluster: a client of the volume, with its own hostname, TMPDIR, uv cache and shim."""

    def __init__(
        self, name: str, volume: Volume, *, flock: bool = True, own_paths: bool = False, wire: Wire | None = None
    ) -> None:
        """
        :param flock: whether this client's flock works; without, it answers ENOSYS.
        :param own_paths: use other paths than other hosts, for the volume as well as for what is local. By default all
            is where it is on every host, as on a cluster.
        """
        self._here = volume.folder / name
        for part in ("tmp", "cache", "home"):
            (self._here / part).mkdir(parents=True)
        self.local = self._here if own_paths else volume.folder / "local"
        self.mount = str(self.local / "shared" if own_paths else volume.folder / "shared")
        for path in (self.local, self.mount):
            Path(path).mkdir(exist_ok=True)
        self.log = self._here / "uv-mutex.log"
        self.wire = wire
        self.flock = flock
        install_shim(self._here / "shim")
        address = wire.server_address if wire else "127.0.0.1"
        volfile = self._here / "client.vol"
        volfile.write_text(_client(address, volume.port, "locks" if flock else "bare", volume.ping_timeout))
        super().__init__(
            name,
            ["glusterfs", "--no-daemon", "-f", str(volfile), "-l", str(self._here / "client.log"), self.mount],
            log=self._here / "init.log",
            folder=(str(self._here), str(self.local)),
            mount=self.mount,
            network=wire,
        )

    def path(self, name: str) -> str:
        """Where something of the volume is on this host."""
        return f"{self.mount}/{name}"

    def reach(self, name: str) -> Path:
        """The same, as the test process can reach it."""
        return self.outside(self.path(name))

    def env(self, uv_version: str, *, shimmed: bool = True, **extra: str) -> dict[str, str]:
        """A whole environment block for this host.

        :param extra: more variables, or other values for these.
        """
        folders = [str(uv(uv_version).parent), "/usr/bin", "/bin"]
        return {
            "PATH": ":".join([f"{self.local}/shim/bin", *folders] if shimmed else folders),
            "HOME": f"{self.local}/home",
            "TMPDIR": f"{self.local}/tmp",
            "UV_CACHE_DIR": f"{self.local}/cache",
            "UV_LINK_MODE": "copy",
            "UV_PYTHON": os.path.realpath(sys.executable),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_MUTEX_LOG": f"{self.local}/{self.log.name}",
            "UV_MUTEX_LOG_ARGS": "1",
            **extra,
        }

    def run(
        self, words: Sequence[str], env: Mapping[str, str], name: str = "", *, timeout: float = 300
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command here, in a folder of the volume, and wait for it, its output captured."""
        return subprocess.run(
            self.enter(words, env=env, cwd=self.path(name)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )

    def start(self, words: Sequence[str], env: Mapping[str, str], name: str = "") -> subprocess.Popen[bytes]:
        """Start one command here, in a folder of the volume, its output captured."""
        return subprocess.Popen(
            self.enter(words, env=env, cwd=self.path(name)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def shims(self) -> list[int]:
        """Every shim and every `uv-mutex exec` that runs here, by its process id outside."""
        shim = Shim(self.local / "shim")
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if shim.is_called_by(os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")):
                    found.append(pid)
        return found


class Volume:
    """A GlusterFS volume, served from a folder. It offers two entries: one with file locks, one without.

    A context; its hosts end with it.
    """

    def __init__(self, folder: Path, *, networked: bool = False, dead_after: int = 10, ping_timeout: int = 4) -> None:
        """
        :param networked: serve it to hosts with networks of their own, see `host`.
        :param dead_after: seconds after which the server drops a client that it hears nothing from.
        :param ping_timeout: seconds after which a client gives up a server that it hears nothing from.
        """
        need.root()
        for name in ("glusterfsd", "glusterfs", "unshare", "nsenter", "setpriv", "ip"):
            need.executable(name)
        self.folder = folder
        self.brick = folder / "brick"
        self.brick.mkdir(parents=True)
        self.hosts: list[Host] = []
        self.port = 24007 if networked else _free_port()
        self.networked = networked
        self.dead_after = dead_after
        self.ping_timeout = ping_timeout
        volfile = folder / "server.vol"
        volfile.write_text(_server(self.brick, self.port, "0.0.0.0" if networked else "127.0.0.1", dead_after))
        command = ["glusterfsd", "--no-daemon", "-f", str(volfile), "-l", str(folder / "server.log")]
        network = _NoWire() if networked else None
        self.server = Namespaces("uvm-server", command, log=folder / "init.log", network=network)

    def host(self, name: str, **options: bool) -> Host:
        """Add a host (see Host); it ends with the volume, or earlier."""
        wire = Wire(self.server, next(_counter) % 200 + 1) if self.networked else None
        self.hosts.append(Host(name, self, wire=wire, **options))
        return self.hosts[-1]

    def close(self) -> None:
        """End the hosts and the server. The folder remains."""
        for host in self.hosts:
            host.close()
        self.server.close()

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_tree(host: Host, name: str) -> None:
    """`rm -rf` on a host; then wait until no client remembers what was there."""
    done = host.run(["rm", "-rf", host.path(name)], {"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr.decode()
    time.sleep(2)


def project_on(host: Host, name: str, **options: Any) -> str:
    """Make a project (see Project.make) on the volume; return its name there."""
    Project.make(host.reach(name), name=name, **options)
    return name


def calls(hosts: Iterable[Host]) -> list[dict[str, Any]]:
    """What the hosts' shims have logged."""
    return [line for host in hosts for line in read_log(host.log)]


def preparations(hosts: Iterable[Host]) -> int:
    """How many calls brought an environment up to date."""
    return sum(line["prepared"] for line in calls(hosts))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _server(brick: Path, port: int, address: str, dead_after: int) -> str:
    # What bounds the time until the locks of a host that fell silent are free: keepalive finds a silent client that
    # owes nothing, tcp-user-timeout one that an answer is on its way to. `gluster volume set` calls them
    # server.keepalive-time, -interval, -count and server.tcp-user-timeout.
    options = {
        "transport-type": "tcp",
        "transport.socket.bind-address": address,
        "transport.socket.listen-port": port,
        "transport.socket.keepalive": "on",
        "transport.socket.keepalive-time": max(1, dead_after - 4),
        "transport.socket.keepalive-interval": 1,
        "transport.socket.keepalive-count": 4,
        "transport.tcp-user-timeout": dead_after,
        "auth.addr.locks.allow": "*",
        "auth.addr.bare.allow": "*",
    }
    return (
        _translator("brick", "storage/posix", {"directory": brick})
        + _translator("locks", "features/locks", {}, "brick")
        + _translator("bare", "storage/posix", {"directory": brick})
        + _translator("server", "protocol/server", options, "locks", "bare")
    )


def _client(address: str, port: int, entry: str, ping_timeout: int) -> str:
    options: dict[str, Any] = {
        "transport-type": "tcp",
        "remote-host": address,
        "remote-port": port,
        "remote-subvolume": entry,
        # What bounds the time until a host that is cut off knows it; `gluster volume set … network.ping-timeout`.
        "ping-timeout": ping_timeout,
    }
    return _translator("client", "protocol/client", options)


def _translator(name: str, kind: str, options: Mapping[str, object], *below: str) -> str:
    lines = [f"volume {name}", f"  type {kind}", *(f"  option {key} {value}" for key, value in options.items())]
    if below:
        lines.append(f"  subvolumes {' '.join(below)}")
    return "\n".join([*lines, "end-volume", "", ""])


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
