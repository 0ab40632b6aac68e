"""Linux kernels of their own, as ordinary processes (user-mode-linux), on a network of their own.

They see this machine's files, read-only, at the same paths, and run the same programs. All lie in one PID namespace, so
that nothing outlives the test process: what a kernel that was killed alone leaves behind would run on, natively, here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from support import need
from support.namespaces import Namespaces, NoWire, kill

PROGRAMS = ("linux.uml", "uml_switch", "rpcbind", "rpc.nfsd", "mount.nfs", "mke2fs", "modprobe", "nsenter", "gcc")

# Waits for a kernel's agent (see guest.py) to run a command, and ends as it did.
_RELAY = """\
import json, os, signal, sys, time
folder, command = sys.argv[1:]
stem = f"{folder}/{time.time_ns()}.{os.getpid()}"
with open(f"{stem}.new", "w") as file:
    file.write(command)
os.rename(f"{stem}.new", f"{stem}.command")
while not os.path.exists(f"{stem}.status"):
    time.sleep(0.02)
for kind, stream in (("out", sys.stdout), ("err", sys.stderr)):
    with open(f"{stem}.{kind}", "rb") as file:
        stream.buffer.write(file.read())
    stream.flush()
with open(f"{stem}.status") as file:
    status = int(file.read())
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""
# Debian 12's kernel saves 2696 bytes of a process's FPU state (up to AVX-512); on a CPU with AMX, this machine takes a
# whole state of 11008 bytes, or nothing. What lies beyond, which nobody uses here, is set to zero.
_WHOLE_STATE = """\
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
enum { PEEKTEXT = 1, PEEKUSER = 3, GETREGSET = 0x4204, SETREGSET = 0x4205 };
long ptrace(long request, long pid, void *address, void *data) {
    static char whole[65536];
    static size_t size;
    long word;
    if (request >= PEEKTEXT && request <= PEEKUSER)
        return syscall(SYS_ptrace, request, pid, address, &word) < 0 ? -1 : word;
    if (request == SETREGSET) {
        struct iovec *part = data, all = {whole, sizeof whole};
        if (!size)
            size = syscall(SYS_ptrace, GETREGSET, pid, address, &all) < 0 ? part->iov_len : all.iov_len;
        if (part->iov_len < size) {
            memset(whole, 0, size);
            memcpy(whole, part->iov_base, part->iov_len);
            all.iov_len = size;
            return syscall(SYS_ptrace, request, pid, address, &all);
        }
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
"""


class Kernels:
    """The room that kernels run in: a PID namespace, a network with a switch, and memory. A context."""

    def __init__(self, folder: Path, writable: Sequence[Path], hosts: Mapping[str, str]) -> None:
        """
        :param folder: for what belongs to the kernels; on each of them, it can be written.
        :param writable: more folders of this machine that can be written there.
        :param hosts: the address of each kernel by its name.
        """
        need.root()
        for name in PROGRAMS:
            need.executable(name)
        self.folder, self.hosts = folder, hosts
        self.writable = [folder, *writable]
        self.local = folder / "local"
        for part in (self.local, folder / "memory"):
            part.mkdir()
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in hosts.items())]
        (folder / "hosts").write_text("\n".join([*lines, ""]))
        init = folder / "init"
        guest = Path(__file__).with_name("guest.py").read_text()
        init.write_text(f"#!{os.path.realpath(sys.executable)} -ISu\n{guest}")
        init.chmod(0o755)
        source, self.library = folder / "state.c", folder / "state.so"
        source.write_text(_WHOLE_STATE)
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", self.library, source], check=True)
        # A queue of 10 packets, the default, loses some of a herd's.
        switch = (
            f"mount -t tmpfs -o size=6g memory {folder}/memory && echo 1000 >/proc/sys/net/unix/max_dgram_qlen && "
            f"exec uml_switch -daemon -unix {folder}/switch"
        )
        self.room = Namespaces("kernels", ["sh", "-c", switch], log=folder / "kernels.log", network=NoWire())
        deadline = time.monotonic() + 20
        while not (folder / "switch").exists():
            assert time.monotonic() < deadline, (folder / "kernels.log").read_text()
            time.sleep(0.01)

    def close(self) -> None:
        """End all kernels."""
        self.room.close()


class Kernel:
    """One of them."""

    def __init__(self, name: str, kernels: Kernels, *, memory: str = "1G", words: Sequence[str] = ()) -> None:
        """:param words: more of the kernel's command line."""
        self.name = name
        self.folder = kernels.folder / name
        self.commands = self.folder / "commands"
        self._kernels, self._memory, self._words = kernels, memory, words
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = self._group = 0
        self.folder.mkdir()

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def begin_to_boot(self) -> None:
        """Start it; `wait_for_boot` must follow."""
        shutil.rmtree(self.commands, ignore_errors=True)
        self.commands.mkdir()
        kernels = self._kernels
        address = kernels.hosts[self.name]
        words = [
            "linux.uml",
            f"mem={self._memory}",
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={kernels.folder}/init"),
            *("con=null", "con0=null,fd:1", f"umid={self.name}", f"uml_dir={self.folder}/uml"),
            f"eth0=daemon,52:54:00:00:00:{int(address.rpartition('.')[2]):02x},unix,{kernels.folder}/switch",
            *(f"name={self.name}", f"address={address}", f"shared={kernels.folder}", f"local={kernels.local}"),
            f"writable={':'.join(map(str, kernels.writable))}",
            *self._words,
        ]
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "TMPDIR": f"{kernels.folder}/memory",
            "LD_PRELOAD": str(kernels.library),
        }
        with (self.folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                kernels.room.enter(words, env=env),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def wait_for_boot(self) -> None:
        """Return when it takes commands."""
        assert self._process
        deadline = time.monotonic() + 90
        while not (self.commands / "up").exists():
            if not self.is_up or time.monotonic() > deadline:
                self.kill()
                text = (self.folder / "console").read_text(errors="replace")
                raise AssertionError(f"{self.name} does not boot:\n{text[-3000:]}")
            time.sleep(0.02)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self._pid = int(children.split()[0])
        self._group = os.getpgid(self._pid)

    def boot(self) -> None:
        """Start it, and return when it takes commands."""
        self.begin_to_boot()
        self.wait_for_boot()

    def kill(self) -> None:
        """Its power fails."""
        if self._process:
            # The kernel's processes are a group of their own, beside nsenter's.
            for group in filter(None, (self._group, self._process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            self._process.wait()
            shutil.rmtree(self.folder / "uml", ignore_errors=True)
            self._process, self._group = None, 0

    def pause(self) -> None:
        """Stop it; what it runs stops at its next system call."""
        kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on, and the nsenter that stopped with it."""
        assert self._process
        for pid in (self._pid, self._process.pid):
            kill(pid, signal.SIGCONT)

    def run(self, words: Sequence[str], *, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        """Run one command there, its output captured. One without words ends all that others have started."""
        command = self.enter(words, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)

    def enter(self, words: Sequence[str], *, env: Mapping[str, str], cwd: str = "/") -> list[str]:
        """A command line, for this machine, that runs another in the kernel."""
        command = json.dumps({"words": [str(word) for word in words], "env": dict(env), "cwd": cwd})
        return [sys.executable, "-ISc", _RELAY, str(self.commands), command]
