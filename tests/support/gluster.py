"""Hosts on this machine that share a volume over GlusterFS, a real distributed filesystem.

A host is a set of namespaces with a GlusterFS client, so that it can be frozen, cut off or lost whole. All hosts see
the volume at the same path, as on a cluster.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support import need
from support.container import NamespaceHost
from support.namespaces import Namespaces, NoWire, Wire
from support.shim import install_shim

_counter = itertools.count()


class GlusterHost(NamespaceHost):
    """A machine of the cluster: a client of the volume, with its own hostname, TMPDIR, uv cache and shim."""

    def __init__(
        self, name: str, volume: Volume, *, flock: bool = True, own_paths: bool = False, wire: Wire | None = None
    ) -> None:
        """
        :param flock: whether this client's flock works; without, it answers ENOSYS.
        :param own_paths: use other paths than other hosts, for the volume as well as for what is local. By default all
            is where it is on every host, as on a cluster.
        """
        self._here, self._brick = volume.folder / name, volume.brick
        for part in ("tmp", "cache", "home"):
            (self._here / part).mkdir(parents=True)
        local = self._here if own_paths else volume.folder / "local"
        self.local, self.prefix = str(local), str(local / "shim")
        self.mount = str(local / "shared" if own_paths else volume.folder / "shared")
        for path in (local, Path(self.mount)):
            path.mkdir(exist_ok=True)
        self.log = str(local / "uv-mutex.log")
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
            folder=(str(self._here), self.local),
            mount=self.mount,
            network=wire,
        )

    def read(self, name: str) -> str:
        """The text of a file of the volume, as the server has it. A client can keep another one of the same size."""
        return (self._brick / name).read_text()

    def reach(self, name: str) -> Path:
        """Where something of the volume is for the test process."""
        return self.outside(self.path(name))


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
        self.hosts: list[GlusterHost] = []
        self.port = 24007 if networked else _free_port()
        self.networked = networked
        self.dead_after = dead_after
        self.ping_timeout = ping_timeout
        volfile = folder / "server.vol"
        volfile.write_text(_server(self.brick, self.port, "0.0.0.0" if networked else "127.0.0.1", dead_after))
        command = ["glusterfsd", "--no-daemon", "-f", str(volfile), "-l", str(folder / "server.log")]
        network = NoWire() if networked else None
        self.server = Namespaces("uvm-server", command, log=folder / "init.log", network=network)

    def host(self, name: str, **options: bool) -> GlusterHost:
        """Add a host (see GlusterHost); it ends with the volume, or earlier."""
        wire = Wire(self.server, next(_counter) % 200 + 1) if self.networked else None
        self.hosts.append(GlusterHost(name, self, wire=wire, **options))
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
