"""What runs inside a kernel of support/kernels.py: the first process, which starts services and then what tests ask.

It gets what it needs as ``name=value`` words of the kernel's command line. It stands alone: no other module of the
tests is imported, since each kernel starts it with nothing but an interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from typing import IO, Any

# `/` is this machine's own, read-only. What has to be written lies in memory, or in the folder of this kernel.
_START = """\
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mkdir -p /run/lock /run/rpcbind /run/modules/lib
for folder in $(echo "$writable" | tr : ' '); do mount -t hostfs writable "$folder" -o "$folder"; done
mount -t tmpfs -o mode=1777 local "$local"
mkdir -m 1777 "$local/tmp" "$local/cache" "$local/home"
mount --bind "$shared/hosts" /etc/hosts
hostname "$name"
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up

# The modules lie elsewhere than where the kernel looks.
ln -s /usr/lib/uml/modules /run/modules/lib/modules
printf '#!/bin/sh\\nexec modprobe -d /run/modules "$@"\\n' >/run/modprobe
chmod +x /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
/run/modprobe -a nfsv3 nfsv4 lockd

# What the daemons remember of each other lies in the kernel's folder: it outlives the kernel.
state=$shared/$name/state
mkdir -p "$state/sm" "$state/sm.bak" "$state/rpc_pipefs" "$state/v4recovery"
touch "$state/etab" "$state/rmtab" "$state/state"
chown statd "$state/sm" "$state/sm.bak" "$state/state"
mount --bind "$state" /var/lib/nfs
mount -t rpc_pipefs rpc /var/lib/nfs/rpc_pipefs
rpcbind -w
rpc.statd
"""
_SERVE = """\
mount /dev/ubda /srv
/run/modprobe nfsd
mount -t nfsd nfsd /proc/fs/nfsd
for setting in fs/nfsd/nfsv4leasetime fs/nfsd/nfsv4gracetime sys/fs/nfs/nlm_grace_period; do
    echo "$lease" >"/proc/$setting"
done
exportfs -o rw,sync,no_root_squash,no_subtree_check,fsid=0 '*:/srv'
rpc.mountd
rpc.nfsd 8
"""
# A server tells the clients that it is back; a client tells the server that its locks are gone.
_NOTIFY = "sm-notify -f\n"


class _Agent:
    """Runs what others put into a folder as NAME.command; answers with NAME.out, .err and, last, .status."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self._running: dict[int, tuple[subprocess.Popen[bytes], str, IO[bytes], IO[bytes]]] = {}
        self._daemons = _processes()

    def serve(self) -> None:
        """Start what is new, and reap what ended, as a first process must."""
        with open(f"{self._folder}/up", "w"):
            pass
        while True:
            for name in os.listdir(self._folder):
                if name.endswith(".command") and name not in self._seen:
                    self._seen.add(name)
                    self._start(name.removesuffix(".command"))
            self._reap()
            time.sleep(0.02)

    def _start(self, name: str) -> None:
        with open(f"{self._folder}/{name}.command") as file:
            command: dict[str, Any] = json.load(file)
        if not command["words"]:  # end all that was started here
            for pid in _processes() - self._daemons:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            command["words"] = ["true"]
        out, err = (open(f"/run/{name}.{kind}", "w+b") for kind in ("out", "err"))  # noqa: SIM115
        try:
            child = subprocess.Popen(
                command["words"],
                env=command["env"],
                cwd=command["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError as error:
            err.write(f"{error}\n".encode())
            self._answer(name, out, err, 127)
        else:
            # Kept, since a Popen that is dropped reaps its process itself.
            self._running[child.pid] = child, name, out, err

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid in self._running:
                    child, name, out, err = self._running.pop(pid)
                    child.returncode = os.waitstatus_to_exitcode(status)
                    self._answer(name, out, err, child.returncode)

    def _answer(self, name: str, out: IO[bytes], err: IO[bytes], status: int) -> None:
        # Through memory: what is written to the folder may be seen there only when the file is closed.
        for kind, written in (("out", out), ("err", err)):
            with open(f"{self._folder}/{name}.{kind}", "wb") as answer:
                written.seek(0)
                answer.write(written.read())
            written.close()
            os.unlink(written.name)
        with open(f"{self._folder}/{name}.part", "w") as answer:
            answer.write(str(status))
        os.rename(f"{self._folder}/{name}.part", f"{self._folder}/{name}.status")


def _processes() -> set[int]:
    """All but the kernel's own threads."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if file.read():
                found.add(int(pid))
    return found


def main() -> None:
    """Be the first process of a kernel."""
    subprocess.run(["/bin/mount", "-t", "proc", "proc", "/proc"], check=True)
    with open("/proc/cmdline") as file:
        words = dict(word.split("=", 1) for word in file.read().split() if "=" in word)
    wanted = {name: words.get(name, "") for name in ("name", "address", "shared", "writable", "local", "lease")}
    script = _START + (_SERVE if wanted["name"] == "server" else "") + _NOTIFY
    env = {**wanted, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/run"}
    subprocess.run(["/bin/sh", "-euc", script], env=env, check=True, stdin=subprocess.DEVNULL)
    _Agent(f"{wanted['shared']}/{wanted['name']}/commands").serve()


if __name__ == "__main__":
    main()
